"""The top of the page: what was adapted to what, and the strip of figures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from gantransfer.report.curves import headline_metric, points
from gantransfer.report.formatting import MISSING, compact, counted, duration, finite, number, percent, plain, size
from gantransfer.report.names import metric_name
from gantransfer.report.reading import Row, as_dict, as_rows


def headline(config: Row, data: Row, classes: list[str]) -> Row:
    """Title, method, a line of facts and the command."""
    source, method = as_dict(config.get("source")), as_dict(config.get("method"))
    train = as_dict(config.get("train"))
    pretraining = config.get("kind") == "pretrain"
    facts = [_amount(classes, data)] if classes else []
    if finite(train.get("steps")):
        facts.append(counted(train["steps"], "step", "steps"))
    if train.get("seed") is not None:
        facts.append(f"seed {plain(train['seed'])}")
    command = config.get("command")
    if isinstance(command, list):
        command = shlex.join(str(c) for c in command)
    return {
        "kind": "pre-training" if pretraining else "adaptation",
        "source": _source_name(source.get("name"), "random start" if pretraining else "source not recorded"),
        "target": _target_name(as_dict(config.get("data")).get("path")),
        "method": str(method.get("name") or "method not recorded"),
        "facts": facts,
        "command": str(command) if command else None,
    }


def _amount(classes: list[str], data: Row) -> str:
    """``10 classes × 100 images``, or the total where the classes differ."""
    counts = [c for c in as_dict(data.get("counts")).values() if isinstance(c, int)]
    text = counted(len(counts) or len(classes), "class", "classes")
    if not counts:
        return text
    if len(set(counts)) == 1:
        return f"{text} × {counted(counts[0], 'image', 'images')}"
    return f"{text}, {counted(sum(counts), 'image', 'images')}"


def _source_name(name: Any, missing: str) -> str:
    """A shipped name or hub id as it is; of a directory its last part."""
    text = str(name or missing)
    return Path(text).name if Path(text).is_absolute() else text


def _target_name(path: Any) -> str:
    """The last part of a path, without a trailing slash; a shipped or hub name stays as it is."""
    text = str(path or "target not recorded")
    return text if text.startswith("hf:") else (text.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1] or text)


def cards(result: Row, evaluations: list[Row], stats: list[Row], best_step: Any) -> list[Row]:
    """Distance before and after, best step, time and adapter size, as far as recorded."""
    found = (
        _distance(result, evaluations, best_step),
        _best_step(result, evaluations, stats, best_step),
        _time(result, stats),
        _adapter(result),
    )
    return [card for card in found if card]


def _card(label: str, value: str, *notes: str, was: str = "") -> Row:
    return {"label": label, "was": was, "value": value, "notes": [n for n in notes if n]}


def _distance(result: Row, evaluations: list[Row], best_step: Any) -> Row | None:
    """From the result; of an unfinished run, from its own evaluations."""
    rows = as_rows(result.get("rows"))
    if rows:
        row = next((r for r in rows if r.get("metric") == "frechet"), rows[0])
        name = metric_name(str(row.get("metric", "?")), row.get("label"))
        floor = number(row.get("floor"))
        note = f"floor {floor}" if floor != MISSING else "floor not recorded"
        return _card(name, number(row.get("after")), note, was=number(row.get("before")))
    key = headline_metric(evaluations)
    line = points(evaluations, key) if key else []
    if not line:
        return None
    now = next((y for x, y in line if x == best_step), line[-1][1])
    return _card(metric_name(key), number(now), "so far, on the selection split", was=number(line[0][1]))


def _best_step(result: Row, evaluations: list[Row], stats: list[Row], best_step: Any) -> Row | None:
    if not finite(best_step):
        return None
    last = result.get("steps") or (stats or evaluations or [{}])[-1].get("step")
    images = next((r.get("nimg") for r in evaluations if r.get("step") == best_step), None)
    whole = f"of {number(last)}" if finite(last) else ""
    return _card("Best step", number(best_step), whole, f"{compact(images)} images shown" if finite(images) else "")


def _time(result: Row, stats: list[Row]) -> Row | None:
    seconds = result.get("seconds", stats[-1].get("seconds") if stats else None)
    if not finite(seconds):
        return None
    rates = [r["images_per_second"] for r in stats if finite(r.get("images_per_second"))]
    return _card("Time", duration(seconds), f"{number(sum(rates) / len(rates))} images/s" if rates else "")


def _adapter(result: Row) -> Row | None:
    """The adapter's size beside that of the generator it belongs to."""
    total, whole = result.get("adapter_bytes"), result.get("generator_bytes")
    if not finite(total):
        return None
    shared, each = result.get("bytes_shared"), result.get("bytes_per_class")
    parts = [f"{size(each)} per class"] if finite(each) else []
    parts += [f"{size(shared)} shared"] if finite(shared) else []
    share = f"{percent(total, whole)} of the generator" if finite(whole) else ""
    return _card("Adapter", size(total), share, " + ".join(parts))
