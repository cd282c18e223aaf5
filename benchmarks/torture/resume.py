"""Exact resume: for every method on every kind of network, run(20) equals run(k) and its resumption, bit for bit, for a
random k and a random way of ending; the same in two processes, and with adaptive augmentation.

Compared are weights, moving average, critic and other training modules, optimisers, counters, and both logs.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from method_pairs import PAIRS, Pair
from tiny import Crash, assemble, assert_same_runs, break_at, make_data, make_source

from gantransfer.data import ImageData
from gantransfer.errors import Interrupted
from gantransfer.losses import AdversarialLoss
from gantransfer.registry import methods

STEPS = 20
ADA = AdversarialLoss(augment="ada", ada_nimg=40)
DIFF = AdversarialLoss(augment="translation,cutout")


def torture(folder: Path, share: float = 1.0, seed: int = 0, steps: int = STEPS) -> dict[str, Any]:
    """Figures of a random `share` of all pairs in one process, and of every method once in two."""
    folder.mkdir(parents=True, exist_ok=True)
    began, rng, tried, adaptive = time.perf_counter(), random.Random(seed), 0, 0
    data = {labelled: make_data(folder / f"data-{labelled}", labelled) for labelled in (True, False)}
    for pair in PAIRS:
        if rng.random() >= share:
            continue
        loss = rng.choice((ADA, DIFF))
        one(folder / "run", pair, data[pair.labelled], rng.randint(1, steps - 1), rng.choice(("stop", "crash")), loss,
            steps)
        tried, adaptive = tried + 1, adaptive + (loss is ADA)
    pairs = two_processes(folder / "two", seed, steps) if share == 1 else 0
    return {"faults": tried + pairs, "survived": tried + pairs, "pairs": tried, "with_adaptive_augmentation": adaptive,
            "in_two_processes": pairs, "steps": steps, "seconds": round(time.perf_counter() - began, 1)}


def one(folder: Path, pair: Pair, data: ImageData, k: int, how: str, loss: AdversarialLoss, steps: int = STEPS) -> None:
    """One pair, broken off at step `k`: by a signal ("stop"), or as a power cut does ("crash")."""
    gan = make_source(pair.network)
    sources = [gan, make_source("tables", 1)] if pair == Pair("minegan", "tables") else gan  # with its selector
    holder: list[Any] = []

    def start(name: str, report: Any = None) -> Any:
        trainer = assemble(folder / name, sources, data, pair.method, pair.fields, report, steps=steps, loss=loss,
                           checkpoint_nimg=12).trainer
        holder[:] = [trainer]
        return trainer

    start("straight").run()
    broken = start("broken", break_at(k, how, holder))
    try:
        broken.run()
    except (Crash, Interrupted):
        pass
    resumed = start("broken")
    resumed.restore()
    assert resumed.progress.step == k or (how == "crash" and k - 3 <= resumed.progress.step < k), (str(pair), k, how)
    resumed.run()
    try:
        assert_same_runs(folder / "broken", folder / "straight")
    except AssertionError:
        raise AssertionError(f"{pair} of {steps} steps is another run after '{how}' at {k}") from None
    if holder[0].processes.world == 1:
        shutil.rmtree(folder, ignore_errors=True)


# ---- two processes ---------------------------------------------------------------------------------------


def plain_pairs() -> Iterator[Pair]:
    """Every method once, with its defaults, on the first network that takes it."""
    for name in methods:
        yield next(pair for pair in PAIRS if pair.method == name and not pair.variant)


def two_processes(folder: Path, seed: int, steps: int) -> int:
    """Run `main` in two processes that train together; the number of pairs."""
    make_data(folder / "data-True")
    make_data(folder / "data-False", False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
              "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true",
              "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-m", "torture.resume", str(folder), str(seed), str(steps)]
    processes = [subprocess.Popen(words, env={**shared, "RANK": rank, "LOCAL_RANK": rank}, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for rank in "01"]
    printed = [process.communicate(timeout=1800)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(text[-3000:] for text in printed)
    return len(list(plain_pairs()))


def main(folder: Path, seed: int, steps: int) -> None:
    """What each of the two does. A step of both is decided by the same numbers, so both break off together."""
    rng = random.Random(seed)
    data = {labelled: ImageData(folder / f"data-{labelled}", size=32, channels=1) for labelled in (True, False)}
    for pair in plain_pairs():
        one(folder / str(pair), pair, data[pair.labelled], rng.randint(1, steps - 1), "stop", rng.choice((ADA, DIFF)),
            steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
