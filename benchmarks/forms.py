"""Forms of one piece of work that take turns, each in a process of its own.

A process of its own has the allocator that its users have, and its peak of memory is that of the form.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import gantransfer.kept_memory
from benchmarks.flops import flops
from benchmarks.plain import MEANS
from gantransfer.kept_memory import kept_memory

Run = Callable[[], object]
Make = Callable[[frozenset[str]], Run]  # the work without the means named
KEPT = "kept memory"  # a means of the process, beside those of networks
# The means that each form does without.
FORMS: Mapping[str, frozenset[str]] = {
    "plain": frozenset({*MEANS, KEPT}), "plain, memory kept": frozenset(MEANS), "ours": frozenset(),
    **{f"without {means}": frozenset({means}) for means in (*MEANS, KEPT)},
}


def resident(name: str) -> float:
    """MB, a line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _growth(run: Run, device: str) -> float:
    """MB by which the process (GPU: its allocated memory) grows in two runs."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here (getrusage's is inherited)
    before = resident("VmRSS")
    run(), run()
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident("VmHWM") - before


def _seconds(run: Run, device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _serve(pipe: Connection, make: Make, form: str, device: str, threads: int, held: bool) -> None:
    torch.set_num_threads(threads)
    without = FORMS[form]
    if KEPT in without:
        gantransfer.kept_memory._glibc = lambda: None
    run = make(without - {KEPT})
    answers = {"growth": lambda: _growth(run, device), "seconds": lambda: _seconds(run, device),
               "flops": lambda: flops(run)}
    with kept_memory() if held else nullcontext():
        while (question := pipe.recv()) is not None:
            pipe.send(answers[question]())


@contextmanager
def processes(
    make: Make, forms: Sequence[str], device: str, threads: int, held: bool,
) -> Iterator[Callable[[str, str], float]]:
    """What asks a form's process: "growth" in MB of the first two runs, "seconds" of a run, or "flops"."""
    context = multiprocessing.get_context("spawn")
    pipes, started = {}, []
    for form in forms:
        pipes[form], other = context.Pipe()
        started.append(context.Process(target=_serve, args=(other, make, form, device, threads, held),
                                       daemon=True))
        started[-1].start()
        other.close()  # so that a process that dies is an end of file here

    def ask(form: str, question: str) -> float:
        pipes[form].send(question)
        return pipes[form].recv()

    try:
        yield ask
        for pipe in pipes.values():
            pipe.send(None)
        for process in started:
            process.join()
    finally:
        for process in started:
            process.kill()


def measured(
    make: Make, forms: Sequence[str], repeat: int, device: str, threads: int, held: bool = True,
) -> dict[str, dict[str, object]]:
    """For each of `forms`: "growth", "flops", and "seconds" of `repeat` runs in turn after two that do not count. Each
    turn begins with another form, as the first finds the machine as the last has left it.

    Args:
        held: memory is kept from run to run, as by a trainer from iteration to iteration; else within a run at most.
    """
    with processes(make, forms, device, threads, held) as ask:
        found = {form: {"growth": ask(form, "growth")} for form in forms}
        times = {form: [] for form in forms}
        for turn in range(repeat):
            for place in range(len(forms)):
                form = forms[(turn + place) % len(forms)]
                times[form].append(ask(form, "seconds"))
        return {form: {**found[form], "seconds": times[form], "flops": ask(form, "flops")} for form in forms}
