"""What the scan found out about the target images."""

from __future__ import annotations

from typing import Any

from gantransfer.report.formatting import counted, finite, number, plain
from gantransfer.report.reading import Row, as_dict, as_list, as_rows

SHOWN = ("sizes", "modes", "conversions", "ignored", "fingerprint")  # keys of data.json, as recorded


def data_facts(data: Row) -> dict[str, Any] | None:
    """Counts, sizes, modes, conversions, duplicates and bad files of the target images."""
    if not data:
        return None
    counts = {str(k): v for k, v in as_dict(data.get("counts")).items()}
    duplicates = [[plain(p) for p in group] for group in as_list(data.get("duplicates")) if isinstance(group, list)]
    bad = [(plain(row.get("path", "?")), plain(row.get("reason", ""))) for row in as_rows(data.get("bad"))]
    items = []
    if counts:
        total = sum(v for v in counts.values() if finite(v))
        items.append(("images", f"{number(total)} in {counted(len(counts), 'class', 'classes')}"))
    splits = {k: _total(v) for k, v in as_dict(data.get("splits")).items()}
    shown = {"splits": splits, **{k: data[k] for k in SHOWN if k in data}}
    items += [(k, _recorded(v)) for k, v in shown.items() if v not in ({}, None)]
    same = counted(len(duplicates), "group of equal images", "groups of equal images")
    items.append(("duplicates", same if duplicates else "none"))
    items.append(("bad files", str(len(bad)) if bad else "none"))
    return {"items": items, "counts": counts, "duplicates": duplicates, "bad": bad}


def _total(counts: Any) -> Any:
    """The images of a split that is recorded class by class."""
    return sum(v for v in counts.values() if finite(v)) if isinstance(counts, dict) else counts


def _recorded(value: Any) -> str:
    """``{"32x32": 900}`` -> ``32x32 (900)``; lists of sentences as sentences; anything else as recorded."""
    if isinstance(value, dict) and value and all(finite(v) for v in value.values()):
        return plain(", ".join(f"{k} ({number(v)})" for k, v in value.items()), 600)
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return plain("; ".join(value), 600)
    return "none" if value in ([], {}, None, "") else plain(value, 600)
