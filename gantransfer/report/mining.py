"""What a miner did: the same latents before it, behind it, and after fine-tuning; which source samples come from.

The rows are a run's miners: one, one per class, or one per source.
"""

from __future__ import annotations

import re
from typing import Any

from gantransfer.report.charts import Series, line_chart
from gantransfer.report.curves import points
from gantransfer.report.formatting import finite, percent
from gantransfer.report.pictures import cut, style
from gantransfer.report.reading import Row, RunFiles, as_list

STAGES = (
    ("source", "Source", "without a miner"),
    ("mined", "Mined", "the miner alone (w/o FT)"),
    ("tuned", "Fine-tuned", "the kept generator"),
)
ROWS_SHOWN = 24
COLOURS = ("a", "b", "c")
SHARES = {"p": "Share of each source over iterations", "won": "Supersamples that each source wins over iterations"}


def mined(run: RunFiles, stats: list[Row]) -> dict[str, Any] | None:
    """Everything the section shows, or None where nothing was mined."""
    record = run.json("samples/mining.json")
    names, sources = ([str(name) for name in as_list(record.get(key))] for key in ("rows", "sources"))
    columns = record.get("columns")
    found = [(*stage, _rows(run, stage[0], columns, len(names))) for stage in STAGES] if names else []
    found = [stage for stage in found if stage[3]]
    if not found:
        return None
    rows = [
        {
            "name": name,
            "groups": [{"label": label, "uris": [run.uri(cell) for cell in cells[r]]} for _, label, _, cells in found],
        }
        for r, name in enumerate(names[:ROWS_SHOWN])
    ]
    shares = [share for share in as_list(record.get("p")) if finite(share)]
    return {
        "heads": [{"label": label, "note": note} for _, label, note, _ in found],
        "rows": rows,
        "total": len(names),
        "style": style(found[0][3][0][0].width),
        "picked": _picked(run, as_list(record.get("picked")), columns, sources),
        "p": [{"name": name, "share": percent(share, 1)} for name, share in zip(sources, shares, strict=False)],
        "charts": {name: share_chart(stats, sources, name) for name in SHARES},
    }


def share_chart(stats: list[Row], sources: list[str], name: str) -> str:
    """The selector's quantity `name` of `SHARES`, for every source, over iterations; empty where there is none."""
    numbers = {key: int(found[1]) for row in stats for key in row if (found := re.fullmatch(rf"\w+/{name}(\d+)", key))}
    series = [
        Series(sources[number - 1] if number <= len(sources) else key, points(stats, key),
               COLOURS[i % len(COLOURS)], dashed=i >= len(COLOURS))
        for i, (key, number) in enumerate(sorted(numbers.items(), key=lambda item: item[1]))
    ]
    return line_chart(series, title=SHARES[name], height=240) if series else ""


def _rows(run: RunFiles, name: str, columns: Any, rows: int) -> list[list[Any]]:
    picture = run.picture(f"samples/{name}.png")
    if picture is None:
        return []
    cells = cut(picture, columns if isinstance(columns, int) else None, min(rows, 40))
    if not cells:
        run.notes.append(f"samples/{name}.png is no grid of {rows} rows and is not shown.")
    return cells


def _picked(run: RunFiles, picked: list[Any], columns: Any, sources: list[str]) -> list[Row]:
    """Samples as the selector draws them, each with its source."""
    if not (picked and isinstance(columns, int) and columns > 0):
        return []
    cells = [cell for row in _rows(run, "picked", columns, -(-len(picked) // columns)) for cell in row]
    known = [i for i in picked if isinstance(i, int) and 0 <= i < len(sources)]
    return [{"uri": run.uri(cell), "source": sources[i]} for cell, i in zip(cells, known, strict=False)]
