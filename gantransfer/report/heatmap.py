"""A table of numbers as shades of one colour, drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from gantransfer.report.charts import svg
from gantransfer.report.formatting import finite, number


def heatmap(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], *, title: str) -> str:
    """Rows x columns of non-negative numbers as shades of one colour; empty when there is nothing to draw."""
    if not values or not values[0]:
        return ""
    top = max((v for row in values for v in row if finite(v)), default=0) or 1
    left = min(220, 16 + 7 * max(len(str(r)) for r in rows))
    pitch = max(8.0, min(26.0, (1052 - left) / len(columns)))
    upright = pitch >= 11 and max(len(str(c)) for c in columns) <= 2
    below = 20 if upright else 12 + 6 * min(16, max(len(str(c)) for c in columns))
    parts = []
    for r, row in enumerate(values):
        y = 4 + 20 * r
        name = escape(_short(rows[r], 30))
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{pitch * len(row):.1f}" height="18" fill="var(--wash)"/>')
        parts.append('<g fill="var(--a)">')
        for c, value in enumerate(row):
            if finite(value):
                tip = escape(f"{rows[r]} · {columns[c]}: {number(value)}")
                parts.append(
                    f'<rect x="{left + c * pitch:.1f}" y="{y}" width="{pitch - 1:.1f}" height="18" '
                    f'fill-opacity="{max(0.0, value) / top:.2f}"><title>{tip}</title></rect>'
                )
        parts.append("</g>")
    y = 4 + 20 * len(values)
    for c, name in enumerate(columns):
        x = left + (c + 0.5) * pitch
        place = f'x="{x:.1f}" y="{y + 12}" text-anchor="middle"'
        if not upright:
            place = f'transform="translate({x + 4:.1f} {y + 4}) rotate(-90)" text-anchor="end"'
        parts.append(f'<text {place} class="small">{escape(_short(name, 16))}</text>')
    return svg(math.ceil(left + pitch * len(columns)), y + below, title, parts)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
