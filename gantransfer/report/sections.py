"""The sections of the report as plain values for the template; None where the run recorded nothing."""

from __future__ import annotations

import base64
import re
from typing import Any

from PIL import Image

from gantransfer.report.formatting import finite, number, percent, plain
from gantransfer.report.names import metric_name, metric_note, metric_order
from gantransfer.report.pictures import cut, style
from gantransfer.report.reading import Row, RunFiles, as_dict, as_list, as_rows

GRIDS = (
    ("before", "Before", "the new classes at step 0"),
    ("after", "After", "the best step, same latents"),
    ("real", "Real", "training images"),
)
ROWS_SHOWN = 24  # classes in the before / after table
ROWS_IN_TIME = 12
PER_PAGE = 4  # samples per class and grid that stand side by side at double size
NOTED = ("accuracy", "spread")  # columns of the table per class that need a word of explanation
STEPS_SHOWN = 14  # recorded steps that fit beside each other
LARGEST_ANIMATION = 600_000  # bytes that are put into the page; a larger one is named only


def classes_of(run: RunFiles, config: Row, data: Row) -> tuple[list[str], int | None]:
    """(class names in the order of the grids' rows, columns of the grids or None)."""
    layout = run.json("samples/classes.json")
    asked = as_dict(config.get("data")).get("classes")
    names = as_list(layout.get("classes")) or as_list(data.get("classes")) or as_list(asked)
    columns = layout.get("columns")
    return [str(n) for n in names], columns if isinstance(columns, int) and columns > 0 else None


def _cells(run: RunFiles, name: str, columns: int | None, rows: int) -> list[list[Image.Image]]:
    picture = run.picture(name)
    if picture is None:
        return []
    cells = cut(picture, columns, rows)
    if not cells:
        run.notes.append(f"{name} is no grid of {columns or 'any number of'} columns and {rows} rows and is not shown.")
    return cells


def grids(run: RunFiles, classes: list[str], columns: int | None) -> dict[str, Any] | None:
    """Before, after and real samples: one row per class, pages of four columns."""
    found = [(*grid, _cells(run, f"samples/{grid[0]}.png", columns, len(classes))) for grid in GRIDS] if classes else []
    found = [grid for grid in found if grid[3]]
    if not found:
        return None
    width = max(len(cells[0]) for *_, cells in found)
    pages = []
    for start in range(0, width, PER_PAGE):
        rows = [
            {
                "name": name,
                "groups": [
                    {"label": label, "uris": [run.uri(c) for c in cells[r][start : start + PER_PAGE]]}
                    for _, label, _, cells in found
                ],
            }
            for r, name in enumerate(classes[:ROWS_SHOWN])
        ]
        pages.append({"first": start + 1, "last": min(start + PER_PAGE, width), "rows": rows})
    heads = [{"label": label, "note": note} for _, label, note, _ in found]
    return {"heads": heads, "pages": pages, "style": style(found[0][3][0][0].width)}


def timeline(run: RunFiles, classes: list[str], columns: int | None, best_step: Any) -> dict[str, Any] | None:
    """One latent per class at the recorded steps, from left to right."""
    steps = {int(name[13:-4]): name for name in run.names("samples/step-*.png") if name[13:-4].isdecimal()}
    recorded = len(steps)
    kept = set(_spread(sorted(steps), STEPS_SHOWN))
    if steps and finite(best_step) and best_step not in steps:
        steps[best_step] = "samples/after.png"  # the kept generator on the same latents
    kept |= {best_step} & set(steps)
    found = [(s, _cells(run, steps[s], columns, len(classes))) for s in sorted(kept)] if classes else []
    found = [(step, cells) for step, cells in found if cells]
    if not found:
        return None
    edge = found[0][1][0][0].width
    rows = [
        {"name": name, "uris": [run.uri(cells[r][0]) for _, cells in found]}
        for r, name in enumerate(classes[:ROWS_IN_TIME])
    ]
    return {
        "steps": [{"label": number(step), "best": step == best_step} for step, _ in found],
        "rows": rows,
        "recorded": recorded,
        "animation": animation(run),
        "style": style(edge),
    }


def animation(run: RunFiles) -> dict[str, Any] | None:
    """The animated grids: their file, and a data URI unless it is too large for the page."""
    name = "samples/adaptation.webp"
    count = run.bytes(name)
    if count is None:
        return None
    payload = (run.path / name).read_bytes() if count <= LARGEST_ANIMATION else b""
    uri = "data:image/webp;base64," + base64.b64encode(payload).decode("ascii") if payload else ""
    return {"file": name, "uri": uri}


def _spread(items: list[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread, the first and the last included."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def metrics_table(result: Row, evaluations: list[Row]) -> dict[str, Any] | None:
    """The result's rows as text, with the change as a factor where both values are positive."""
    rows = []
    for row in as_rows(result.get("rows")):
        before, after, key = row.get("before"), row.get("after"), str(row.get("metric", "?"))
        factor = ""
        if finite(before) and finite(after) and before > 0 and after > 0:
            ratio = before / after
            factor = f"÷ {number(ratio)}" if ratio >= 1 else f"× {number(1 / ratio)}"
        higher = row.get("better") == "higher"
        worse = finite(before) and finite(after) and ((after < before) if higher else (after > before))
        rows.append(
            {
                "name": metric_name(key, row.get("label")),
                "note": metric_note(key),
                "better": "higher" if higher else "lower",
                "before": _value(key, before),
                "after": _value(key, after),
                "factor": factor,
                "worse": worse,
                "floor": _value(key, row.get("floor")),
                "bound": _value(key, row.get("training_bound")),
            }
        )
    told = re.search(r"\breference=([\w-]+)", str(result.get("protocol") or ""))
    reference = str(result.get("reference") or (told and told[1]) or "").replace("training-images", "training images")
    if not rows:
        return None
    return {
        "rows": rows,
        "protocol": result.get("protocol"),
        "floor_protocol": result.get("floor_protocol"),
        "reference": reference,
        "split": result.get("split"),
        "chosen_on": evaluations[-1].get("split") if evaluations else None,
    }


def per_class(result: Row, data: Row) -> dict[str, Any] | None:
    """Every number recorded per class, with a bar relative to the column's largest."""
    found = {str(k): as_dict(v) for k, v in as_dict(result.get("per_class")).items()}
    keys = metric_order({k for row in found.values() for k, v in row.items() if finite(v)})
    if not keys:
        return None
    counts = as_dict(data.get("counts"))
    largest = {k: max(abs(r[k]) for r in found.values() if finite(r.get(k))) or 1 for k in keys}
    rows = [
        {
            "name": name,
            "images": number(counts.get(name)),
            "cells": [_bar(row.get(key), largest[key], key) for key in keys],
        }
        for name, row in found.items()
    ]
    heads = [{"name": metric_name(k), "note": metric_note(k) if k in NOTED else ""} for k in keys]
    return {"heads": heads, "rows": rows, "images": bool(counts)}


def _value(key: str, value: Any) -> str:
    """Accuracy in per cent, everything else as a number."""
    return percent(value, 1) if key == "accuracy" else number(value)


def _bar(value: Any, full: float, key: str) -> Row:
    if not finite(value):
        return {"text": number(value), "bar": None}
    if key.startswith("n_"):
        return {"text": number(value), "bar": None}
    full = 1 if key == "accuracy" else full
    return {"text": _value(key, value), "bar": round(min(100.0, 100 * abs(value) / full), 1)}


def nearest(run: RunFiles) -> dict[str, Any] | None:
    """Samples beside their nearest training images, with distances; copies are marked."""
    record = run.json("samples/nearest.json")
    distances, threshold = as_list(record.get("distances")), record.get("threshold")
    picture = run.picture("samples/nearest.png")
    cells = cut(picture, None, 2) if picture else []
    if not cells:
        return None
    known, pairs = record.get("copied"), []
    for i, (sample, real) in enumerate(zip(*cells, strict=True)):
        distance = distances[i] if i < len(distances) else None
        copied = i in known if isinstance(known, list) else (
            finite(distance) and finite(threshold) and distance < threshold)  # as earlier versions had it
        pairs.append(
            {
                "sample": run.uri(sample),
                "real": run.uri(real),
                "distance": number(distance),
                "copied": copied,
            }
        )
    return {
        "pairs": pairs,
        "copies": record.get("copies"),
        "threshold": number(threshold),
        "n": len(distances) or None,
        "feature": record.get("feature"),
        "rule": record.get("calibration"),
        "rate": percent(record["rate"], 1) if finite(record.get("rate")) else None,
        "expected": percent(record["expected_rate"], 1) if finite(record.get("expected_rate")) else None,
        "real": number(record["calibration_images"]) if finite(record.get("calibration_images")) else None,
        "median": number(record["median_real"]) if finite(record.get("median_real")) else None,
        "style": style(cells[0][0].width),
    }


def facts(title: str, values: Row, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """One column of settings: (key, text) as recorded."""
    return {"title": title, "items": [(str(k), plain(v)) for k, v in values.items() if k not in skip]}
