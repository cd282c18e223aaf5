"""The cells of a comparison as Slurm jobs, through submitit.

The calling process only watches. Interrupting it leaves the jobs running; the same command later watches them again,
collects what has ended and submits what is missing. A job that Slurm takes away (time limit, preemption) is put back in
the queue and resumes from its checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gantransfer.compare.cells import WAITING, Cell, Outcome, Report, differs, message, run_cell
from gantransfer.errors import UsageError
from gantransfer.weights import read_json, write_json

JOBS = "jobs.json"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
POLL = 2.0  # seconds between looks at the queue


class Work:
    """What a job does; submitit pickles it."""

    def __init__(self, cell: Cell, threads: int | None) -> None:
        self.cell, self.threads = cell, threads

    def __call__(self) -> Outcome:
        return run_cell(self.cell, self.threads)

    def checkpoint(self) -> Any:
        """What submitit puts back in the queue when Slurm takes the job away: the run resumes by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Slurm:
    """Submits, watches and collects.

    Args:
        folder: of submitit's files (logs, pickles) and of the record which job runs which cell.
        parameters: submitit's, for example ``{"timeout_min": 120, "gpus_per_node": 1, "slurm_partition": "gpu"}``;
            ``cluster``: "slurm" (default), or "local" and "debug" for a trial on one machine.

    Raises:
        UsageError: submitit is not installed, there is no Slurm here, or a parameter it does not know.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise UsageError("Slurm jobs need submitit: pip install 'gantransfer[slurm]'") from None
        self.folder = folder
        self.parameters = dict(parameters)
        self.cluster = str(self.parameters.pop("cluster", "slurm"))
        self.submitit = submitit
        try:
            self.executor = submitit.AutoExecutor(folder=str(folder), cluster=self.cluster)
            self.executor.update_parameters(name="gantransfer", **self.parameters)
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"Slurm jobs on cluster '{self.cluster}' are not possible with {self.parameters}: "
                             f"{reason}") from None

    def run(self, missing: Sequence[Cell], jobs: int, threads: int | None,
            report: Report) -> Iterator[tuple[Cell, Outcome]]:
        """As the runners of `gantransfer.compare.cells`; KeyboardInterrupt only ends the watching."""
        running = self._start(missing, jobs, threads, report)
        try:
            while running:
                for name in [name for name, (_, job) in running.items() if self._ended(job)]:
                    cell, job = running.pop(name)
                    yield cell, self._collect(job)
                if running:
                    time.sleep(POLL)
        except KeyboardInterrupt:
            for cell, job in running.values():
                yield cell, {**WAITING, "error": f"job {job.job_id} goes on; the same command collects it"}

    def refuse_changed(self, planned: Sequence[Cell], recorded: Mapping[str, Any]) -> None:
        """UsageError if a job that has not ended runs a cell with other settings than those now planned: its result
        would pass for the new ones', and its directory cannot be moved."""
        jobs = recorded_jobs(self.folder)
        for cell in planned:
            job = self._earlier(jobs.get(cell.name))
            if job is not None and differs(cell, recorded):
                raise UsageError(f"job {job.job_id} runs '{cell.name}' with other settings; restore them, or cancel "
                                 "the job first")

    def _start(self, missing: Sequence[Cell], jobs: int, threads: int | None, report: Report) -> dict[str, Any]:
        """(cell, job) by cell name: jobs of an earlier call that still run, and new ones."""
        recorded = recorded_jobs(self.folder)
        running: dict[str, Any] = {}
        for cell in missing:
            if (job := self._earlier(recorded.get(cell.name))) is not None:
                running[cell.name] = (cell, job)
                report(message(f"{cell.name}: job {job.job_id} of an earlier call is still there"))
        new = [cell for cell in missing if cell.name not in running]
        if self.cluster == "slurm" and jobs > 1:
            self.executor.update_parameters(slurm_array_parallelism=jobs)
        works = [Work(cell, threads) for cell in new]
        submitted = self.executor.submit_array(works) if len(works) > 1 else [self.executor.submit(w) for w in works]
        for cell, job in zip(new, submitted, strict=True):
            running[cell.name] = (cell, job)
            report(message(f"{cell.name}: job {job.job_id}"))
        self._record({**recorded, **{name: job.job_id for name, (_, job) in running.items()}})
        return running

    def _earlier(self, job_id: str | None) -> Any:
        """The job of that number unless it has ended."""
        kinds = {"slurm": self.submitit.SlurmJob, "local": self.submitit.LocalJob}
        if job_id is None or self.cluster not in kinds:
            return None
        job = kinds[self.cluster](folder=self.folder, job_id=job_id)
        return None if self._ended(job) else job

    def _ended(self, job: Any) -> bool:
        """Whether the job has left a result or is known to be gone. Slurm's accounting lags, and what it does not know
        yet may be running."""
        if self.cluster == "debug" or job.paths.result_pickle.exists():
            return True
        if self.cluster == "local":
            own = getattr(job, "_process", None)  # none for a job of an earlier call, whose number is its process's
            return own.poll() is not None if own is not None else not _alive(int(job.job_id))
        return job.state.upper().split(" ")[0] in ENDED

    def _collect(self, job: Any) -> Outcome:
        try:
            return job.result()
        except Exception as error:  # the job died, or was cancelled; submitit has several words for it
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            return {"status": "failed", "error": f"job {job.job_id}: {reason} (its output: {job.paths.stderr})",
                    "exit_code": 1}

    def _record(self, ids: Mapping[str, str]) -> None:
        write_json(ids, self.folder / JOBS)


def recorded_jobs(folder: Path) -> dict[str, str]:
    """The number of the job that was submitted last for a cell, by its name, ended or not."""
    return read_json(folder / JOBS) if (folder / JOBS).is_file() else {}


def refuse_queued(folder: Path, planned: Sequence[Cell], recorded: Mapping[str, Any]) -> None:
    """Without a scheduler nobody knows what waits in its queue: UsageError if that may be a cell with other settings
    than those now planned."""
    jobs = recorded_jobs(folder)
    for cell in planned:
        if cell.name in jobs and not cell.finished and differs(cell, recorded):
            raise UsageError(f"job {jobs[cell.name]} may still wait to run '{cell.name}' with other settings; give "
                             f"--slurm, which looks for it, or remove '{folder / JOBS}' if it has ended")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
