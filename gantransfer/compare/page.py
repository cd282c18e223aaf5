"""The page of a comparison: table, convergence curves, one grid of samples per row."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from gantransfer import report
from gantransfer.report.charts import Series, line_chart
from gantransfer.report.formatting import duration, number

Row = dict[str, Any]
# Colours that differ in hue and lightness, for light and dark pages; a second round of rows is dashed.
LIGHT = ("#1d5fa8", "#b4530f", "#2f7d4f", "#8a3d9c", "#a32b3a", "#6b6f00", "#0f7f8c", "#55606c")
DARK = ("#7db3f5", "#f0a468", "#7fcf9c", "#d59ae3", "#f28b95", "#cfd35a", "#67c9d6", "#aab4be")


def render(source: str, data: str, result: Row, out: Path) -> str:
    """A self-contained HTML page of a comparison's `result` (see `gantransfer.compare.compare`)."""
    style = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    floor = next((row["floor"] for row in result["rows"] if row["floor"] is not None), None)
    series = [Series(row["label"], [(p["step"], p["distance"]) for p in row["curve"]], f"s{i % len(LIGHT)}",
                     dashed=i >= len(LIGHT)) for i, row in enumerate(result["rows"])]
    rules = [] if floor is None else [("floor", floor)]
    chart = line_chart(series, title="Distance over iterations", height=460, rules=rules)
    title = f"{escape(source)} on {escape(Path(data).name)}"
    sections = [
        f"<h1>{title}</h1><p class='lead'>{escape(result['protocol'])}</p>",
        f"<section><h2>Result</h2><p>Fréchet distance on the reported split: mean and standard deviation over seeds."
        f"</p>{_table(result)}</section>",
        f"<section><h2>Convergence</h2><p>Distance on the selection split, mean over seeds.</p>{chart}</section>"
        if chart else "",
        f"<section><h2>Samples</h2>{_grids(result, out)}</section>",
    ]
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{title}: comparison</title><style>{style}{_style()}</style><main>{''.join(sections)}</main></html>\n"
    )


def _style() -> str:
    def colours(values: tuple[str, ...]) -> str:
        return ":root {" + "".join(f"--s{i}: {value};" for i, value in enumerate(values)) + "}"

    return (
        f"{colours(LIGHT)}@media screen and (prefers-color-scheme: dark) {{{colours(DARK)}}}"
        ".rows td, .rows th { padding: 6px 18px 6px 0; border-bottom: 1px solid var(--hair); }"
        ".rows td { font-variant-numeric: tabular-nums; text-align: right; }"
        ".rows th[scope=col]:not(:first-child) { text-align: right; }"
        ".sheets { display: flex; flex-wrap: wrap; gap: 32px; } .sheets img { width: auto; height: auto; }"
        ".rows i { display: inline-block; box-sizing: border-box; width: 12px; height: 12px; "
        "border-radius: 3px; margin-right: 8px; }"
    )


def _table(result: Row) -> str:
    head = "".join(f"<th scope='col'>{name}</th>" for name in
                   ("", "runs", "before", "distance", "spread", "best at iteration", "time"))
    lines = []
    for i, row in enumerate(result["rows"]):
        cells = [f"{row['finished']}/{row['seeds']}", number(row["before"]), number(row["distance"]),
                 number(row["distance_spread"]), number(row["best_step"]), duration(row["seconds"])]
        colour = f"var(--s{i % len(LIGHT)})"
        fill = f"background:{colour}" if i < len(LIGHT) else f"border:2px dashed {colour}"
        mark = f"<i style='{fill}'></i>"
        lines.append(f"<tr><th scope='row'>{mark}{escape(row['label'])}</th>"
                     + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    failed = [f"<li>{escape(c['name'])} {c['status']}: {escape(c['error'])}</li>"
              for c in result["cells"] if c["status"] != "finished"]
    notes = f"<ul>{''.join(failed)}</ul>" if failed else ""
    return f"<div class='wide'><table class='rows'><tr>{head}</tr>{''.join(lines)}</table></div>{notes}"


def _grids(result: Row, out: Path) -> str:
    sheets = []
    for row in result["rows"]:
        cell = next((c for c in result["cells"] if c["label"] == row["label"] and c["status"] == "finished"), None)
        if cell is not None:
            name = f"{row['label']}, seed {cell['seed']}, distance {number(cell['distance'])}"
            sheets.append(_picture(out / cell["name"] / "samples" / "after.png", name))
    if sheets:
        first = next(c for c in result["cells"] if c["status"] == "finished")
        sheets.append(_picture(out / first["name"] / "samples" / "real.png", "training images"))
    return f"<div class='sheets'>{''.join(sheets)}</div>" if any(sheets) else "<p>No run is finished yet.</p>"


def _picture(path: Path, name: str) -> str:
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return (f"<figure><figcaption><b>{escape(name)}</b></figcaption>"
            f"<img alt='{escape(name)}' src='data:image/png;base64,{content}'></figure>")
