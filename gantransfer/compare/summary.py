"""From run directories to the tables of a comparison."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gantransfer.compare import convergence, ranking
from gantransfer.compare.cells import Cell, Outcome, failed
from gantransfer.compare.plan import Comparison, Task, unique
from gantransfer.errors import ModelError, first_line
from gantransfer.runs import read_lines
from gantransfer.weights import read_json

Row = dict[str, Any]


def summarise(comparison: Comparison, planned: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> Row:
    """What ``compare.json`` holds; see `gantransfer.compare.compare`."""
    entries = [{"name": c.name, "task": c.task, "label": c.label, "method": c.method, "seed": c.seed,
                "begun": c.folder.exists(), **_outcome(c, outcomes[c.name])} for c in planned]
    tasks = [_task(comparison, task, [e for e in entries if e["task"] == task.name]) for task in comparison.tasks]
    distances = {task["name"]: found for task in tasks if (found := _distances(entries, task))}
    return {
        "format_version": 3, "title": comparison.title, "about": comparison.about, "expected": comparison.expected,
        "tasks": tasks, "ranking": ranking.rank_over_tasks(distances) if len(distances) > 1 else [],
        "pairs_over_tasks": _pairs_over_tasks(comparison, tasks, distances) if len(tasks) > 1 else [],
        "cells": [{key: value for key, value in e.items() if key != "curve"} for e in entries],
    }


def _task(comparison: Comparison, task: Task, entries: Sequence[Row]) -> Row:
    rows = [_row(v.label, mine) for v in comparison.variants if (mine := [e for e in entries if e["label"] == v.label])]
    measured = [e for e in entries if e["status"] == "finished" and e.get("protocol")]
    protocols = Counter(e["protocol"] for e in measured)
    protocol = protocols.most_common(1)[0][0] if protocols else ""
    others = unique([e["label"] for e in measured if e["protocol"] != protocol])
    alike = [e for e in entries if e["label"] not in others]
    found = {"name": task.name, "protocol": protocol, "others": others}
    distances = _distances(entries, found)
    curves = {row["label"]: {e["seed"]: e["curve"] for e in alike
                             if e["label"] == row["label"] and e["status"] == "finished"} for row in rows}
    pairs = [{"a": a, "b": b, **speed} for a, b in comparison.compared_pairs()
             if (speed := convergence.compare(curves.get(a, {}), curves.get(b, {}), comparison.levels))]
    tests = ranking.tested_distances(distances, [(pair["a"], pair["b"]) for pair in pairs])
    for pair in pairs:
        pair["difference"] = tests.get((pair["a"], pair["b"]))
    return {
        **found, "source": task.source, "data": task.data, "data_options": task.data_options, "rows": rows,
        "reference": next((e["reference"] for e in entries if e.get("reference")), None),
        "warnings": unique([w for e in entries for w in e.get("warnings") or ()]) + _about_protocols(others, protocols),
        "floor": next((row["floor"] for row in rows if row["floor"] is not None), None),
        "selection_floor": next((e["selection_floor"] for e in entries if e.get("selection_floor") is not None), None),
        "every": _every([e for e in alike if any(e["label"] in (pair["a"], pair["b"]) for pair in pairs)]),
        "ranking": ranking.rank(distances), "pairs": pairs,
    }


def _about_protocols(others: Sequence[str], protocols: Sequence[str]) -> list[str]:
    if not others:
        return []
    return [f"{', '.join(others)}: measured under another protocol than the other rows, so neither ranked nor compared "
            f"with them ({' | '.join(protocols)})"]


def _every(entries: Sequence[Row]) -> int | None:
    """Iterations between evaluations, the largest of the curves: what a best iteration is known to."""
    gaps = [b["step"] - a["step"] for e in entries for a, b in itertools.pairwise(e["curve"])]
    return max(gaps, default=None)


def _distances(entries: Sequence[Row], task: Row) -> dict[str, dict[int, float]]:
    """row -> seed -> reported distance, of a task's finished runs, without rows that have one of another protocol."""
    found: dict[str, dict[int, float]] = {}
    for entry in entries:
        if entry["task"] == task["name"] and entry["label"] not in task["others"] \
                and entry["status"] == "finished" and entry.get("distance") is not None \
                and (entry.get("protocol") or "") == task["protocol"]:
            found.setdefault(entry["label"], {})[entry["seed"]] = entry["distance"]
    return found


def _pairs_over_tasks(
    comparison: Comparison, tasks: Sequence[Row], distances: Mapping[str, Mapping[str, Mapping[int, float]]],
) -> list[Row]:
    """For every pair the geometric means over tasks of the ratios that measure speed, each with the number of tasks it
    exists in; ``reached``: in how many of all ``runs`` A came to B's best; ``short``: tasks in which one of them may
    have its best still to come; ``difference``: A's distance over B's, over tasks, and ``ahead``: in how many A's is
    smaller."""
    pairs = comparison.compared_pairs()
    ratios = {(a, b): ranking.log_ratios(distances, a, b) for a, b in pairs}
    tests = ranking.tested_over_tasks(distances, pairs)
    found = []
    for a, b in pairs:
        mine = [pair for task in tasks for pair in task["pairs"] if (pair["a"], pair["b"]) == (a, b)]
        row: Row = {"a": a, "b": b, "tasks": len(mine), "short": sum(bool(pair["short"]) for pair in mine)}
        for name in convergence.RATIOS:
            row[name] = convergence.spread([pair[name]["mean"] for pair in mine], factors=True)
        runs = [pair["reach_step"] for pair in mine]
        row["reached"], row["runs"] = sum(r["count"] for r in runs), sum(r["of"] for r in runs)
        row["difference"] = ranking.as_factor(tests[a, b]) if (a, b) in tests else None
        row["ahead"] = sum(value < 0 for value in ratios[a, b].values())
        if mine:
            found.append(row)
    return found


def convergence_csv(result: Row) -> str:
    """One line per task, pair and seed."""
    lines = [{"task": task["name"], "a": pair["a"], "b": pair["b"], "seed": seed, **measured,
              "short": " ".join(measured["short"])}
             for task in result["tasks"] for pair in task["pairs"] for seed, measured in pair["by_seed"].items()]
    return _csv(lines, ["task", "a", "b", "seed"])


def rows_csv(result: Row) -> str:
    """One line per task and row: means and spreads over seeds, and the test against the task's best row."""
    lines = []
    for task in result["tasks"]:
        tests = {ranked["label"]: ranked["to_best"] for ranked in task["ranking"]}
        for row in task["rows"]:
            low, high = row["best_step_range"] or (None, None)
            lines.append({
                "task": task["name"], "label": row["label"], "method": row["method"], "seeds": row["seeds"],
                "finished": row["finished"], "before": row["before"], "distance": row["distance"],
                "distance_std": row["distance_spread"], "floor": task["floor"], "best_step": row["best_step"],
                "best_step_low": low, "best_step_high": high, "last": row["last"], "seconds": row["seconds"],
                **_test_columns("to_best", tests.get(row["label"])), "protocol": task["protocol"]})
    return _csv(lines, ["task", "label"])


def pairs_csv(result: Row) -> str:
    """One line per task and pair: of how many runs A reached B's best, the measures of convergence as means over seeds
    with the least and largest, and the difference of distances; last the pairs over all tasks, whose task is empty and
    whose differences are factors."""
    names = [*convergence.RATIOS, "reach_step", "reach_seconds", "b_early", "b_early_seconds"]
    lines = []
    for name, pair in [*((task["name"], pair) for task in result["tasks"] for pair in task["pairs"]),
                       *(("", pair) for pair in result["pairs_over_tasks"])]:
        spreads = {f"{key}{suffix}": pair[key][part] if key in pair else None for key in names
                   for suffix, part in (("", "mean"), ("_low", "low"), ("_high", "high"))}
        short = pair["short"] if isinstance(pair["short"], int) else " ".join(pair["short"])
        reach = pair.get("reach_step")  # over tasks these are counts alone
        runs = {"reached": reach["count"] if reach else pair["reached"], "runs": reach["of"] if reach else pair["runs"]}
        lines.append({"task": name, "over": "seeds" if name or not result["pairs_over_tasks"] else "tasks",
                      "a": pair["a"], "b": pair["b"], **runs, **spreads, "short": short,
                      **_test_columns("difference", pair["difference"])})
    return _csv(lines, ["task", "over", "a", "b"])


def _test_columns(name: str, test: Row | None) -> Row:
    keys = ("mean", "low", "high", "p", "count", "different")
    return {f"{name}_{key}" if key != "mean" else name: None if test is None else test[key] for key in keys}


def _csv(lines: Sequence[Row], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _outcome(cell: Cell, outcome: Outcome) -> Row:
    """The outcome of a cell and what its run says of itself, if it counts; a damaged record is that cell's failure
    alone."""
    if not outcome.get("counted", True):
        return {**outcome, "curve": []}
    try:
        return {**outcome, **_read(cell.folder)}
    except (ModelError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = outcome if outcome["status"] == "failed" else failed(ModelError(
            f"the record in '{cell.folder}' is damaged ({first_line(error)}); restore it, or remove the folder to run "
            "it again"))
        return {**said, "curve": []}


def _read(folder: Path) -> Row:
    """What a run says of itself; only the curve if it is not finished."""
    lines = [line for line in read_lines(folder / "metrics.jsonl") if line.get("frechet") is not None]
    curve = [{"step": line["step"], "nimg": line["nimg"], "seconds": line.get("seconds"), "distance": line["frechet"]}
             for line in lines]
    selection_floor = next((line["floor"] for line in lines if line.get("floor") is not None), None)
    file = folder / "result.json"
    if not file.is_file():
        return {"curve": curve, "selection_floor": selection_floor}
    result = read_json(file)
    by_metric = {row["metric"]: row for row in result.get("rows", ())}
    headline = by_metric.get("frechet", {})
    keep = ("best_step", "steps", "nimg", "seconds", "adapter_bytes", "generator_bytes", "protocol", "reference",
            "warnings")
    return {
        "curve": curve, "selection_floor": selection_floor, "distance": headline.get("after"),
        "before": headline.get("before"), "floor": headline.get("floor"), **{k: result.get(k) for k in keep},
        "metrics": {name: row["after"] for name, row in by_metric.items()},
    }


def _row(label: str, entries: Sequence[Row]) -> Row:
    done = [e for e in entries if e["status"] == "finished"]
    distances = [e["distance"] for e in done if e.get("distance") is not None]

    def mean(key: str) -> float | None:
        values = [e[key] for e in done if e.get(key) is not None]
        return statistics.fmean(values) if values else None

    best = mean("best_step")
    best_steps = [e["best_step"] for e in done if e.get("best_step") is not None]
    return {
        "label": label, "method": entries[0]["method"], "seeds": len(entries), "finished": len(done),
        "distance": mean("distance"),
        "distance_spread": statistics.stdev(distances) if len(distances) > 1 else None,
        "distance_range": [min(distances), max(distances)] if distances else None,
        "before": mean("before"), "floor": mean("floor"), "best_step": None if best is None else round(best),
        "best_step_range": [min(best_steps), max(best_steps)] if best_steps else None,
        "last": statistics.fmean(ends) if (ends := [e["curve"][-1]["distance"] for e in done if e["curve"]]) else None,
        "seconds": mean("seconds"), "curve": mean_curve([e["curve"] for e in done or entries]),
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
    columns = ["task", "label", "method", "seed", "status", "distance", "before", "floor", "best_step", "steps", "nimg",
               "seconds", "adapter_bytes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *metrics, "protocol", "run"])
    for cell in result["cells"]:
        writer.writerow([*(cell.get(c) for c in columns), *(cell.get("metrics", {}).get(m) for m in metrics),
                         cell.get("protocol"), cell["name"]])
    return text.getvalue()
