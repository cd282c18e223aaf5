"""How long a comparison will take: from runs of the same row that are finished, else from a short trial."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gantransfer import runs
from gantransfer.compare.cells import Cell
from gantransfer.errors import ModelError
from gantransfer.weights import read_json

TRIAL = 3  # iterations, of which the first is not counted
SLOW = 30.0  # seconds of an evaluation that is not measured twice
AT_THE_END = 4  # evaluations' worth of final measuring and pictures


class Speed(NamedTuple):
    """Seconds of one iteration by stage (images shown at its start, seconds) and of one evaluation; where from."""

    stages: tuple[tuple[int, float], ...]
    evaluation: float
    basis: str

    def training(self, images: int, shown: int) -> float:
        """Seconds to show `images`, `shown` in an iteration."""
        ends = [start for start, _ in self.stages[1:]] + [images]
        return sum(max(0, min(end, images) - start) / shown * step
                   for (start, step), end in zip(self.stages, ends, strict=True))


def estimate(
    planned: Sequence[Cell], jobs: int, trial: bool = True, threads: int | None = None, changed: Collection[str] = (),
) -> dict[str, Any]:
    """Seconds that the missing cells will take on this machine.

    Args:
        planned: cells that say how often they are evaluated (see `gantransfer.compare.inputs`), else no trial is
            possible. jobs: runs at a time.
        trial: whether to time `TRIAL` iterations and one evaluation of a row that has no finished run with its source;
            without it such rows stay unknown.
        changed: names of finished cells that are run again, whose speed says nothing of their new settings.

    Returns:
        ``cells``: {name: seconds or None}, 0 for finished ones; ``total``: their sum over `jobs`, and not less than the
        longest takes, None while one is unknown; ``basis``: for every row what its figure rests on.
    """
    done = {cell.name for cell in planned if cell.name not in changed and cell.finished}
    missing = [cell for cell in planned if cell.name not in done]
    speeds: dict[tuple[str, str], Speed] = {}
    for cell in planned:
        if cell.name in done and (cell.call["source"], cell.label) not in speeds:
            with suppress(ModelError, ValueError, KeyError, TypeError, AttributeError):  # a damaged record
                speeds[cell.call["source"], cell.label] = _from_finished(cell)
    if trial:
        trials = Trials(1 if jobs > 1 and threads is None else threads)
        for cell in missing:
            if (cell.call["source"], cell.label) not in speeds:
                speeds[cell.call["source"], cell.label] = trials.speed(cell)
    wanted = {cell.name: _seconds(cell, speeds.get((cell.call["source"], cell.label))) for cell in missing}
    known = [value for value in wanted.values() if value is not None]
    total = max(sum(known) / jobs, max(known, default=0.0)) if len(known) == len(missing) else None
    return {"cells": {**dict.fromkeys(done, 0.0), **wanted}, "total": total,
            "basis": {label: speed.basis for (_, label), speed in speeds.items()}}


def _seconds(cell: Cell, speed: Speed | None) -> float | None:
    if speed is None or not cell.shown:  # without its inputs a cell does not know its iterations
        return None
    steps, every = cell.call["steps"], cell.call.get("eval_nimg")
    evaluations = steps * cell.shown / every if every else 1
    measured = (evaluations + AT_THE_END) * cell.call.get("evaluate", True)
    return speed.training(steps * cell.shown, cell.shown) + speed.evaluation * measured


def _from_finished(cell: Cell) -> Speed:
    result = read_json(cell.folder / "result.json")
    evaluations = max(len(runs.read_lines(cell.folder / "metrics.jsonl")), 1)
    return Speed(((0, result["seconds"] / max(result["steps"], 1)),), result.get("measuring_seconds", 0) / evaluations,
                 "finished runs")


class Trials:
    """Short trials with so many processor threads; sources and images are loaded once each."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self.gans: dict[str, Any] = {}
        self.images: dict[str, Any] = {}

    def speed(self, cell: Cell) -> Speed:
        """Of a row, on the cell's source and target. Nothing is kept."""
        from gantransfer import api
        from gantransfer.finish import Evaluator
        from gantransfer.processes import processor_threads
        from gantransfer.results import as_gans, source_names
        from gantransfer.schedule import Hooks, Progress

        call = api.of_training(cell.call)
        source, data, method, options = (call.pop(name) for name in ("source", "data", "method", "data_options"))
        if source not in self.gans:
            self.gans[source] = as_gans(source)
        gans = self.gans[source]
        quick = {"steps": TRIAL, "log_nimg": 1, "eval_nimg": 0, "checkpoint_nimg": 0}
        training, fields = api.split_settings({**call, **quick}, method, "adapt")
        chosen = runs.make_method(method, fields)
        place = cell.task, hasattr(chosen, "image_channels") and chosen.image_channels(gans[0].config)
        if place not in self.images:
            self.images[place] = api.target_images(data, options, gans[0], chosen)
        images = self.images[place]
        training = api.as_source_was_trained(training, gans, method, fields)
        job = api.job_of("adapt", source_names(source), images, method, fields, training, {})
        marks: list[float] = []
        hooks = Hooks(report=lambda event: marks.append(time.perf_counter()))
        with processor_threads(call.get("threads", self.threads)), tempfile.TemporaryDirectory() as folder:
            trainer = runs.assemble(job, Path(folder), gans, images, hooks).trainer
            begins = {nimg for phase in trainer.plan.phases for nimg in (phase.start_nimg, phase.stop_nimg or 0)}
            stages = []
            for start in sorted(nimg for nimg in begins if nimg < cell.call["steps"] * cell.shown):
                marks.clear()
                trainer.progress = Progress(nimg=start)
                trainer.run()
                stages.append((start, (marks[-1] - marks[0]) / (TRIAL - 1)))
            if not cell.call.get("evaluate", True):
                return Speed(tuple(stages), 0.0, "a trial")
            measure = {"features": cell.call.get("features", "glyph-cnn"), "n_fake": cell.call.get("n_fake")}
            evaluator = Evaluator(images, measure)
            evaluator.device = trainer.device
            for _ in range(2):  # the first one also looks at the reference, which matters where sampling is fast
                began = time.perf_counter()
                evaluator.select(trainer.ema.module, Progress(step=1))
                took = time.perf_counter() - began
                if took > SLOW:
                    break
            return Speed(tuple(stages), took, "a trial")
