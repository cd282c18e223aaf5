"""How long a comparison will take: from runs of the same row that are finished, else from a short trial."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gantransfer import runs
from gantransfer.compare.cells import Cell

TRIAL = 3  # iterations, of which the first is not counted


def estimate(planned: Sequence[Cell], jobs: int, trial: bool = True) -> dict[str, Any]:
    """Seconds that the missing cells will take on this machine.

    Args:
        jobs: runs at a time. trial: whether to time `TRIAL` iterations and one evaluation of each row that has no
            finished run; without it such rows stay unknown.

    Returns:
        ``cells``: {name: seconds or None}, 0 for finished ones; ``total``: their sum over `jobs`, None while one is
        unknown; ``basis``: for every row and task what the figure rests on.
    """
    known: dict[tuple[str, str], float] = {}
    basis: dict[str, str] = {}
    seconds: dict[str, float | None] = {}
    for cell in planned:
        place = (cell.task, cell.label)
        if place not in known and (found := _from_finished(planned, place)):
            known[place] = found
            basis["/".join(filter(None, place))] = "its finished runs"
    for cell in planned:
        place = (cell.task, cell.label)
        if cell.finished:
            seconds[cell.name] = 0.0
        elif place in known:
            seconds[cell.name] = known[place]
        elif trial:
            seconds[cell.name] = known[place] = _from_trial(cell)
            basis["/".join(filter(None, place))] = f"{TRIAL - 1} iterations and one evaluation"
        else:
            seconds[cell.name] = None
    unknown = any(value is None for value in seconds.values())
    total = None if unknown else sum(value or 0 for value in seconds.values()) / min(jobs, max(len(planned), 1))
    return {"cells": seconds, "total": total, "basis": basis}


def _from_finished(planned: Sequence[Cell], place: tuple[str, str]) -> float | None:
    """Mean wall-clock seconds of the row's finished runs on this task, evaluations included."""
    times = []
    for cell in planned:
        if (cell.task, cell.label) == place and cell.finished:
            result = json.loads((cell.folder / "result.json").read_text(encoding="utf-8"))
            times.append(float(result["seconds"] + result.get("measuring_seconds", 0)))
    return sum(times) / len(times) if times else None


def _from_trial(cell: Cell) -> float:
    """Seconds of the whole run, from a few iterations and one evaluation of it in a temporary directory."""
    from gantransfer import api

    call = {key: value for key, value in cell.call.items() if key != "track"}
    wanted = api.plan(**call)["train"]
    evaluates = call.get("evaluate", True)
    marks: list[float] = []

    def mark(event: dict[str, Any]) -> None:
        if event["event"] == "trained":
            marks.append(time.perf_counter())

    per_evaluation = 0.0
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"log_nimg": 1, "eval_nimg": 0, "checkpoint_nimg": 0}
        began = time.perf_counter()
        run = api.adapt(**{**call, **quiet, "steps": TRIAL, "evaluate": False}, out=Path(folder) / "trial",
                        progress=mark)
        start = marks[0] - began
        per_step = (marks[-1] - marks[0]) / (TRIAL - 1)
        if evaluates:
            per_evaluation = _evaluation(run, call)
    every = call.get("eval_nimg") or 0
    shown = run.result["nimg"] / TRIAL * wanted["steps"]
    evaluations = shown / every + 4 if every and evaluates else 6 * evaluates  # the end takes about four
    return start + per_step * wanted["steps"] + per_evaluation * evaluations


def _evaluation(run: Any, call: dict[str, Any]) -> float:
    from gantransfer.data import ImageData
    from gantransfer.finish import Evaluator
    from gantransfer.trainer import Progress

    config = runs.read_config(run.path)["data"]
    measure = {"features": call.get("features", "glyph-cnn"), "n_fake": call.get("n_fake")}
    evaluator = Evaluator(ImageData(**config), measure)
    evaluator.select(run.generator, Progress(step=1))
    began = time.perf_counter()
    evaluator.select(run.generator, Progress(step=1))
    return time.perf_counter() - began
