"""From run directories to the table of a comparison."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gantransfer.compare.cells import Cell, Outcome

Row = dict[str, Any]


def summarise(labels: Sequence[str], planned: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> Row:
    """Rows per label and entries per cell; JSON-ready."""
    entries = [{"name": c.name, "label": c.label, "method": c.method, "seed": c.seed, "path": str(c.folder),
                **outcomes[c.name], **_read(c.folder)} for c in planned]
    protocols = sorted({e["protocol"] for e in entries if e.get("protocol")})
    different = f"not comparable, {len(protocols)} protocols: {' | '.join(protocols)}"
    return {
        "format_version": 1,
        "rows": [_row(label, [e for e in entries if e["label"] == label]) for label in labels],
        "cells": entries,
        "protocol": protocols[0] if len(protocols) == 1 else different if protocols else "",
    }


def _read(folder: Path) -> Row:
    """What a run says of itself; only the curve if it is not finished."""
    curve = [{"step": line["step"], "nimg": line["nimg"], "distance": line["frechet"]}
             for line in _lines(folder / "metrics.jsonl") if line.get("frechet") is not None]
    file = folder / "result.json"
    if not file.is_file():
        return {"curve": curve}
    result = json.loads(file.read_text(encoding="utf-8"))
    by_metric = {row["metric"]: row for row in result.get("rows", ())}
    headline = by_metric.get("frechet", {})
    keep = ("best_step", "steps", "nimg", "seconds", "adapter_bytes", "generator_bytes", "protocol")
    return {
        "curve": curve, "distance": headline.get("after"), "before": headline.get("before"),
        "floor": headline.get("floor"), **{k: result.get(k) for k in keep},
        "metrics": {name: row["after"] for name, row in by_metric.items()},
    }


def _lines(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _row(label: str, entries: Sequence[Row]) -> Row:
    done = [e for e in entries if e["status"] == "finished"]
    distances = [e["distance"] for e in done if e.get("distance") is not None]

    def mean(key: str) -> float | None:
        values = [e[key] for e in done if e.get(key) is not None]
        return statistics.fmean(values) if values else None

    best = mean("best_step")
    return {
        "label": label, "method": entries[0]["method"], "seeds": len(entries), "finished": len(done),
        "distance": mean("distance"),
        "distance_spread": statistics.stdev(distances) if len(distances) > 1 else None,
        "distance_range": [min(distances), max(distances)] if distances else None,
        "before": mean("before"), "floor": mean("floor"), "best_step": None if best is None else round(best),
        "seconds": mean("seconds"), "curve": mean_curve([e["curve"] for e in entries]),
    }


def mean_curve(curves: Sequence[Sequence[Row]]) -> list[Row]:
    """Mean distance over seeds at every evaluated iteration (of those runs that came so far)."""
    at: dict[int, list[Row]] = {}
    for point in (point for curve in curves for point in curve):
        at.setdefault(point["step"], []).append(point)
    return [{"step": step, "nimg": here[0]["nimg"], "distance": statistics.fmean(p["distance"] for p in here),
             "low": min(p["distance"] for p in here), "high": max(p["distance"] for p in here)}
            for step, here in sorted(at.items())]


def as_csv(result: Row) -> str:
    """One line per cell, metrics as columns."""
    metrics = list(dict.fromkeys(name for cell in result["cells"] for name in cell.get("metrics", ())))
    columns = ["label", "method", "seed", "status", "distance", "before", "floor", "best_step", "steps", "nimg",
               "seconds", "adapter_bytes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *metrics, "protocol", "path"])
    for cell in result["cells"]:
        writer.writerow([*(cell.get(c) for c in columns), *(cell.get("metrics", {}).get(m) for m in metrics),
                         cell.get("protocol"), cell["path"]])
    return text.getvalue()
