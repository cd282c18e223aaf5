"""Running the cells of a comparison, one after another or several at a time in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gantransfer import runs
from gantransfer.checkpoint import found_in
from gantransfer.compare.claim import Taken, beside, claim
from gantransfer.config import field_names
from gantransfer.errors import DivergedError, GanTransferError, Interrupted, ModelError
from gantransfer.registry import methods
from gantransfer.weights import read_json

Report = Callable[[dict[str, Any]], None]
Outcome = dict[str, Any]
# missing cells, jobs, threads, report -> (cell, outcome), as they end
Runner = Callable[..., Iterator[tuple["Cell", Outcome]]]
WORKED_OUT = ("steps", "eval_nimg", "source_sha256", "images_fingerprint")
# Of a run that is finished: what it wrote on its way and where it ran; a path, while what it leads to is the same.
NO_MATTER = ("log_nimg", "checkpoint_nimg", "track", "device", "threads")
BY_CONTENT = {"source": "source_sha256", "data": "images_fingerprint"}
FINISHED: Outcome = {"status": "finished", "error": "", "exit_code": 0}
WAITING: Outcome = {"status": "waiting", "error": "not started yet", "exit_code": Interrupted.exit_code}


@dataclass(frozen=True)
class Cell:
    """One run: its directory and the arguments of `gantransfer.adapt`. `shown`: images of one iteration, `made_from`:
    the source's and the images' hashes, once they are known."""

    name: str
    label: str
    method: str
    seed: int
    folder: Path
    call: dict[str, Any]
    task: str = ""
    shown: int = 0
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """It has a result, and not that of a run that diverged, which is tried again."""
        return self.as_it_is()["status"] == "finished"

    def as_it_is(self) -> Outcome:
        """Its outcome as far as its directory tells."""
        file = self.folder / "result.json"
        if not file.is_file():
            return dict(WAITING)
        try:
            diverged = read_json(file).get("diverged")
        except ModelError as error:
            return failed(error)
        return dict(FINISHED) if diverged is None else failed(DivergedError(diverged))


def failed(error: GanTransferError) -> Outcome:
    """The outcome of a run that `error` ended."""
    return {"status": "failed", "error": str(error), "exit_code": error.exit_code}


def as_recorded(cell: Cell) -> dict[str, Any]:
    """A cell's call as ``plan.json`` keeps it, with what it was made from where that is known."""
    return json.loads(json.dumps({**cell.call, **cell.made_from}, default=str))


def differs(cell: Cell, recorded: Mapping[str, Any]) -> bool:
    """Whether the record has other settings, source weights or images for this cell, or its run took another default
    than its method has now. What only one of the two knows because it was worked out (by `inputs`, or not by an earlier
    version) counts as equal; so does of a finished run what has no part in its result."""
    before = recorded.get(cell.name)
    return before is not None and (unlike(before, as_recorded(cell), cell.finished) or _other_defaults(cell))


def unlike(before: Mapping[str, Any], now: Mapping[str, Any], finished: bool) -> bool:
    """Whether two recorded calls differ, of a run that is finished in what has a part in its result."""
    equal = {key for key in WORKED_OUT if key not in before or key not in now}
    if finished:
        equal |= {*NO_MATTER, *(path for path, content in BY_CONTENT.items()
                                if before.get(content) is not None and before[content] == now.get(content))}
    return any(before.get(key) != now.get(key) for key in {*before, *now} - equal)


def _other_defaults(cell: Cell) -> bool:
    """Whether a field that the plan leaves open had another value in the cell's run; None is "as the library sees
    fit" and differs from nothing."""
    file = cell.folder / "config.yaml"
    if not file.is_file():
        return False
    before = runs.read_config(cell.folder).get("method") or {}
    fields = {key: value for key, value in cell.call.items() if key in field_names(methods[cell.method])}
    now = json.loads(json.dumps(asdict(runs.make_method(cell.method, fields)), default=str))
    left = (now.keys() & before.keys()) - fields.keys() - {"init_seed"}  # which is the run's own
    return any(None not in (before[key], now[key]) and before[key] != now[key] for key in left)


def run_all(
    planned: Sequence[Cell], jobs: int, threads: int | None, report: Report, run: Runner | None = None
) -> dict[str, Outcome]:
    """The outcome of every cell by name. `run` starts the missing ones (None: one by one, or `jobs` processes)."""
    outcomes = {cell.name: cell.as_it_is() for cell in planned}
    missing = [cell for cell in planned if outcomes[cell.name]["status"] != "finished"]
    if len(missing) < len(planned):
        report(message(f"{len(planned) - len(missing)} of {len(planned)} runs are finished already"))
    if run is None:
        run = _one_by_one if jobs == 1 else _in_processes
        threads = 1 if jobs > 1 and threads is None else threads
    for cell, outcome in run(missing, jobs, threads, report):
        outcomes[cell.name] = outcome
        report(message(f"{cell.name}: {outcome['status']}" + (f" ({outcome['error']})" if outcome["error"] else "")))
    return outcomes


def message(text: str) -> dict[str, Any]:
    """An event that is only a sentence."""
    return {"event": "message", "text": text}


def run_cell(cell: Cell, threads: int | None, report: Report | None = None) -> Outcome:
    """Start or continue one run, unless another process does; an error becomes its outcome."""
    try:
        with claim(beside(cell.folder)):
            return _run(cell, threads, report)
    except Taken:
        return {**WAITING, "error": "another process is running it; the same command later counts it"}
    except GanTransferError as error:
        return failed(error)


def _run(cell: Cell, threads: int | None, report: Report | None) -> Outcome:
    from gantransfer import api

    if cell.finished:  # by a process that had it meanwhile
        return dict(FINISHED)
    try:
        if (cell.folder / "result.json").is_file():
            read_json(cell.folder / "result.json")  # a damaged one is neither kept for good nor thrown away
        if found_in(cell.folder / "checkpoints"):
            api.resume(cell.folder, progress=report)
        else:
            if cell.folder.is_dir():  # stopped before its first checkpoint: nothing to continue from
                shutil.rmtree(cell.folder)
            api.adapt(**{"threads": threads, **cell.call}, out=cell.folder, progress=report)
    except (Interrupted, KeyboardInterrupt) as error:
        return {"status": "interrupted", "error": str(error), "exit_code": Interrupted.exit_code}
    except GanTransferError as error:
        return failed(error)
    except Exception as error:  # a bug in one method shall not cost the others' hours
        return {"status": "failed", "error": f"{type(error).__name__}: {error}", "exit_code": 1}
    return dict(FINISHED)


def _one_by_one(missing: Sequence[Cell], jobs: int, threads: int | None, report: Report) -> Iterator[Any]:
    for number, cell in enumerate(missing, 1):
        report(message(f"{cell.name}, {number} of {len(missing)}"))
        outcome = run_cell(cell, threads, report)
        yield cell, outcome
        if outcome["status"] == "interrupted":
            return


def _in_processes(missing: Sequence[Cell], jobs: int, threads: int | None, report: Report) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    waiting = list(missing)
    running: dict[int, tuple[Cell, Any, Any]] = {}  # by sentinel
    with _terminate_as_interrupt():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    receive, send = context.Pipe(duplex=False)
                    process = context.Process(target=_child, args=(cell, threads, send), name=cell.name)
                    process.start()
                    send.close()
                    running[process.sentinel] = (cell, process, receive)
                    report(message(f"{cell.name}: started"))
                for sentinel in multiprocessing.connection.wait(list(running)):
                    yield _collect(*running.pop(int(sentinel)))
        except KeyboardInterrupt:
            for _, process, _ in running.values():
                process.terminate()  # the trainer finishes its step and saves
            for entry in running.values():
                yield _collect(*entry)


def _collect(cell: Cell, process: Any, receive: Any) -> tuple[Cell, Outcome]:
    try:
        outcome = receive.recv()
    except EOFError:
        outcome = {"status": "failed", "error": "its process ended without a word", "exit_code": 1}
    process.join()
    if process.exitcode == -signal.SIGTERM:
        outcome = {"status": "interrupted", "error": "", "exit_code": Interrupted.exit_code}
    return cell, outcome


def _child(cell: Cell, threads: int | None, send: Any) -> None:
    """Body of a worker process."""
    import warnings

    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C goes to the parent alone, which passes it on once
    warnings.simplefilter("ignore")
    outcome = run_cell(cell, threads)
    with suppress(BrokenPipeError):  # the parent is gone; what the cell had is in its folder
        send.send(outcome)


@contextmanager
def _terminate_as_interrupt() -> Any:
    """SIGTERM to the parent, and a terminal that is closed (unless nohup has it ignored), stop the workers like Ctrl-C
    does: they are groups of their own and would go on alone."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        old = {number: signal.signal(number, interrupt) for number in wanted
               if signal.getsignal(number) is not signal.SIG_IGN}
    except ValueError:  # not the main thread
        old = {}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
