"""Modulated filters (scales and shifts by group, and across runs) and style mixing, from a run's files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from gantransfer.report.charts import linear_ticks, svg
from gantransfer.report.formatting import finite, number
from gantransfer.report.pictures import cut, style
from gantransfer.report.reading import Row, RunFiles, as_dict, as_list, as_rows

ENDS = ("low", "first", "median", "third", "high", "min", "max")
KINDS = (("gamma", "Scale γ", 1.0), ("beta", "Shift β", 0.0))  # name, title, value that changes nothing
MIXED = 7  # rows and columns of the grid of style mixing, its margins included
MOST_COLUMNS = 500  # of the sorted comparison: more are averaged


def modulated(run: RunFiles) -> dict[str, Any] | None:
    """Everything the section shows, or None for a run without modulated filters."""
    record = run.json("analysis/modulation.json")
    groups = [row for row in as_rows(record.get("groups")) if "group" in row and all(
        all(finite(as_dict(row.get(kind)).get(end)) for end in ENDS) for kind, _, _ in KINDS)]
    if not groups:
        if record:
            run.notes.append("analysis/modulation.json does not have the expected layout and is not shown.")
        return None
    charts = [(title, box_chart([(f"Group {row['group']}", row[kind]) for row in groups], title, neutral))
              for kind, title, neutral in KINDS]
    compared = as_dict(record.get("compared"))
    return {"kind": str(record.get("kind", "")), "charts": charts, "sorted": _sorted(compared),
            "convolution": str(compared.get("convolution", ""))}


def box_chart(boxes: Sequence[tuple[str, Row]], title: str, neutral: float) -> str:
    """Box plots side by side: box from quartile to quartile, whiskers, extremes as rings, and a line at `neutral`."""
    low = min(neutral, *(box["min"] for _, box in boxes))
    high = max(neutral, *(box["max"] for _, box in boxes))
    margin = (high - low or 1) * 0.06
    low, high = low - margin, high + margin
    width, height, left, bottom = 120 + 150 * len(boxes), 300, 60, 34

    def y(value: float) -> float:
        return 12 + (height - 12 - bottom) * (high - value) / (high - low)

    parts = [f'<path class="grid" d="M{left} {y(tick):.1f}H{width - 12}"/>'
             f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
             for tick in linear_ticks(low, high)]
    parts.append(f'<path class="rule" d="M{left} {y(neutral):.1f}H{width - 12}"/>')
    for i, (name, box) in enumerate(boxes):
        x = left + 75 + 150 * i
        tip = ", ".join(f"{end} {number(box[end])}" for end in ENDS)
        parts += [
            f'<g stroke="var(--a)" fill="none" stroke-width="1.5"><title>{escape(name)}: {tip}</title>',
            *(f'<path d="M{x} {y(box[a]):.1f}V{y(box[b]):.1f}"/>' for a, b in (("low", "first"), ("third", "high"))),
            *(f'<path d="M{x - 14} {y(box[end]):.1f}h28"/>' for end in ("low", "high")),
            f'<rect x="{x - 26}" y="{y(box["third"]):.1f}" width="52" fill="var(--a)" fill-opacity=".18" '
            f'height="{max(1.0, y(box["first"]) - y(box["third"])):.1f}"/>',
            f'<path stroke-width="3" d="M{x - 26} {y(box["median"]):.1f}h52"/>',
            *(f'<circle cx="{x}" cy="{y(box[end]):.1f}" r="3"/>' for end, inner in (("min", "low"), ("max", "high"))
              if box[end] != box[inner]),
            "</g>",
            f'<text x="{x}" y="{height - 10}" text-anchor="middle">{escape(name)}</text>',
        ]
    return svg(width, height, title, parts)


def _sorted(compared: Row) -> str:
    """Rows of runs, columns of scales: the strips of Appendix E; empty where nothing was compared."""
    names, rows = [str(name) for name in as_list(compared.get("runs"))], as_list(compared.get("rows"))
    if len(names) < 2 or len(rows) != len(names):
        return ""
    if not as_list(rows[0]):
        return "<p>No run leads the others in any scale.</p>"
    counts = as_list(compared.get("columns"))
    if not all(map(finite, counts)) or any(
            len(as_list(row)) != len(rows[0]) or not all(map(finite, row)) for row in rows):
        return ""
    per = -(-len(rows[0]) // MOST_COLUMNS)
    shown = [[sum(row[i : i + per]) / len(row[i : i + per]) for i in range(0, len(row), per)] for row in rows]
    left, pitch = 16 + 7 * max(map(len, names)), 860 / len(shown[0])
    parts = []
    for r, (name, row) in enumerate(zip(names, shown, strict=True)):
        top = 4 + 30 * r
        parts.append(f'<text x="{left - 8}" y="{top + 18}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="860" height="26" fill="var(--wash)"/><g fill="var(--a)">')
        parts += [f'<rect x="{left + c * pitch:.2f}" y="{top}" width="{pitch + 0.3:.2f}" height="26" '
                  f'fill-opacity="{min(1.0, max(0.0, value)):.2f}"/>' for c, value in enumerate(row)]
        parts.append("</g>")
    start = 0.0
    for count in counts[:-1]:
        start += count / per * pitch
        parts.append(f'<path class="rule" d="M{left + start:.1f} 0V{4 + 30 * len(shown)}"/>')
    return svg(left + 872, 8 + 30 * len(shown), "Sorted comparison of scales", parts)


def mixed(run: RunFiles) -> dict[str, Any] | None:
    """The grid of style mixing, or None."""
    sheet = run.picture("samples/style-mixing.png")
    if sheet is None:
        return None
    cells = cut(sheet, MIXED, MIXED)
    if not cells:
        run.notes.append("samples/style-mixing.png does not have the expected size and is not shown.")
        return None
    rows = [[run.uri(cell) for cell in row] for row in cells]
    return {"destinations": rows[0][1:], "rows": [{"source": row[0], "uris": row[1:]} for row in rows[1:]],
            "style": style(cells[0][0].width)}
