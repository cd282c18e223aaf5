"""Compare methods: every cell (a task, a row of the table, a seed) is an ordinary run directory.

A finished cell is never run again unless its settings changed, an interrupted one is resumed, a failed one is
reported and does not stop the others. `compare` can therefore be called again and again on the same directory, with
more seeds, rows or targets too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gantransfer.compare import cells, page, summary
from gantransfer.compare.cells import Cell
from gantransfer.compare.claim import STUDY, Taken, beside, claim
from gantransfer.compare.plan import Comparison, Task, Variant, method_fields, tasks_of, unique, with_rhythm
from gantransfer.errors import DataError, ModelError, UsageError, writing
from gantransfer.weights import read_json, write_json, write_text

__all__ = ["Comparison", "Task", "Variant", "changed_cells", "compare", "inputs", "missing_inputs", "recorded_calls",
           "tasks_of"]

PLAN, REPLACED = "plan.json", "replaced"
WRITTEN = {PLAN, REPLACED, STUDY, "slurm", "compare.csv", "compare.json", "compare.html", "convergence.csv", "rows.csv",
           "pairs.csv"}


def compare(
    comparison: Comparison, *, jobs: int = 1, threads: int | None = None,
    slurm: Mapping[str, Any] | None = None, run: bool = True,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run what is missing and write ``compare.html``, ``compare.json``, and as CSV the runs (``compare.csv``), the
    means and spreads of rows (``rows.csv``), the pairs (``pairs.csv``) and their seeds (``convergence.csv``).

    Args:
        jobs: runs at a time, each in a process of its own where it is more than 1.
        threads: processor threads of each run (None: 1 with several jobs, else PyTorch's choice).
        slurm: run the cells as Slurm jobs instead, at most `jobs` at a time (1: no limit): submitit's parameters, see
            `gantransfer.compare.slurm`.
        run: False only writes the tables of what is finished, for example while another process runs the cells.
        progress: called with the events of `gantransfer.adapt` (one job), and a message for every cell.

    Returns:
        The content of ``compare.json``, and ``files``. There: tasks (name, source, data, floor; rows with distance and
        its spread over seeds; protocol, the one of most runs, and others, rows of another one, which are in no ranking
        and no pair; ranking with its tests; pairs with the difference of their distances and their convergence; every,
        the iterations between evaluations of the rows in pairs), ranking and pairs_over_tasks over all tasks, cells
        (name, which is the run's directory in the comparison's, status "finished", "failed", "interrupted" or
        "waiting", exit_code).

    Raises:
        UsageError, ModelError, DataError: in that order, before anything is written; a directory that holds
            something else, or in which another process runs the comparison.
        OutputError: the tables cannot be written.
    """
    report = progress or (lambda event: None)
    if jobs < 1:
        raise UsageError(f"jobs {jobs} is not possible; give 1 or more")
    comparison.check()
    recorded = recorded_calls(comparison.out)
    if run:
        planned, outcomes = _run(comparison, jobs, threads, slurm, report)
    else:
        _make_directory(comparison.out)
        planned = _planned(comparison, recorded)
        outcomes = {cell.name: _as_it_is(cell, recorded) for cell in planned}
    result = summary.summarise(comparison, planned, outcomes)
    write_text(summary.as_csv(result), comparison.out / "compare.csv")
    write_text(summary.convergence_csv(result), comparison.out / "convergence.csv")
    write_text(summary.rows_csv(result), comparison.out / "rows.csv")
    write_text(summary.pairs_csv(result), comparison.out / "pairs.csv")
    write_text(json.dumps(result, ensure_ascii=False), comparison.out / "compare.json")
    write_text(page.render(result, comparison.out), comparison.out / "compare.html")
    return {**result, "files": {kind: str(comparison.out / f"compare.{kind}") for kind in ("html", "csv", "json")}}


def _planned(comparison: Comparison, recorded: Mapping[str, Any]) -> list[Cell]:
    """The cells; with what they are made from, if that is here, only where a path has changed: it may lead to the
    same."""
    planned = comparison.cells()
    if any(path in recorded.get(cell.name, ()) and recorded[cell.name][path] != cell.call[path]
           for cell in planned for path in cells.BY_CONTENT):
        with suppress(ModelError, DataError):
            return inputs(comparison)
    return planned


def _run(
    comparison: Comparison, jobs: int, threads: int | None, slurm: Mapping[str, Any] | None, report: cells.Report,
) -> tuple[list[Cell], dict[str, cells.Outcome]]:
    """Run what is missing, as the only process that does."""
    from gantransfer.compare.slurm import Slurm, refuse_queued

    planned = inputs(comparison)
    scheduler = None if slurm is None else Slurm(comparison.out / "slurm", slurm)
    try:
        with claim(comparison.out / STUDY):
            recorded = recorded_calls(comparison.out)
            if scheduler is None:
                refuse_queued(comparison.out / "slurm", planned, recorded)
            else:
                scheduler.refuse_changed(planned, recorded)
            _replan(comparison.out, planned, recorded, report)
            return planned, cells.run_all(planned, jobs, threads, report, scheduler and scheduler.run)
    except Taken as lock:
        raise UsageError(f"another process runs the comparison in '{comparison.out}'; wait for it, have the tables of "
                         f"what is finished with --no-run, or remove '{lock}' if none does") from None


def _replan(out: Path, planned: list[Cell], recorded: Mapping[str, Any], report: cells.Report) -> None:
    """Set the runs with other settings aside and record today's; all of it or, where a process still works with
    yesterday's, nothing (UsageError)."""
    changed = [cell for cell in planned if cells.differs(cell, recorded)]
    with ExitStack() as claims:
        for cell in changed:  # also one that has a worker and no directory yet
            try:
                claims.enter_context(claim(beside(cell.folder)))
            except Taken as lock:
                raise UsageError(f"another process runs '{cell.name}' with other settings; restore them, end it first, "
                                 f"or remove '{lock}' if none does") from None
        for cell in (cell for cell in changed if cell.folder.exists()):
            kept = _set_aside(cell, out)
            report(cells.message(f"{cell.name} was run with other settings; that run is kept as '{kept}'"))
        write_json({**recorded, **{cell.name: cells.as_recorded(cell) for cell in planned}}, out / PLAN)


def _make_directory(out: Path) -> None:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def _as_it_is(cell: Cell, recorded: Mapping[str, Any]) -> cells.Outcome:
    if cell.folder.exists() and cells.differs(cell, recorded):
        return {**cells.WAITING, "error": "was run with other settings, and is not counted", "counted": False}
    return cell.as_it_is()


def recorded_calls(out: Path) -> dict[str, Any]:
    """The calls of the cells that were planned here before."""
    if (out / PLAN).is_file():
        return read_json(out / PLAN)
    if out.exists() and (not out.is_dir() or any(file.name not in WRITTEN for file in out.iterdir())):
        raise UsageError(f"output '{out}' exists, is not empty and holds no comparison; choose another --out")
    return {}


def changed_cells(planned: list[Cell], recorded: Mapping[str, Any]) -> list[Cell]:
    """Cells whose directory holds a run with other settings, source weights or images than those now planned."""
    return [cell for cell in planned if cell.folder.exists() and cells.differs(cell, recorded)]


def missing_inputs(comparison: Comparison) -> list[str]:
    """One sentence for every source, data set or feature file that is not here (yet)."""
    from gantransfer import api
    from gantransfer.data import ImageData
    from gantransfer.results import load, source_names

    found = []
    together = [comparison.settings_of(variant) for variant in comparison.variants]
    measures = [api.of_measuring(settings) for settings in together]
    sources = unique([name for task in comparison.tasks for name in source_names(task.source)])
    wanted: list[Callable[[], Any]] = [partial(load, source) for source in sources]
    wanted += [partial(ImageData, task.data, **task.data_options) for task in comparison.tasks]
    wanted += [partial(api.measure_of, **measure) for measure in measures]
    for get in wanted:
        try:
            get()
        except (ModelError, DataError) as error:
            found.append(str(error))
    return unique(found)


@contextmanager
def _of_target(name: str) -> Iterator[None]:
    """An error of one target's images says whose it is."""
    try:
        yield
    except (DataError, ModelError, UsageError) as error:
        raise type(error)(f"target '{name}': {error}" if name else str(error)) from None


def _set_aside(cell: Cell, out: Path) -> Path:
    """Move a cell's run out of the way, within the comparison's directory; where to."""
    number = 1
    while (kept := out / REPLACED / f"{cell.name}-{number}").exists():
        number += 1
    with writing(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        cell.folder.rename(kept)
    return kept


def inputs(comparison: Comparison) -> list[Cell]:
    """The cells, after source, data and every row of every task were found to fit together (one load of each)."""
    from gantransfer import api
    from gantransfer.defaults import Training
    from gantransfer.results import as_gans
    from gantransfer.runs import make_method

    settings: dict[str, Training] = {}
    for variant in comparison.variants:
        together = comparison.settings_of(variant)
        api.measure_of(**api.of_measuring(together))
        settings[variant.label], _ = api.split_settings(api.of_training(together), variant.method, "adapt")
    gans = {task.source: None for task in comparison.tasks}
    for source in gans:
        gans[source] = as_gans(source)
        met = [task.name for task in comparison.tasks if task.source == source]
        for variant in (variant for variant in comparison.variants if any(map(variant.runs_on, met))):
            api.check_fit(gans[source], variant.method, method_fields(variant))
    found: dict[tuple[str, str], tuple[int, int]] = {}
    made_from = {}
    for task in comparison.tasks:
        rows = [make_method(variant.method, method_fields(variant)) for variant in comparison.variants
                if variant.runs_on(task.name)]
        strictest = next(filter(api.needs_labels, rows), None)
        with _of_target(task.name):
            images = api.target_images(task.data, task.data_options, gans[task.source][0], strictest)
        made_from[task.name] = {"source_sha256": "+".join(gan.sha256 for gan in gans[task.source]),
                                "images_fingerprint": images.fingerprint}
        for variant in comparison.variants:
            schedule, loss = settings[variant.label].resolve(len(images), "adapt")
            shown = schedule.batch_size * schedule.accumulate * loss.d_steps
            found[task.name, variant.label] = schedule.steps, shown
    return [replace(with_rhythm(cell, *found[cell.task, cell.label]), made_from=made_from[cell.task])
            for cell in comparison.cells()]

