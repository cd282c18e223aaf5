"""Numbers, sizes and times as people read them."""

from __future__ import annotations

import json
import math
from typing import Any

MISSING = "–"


def finite(value: Any) -> bool:
    """Whether `value` is an ordinary number (no bool, NaN or infinity)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> str:
    """Three significant digits, thousands separated, a true minus; a dash for what is not a number."""
    if not finite(value):
        return MISSING
    size = abs(value)
    if value == 0:
        text = "0"
    elif size >= 1000 or (isinstance(value, int) and size >= 1):
        text = f"{value:,.0f}"
    elif size >= 0.001:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    else:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """Two decimals, three below 0.1, with an explicit sign: similarity scores."""
    return f"{value:+.{2 if abs(value) >= 0.1 else 3}f}".replace("-", "−") if abs(value) < 100 else number(value)


def compact(value: float) -> str:
    """A short axis label: 0.5, 20, 40k, 1.5M, 2e−4."""
    if 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def size(count: Any) -> str:
    """Bytes in decimal units: 512 B, 31.0 KB, 1.4 MB."""
    if not finite(count):
        return MISSING
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"


def duration(seconds: Any) -> str:
    """8.4 s, 71 s, 3 min 20 s, 2 h 5 min."""
    if not finite(seconds) or seconds < 0:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(part: Any, whole: Any) -> str:
    """`part` of `whole` in per cent, two significant digits below ten."""
    if not finite(part) or not finite(whole) or whole <= 0:
        return MISSING
    share = 100 * part / whole
    return f"{share:.2g} %" if share < 10 else f"{share:.0f} %"


def plain(value: Any, limit: int = 240) -> str:
    """Any JSON value as one short line of text: settings exactly as they were recorded."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "−")
    if isinstance(value, (list, tuple)) and all(isinstance(v, (str, int, float)) for v in value):
        text = ", ".join(plain(v) for v in value)
    elif isinstance(value, (dict, list, tuple)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 1].rstrip(", ") + "…"


def counted(count: int, one: str, many: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count:,} {one if count == 1 else many}"
