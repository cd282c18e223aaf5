"""Kill -9 at random moments, half of them while a checkpoint is being written.

One run is killed again and again, each time taken up by a new process; this one looks at what every kill left. At the
end it must equal, bit for bit, a run that nobody killed. Then whole runs, from the first file to the report, are killed
once each and resumed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import assemble, make_data, make_source, same, write_images

import gantransfer as gt
from gantransfer.checkpoint import load_checkpoint, save_checkpoint
from gantransfer.errors import Interrupted, ModelError
from gantransfer.weights import read_json
from torture.children import end, prepare, run, start

ENDLESS = 10**6  # steps
EVERY = 3  # steps between checkpoints


def torture(folder: Path, kills: int = 160, lives: int = 40, seed: int = 0) -> dict[str, Any]:
    """Figures of `kills` of one run and of `lives` whole runs killed once each."""
    prepare()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    one = _one_run(folder, kills, random.Random(seed))
    many = _whole_runs(folder, lives, random.Random(seed + 1)) if lives else {}
    return {"faults": kills + lives, "survived": kills + lives, "seconds": round(time.perf_counter() - began, 1),
            **one, **many}


# ---- one run, killed again and again ---------------------------------------------------------------------


class _Endless:
    """A run without end over a tiny source, with adaptive augmentation; `until` stops it as Ctrl-C does."""

    def __init__(self, folder: Path) -> None:
        self.gan, self.data = make_source("hierarchical"), make_data(folder / "images")
        self.data.fingerprint  # noqa: B018

    def __call__(self, out: Path, until: int | None = None) -> int:
        from gantransfer.losses import AdversarialLoss

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "trained":
                (out / "reached").write_text(str(event["step"]))
                if event["step"] == until:
                    os.kill(os.getpid(), signal.SIGINT)

        trainer = assemble(out, self.gan, self.data, "cgantransfer", {"match_steps": 1}, report=report, steps=ENDLESS,
                           eval_nimg=20, checkpoint_nimg=4 * EVERY,
                           loss=AdversarialLoss(augment="ada", ada_nimg=100)).trainer
        if (out / "checkpoints").is_dir():
            trainer.restore()
        try:
            trainer.run()
        except Interrupted as error:
            return error.exit_code
        return 0


def _one_run(folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    endless, out, log = _Endless(folder), folder / "killed", folder / "log.txt"
    for name in ("warm", "killed"):
        (folder / name).mkdir()
    endless(folder / "warm", 2)  # imports what a run needs, once for all processes
    pace = _pace(endless, folder / "warm")
    while_writing, lost, most = 0, [], 0.0
    for number in range(kills):
        before = _reached(out)
        pid = start(lambda: endless(out), log)
        if rng.random() < 0.9:  # the others die while they start
            _wait_for(lambda before=before: _reached(out) > before)
        while_writing += _kill(pid, out, rng, pace, rng.random() < 0.5)
        reached = max(_reached(out), before)
        try:
            step = load_checkpoint(out / "checkpoints")[1]["progress"]["step"]
        except ModelError:
            # Without any loadable state only before the first one was there.
            assert reached == 0, f"kill {number}: step {reached} was reached and nothing can be loaded"
            shutil.rmtree(out)
            out.mkdir()
            continue
        assert reached - step <= EVERY, f"kill {number}: went back from step {reached} to {step}"
        lost.append(reached - step)
        (out / "reached").write_text(str(step))
        most = max(most, lost[-1])
    kept = _reached(out)
    final = kept + 5
    assert run(lambda: endless(out, final), log) == 130, log.read_text()
    (folder / "straight").mkdir()
    assert run(lambda: endless(folder / "straight", final), log) == 130, log.read_text()
    (one, mine), (other, theirs) = (load_checkpoint(p / "checkpoints") for p in (out, folder / "straight"))
    for meta in (mine, theirs):
        for name in ("seconds", "measuring_seconds"):
            meta["progress"].pop(name)
        (meta["progress"]["best"] or {}).pop("seconds", None)
    assert same(one, other) and mine == theirs, "the killed run is not the one that nobody killed"
    return {"kills": kills, "kills_while_writing": while_writing, "steps": final, "steps_between_checkpoints": EVERY,
            "most_steps_lost": int(most), "steps_kept_by_kills": kept, "equals_the_run_nobody_killed": True}


def _reached(out: Path) -> int:
    try:
        return int((out / "reached").read_text())
    except (OSError, ValueError):
        return 0


def _wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.0002)


def _pace(endless: _Endless, out: Path) -> tuple[float, float]:
    """Seconds from one checkpoint to the next, and of writing one, on this machine as busy as it is."""
    began = time.perf_counter()
    endless(out, 2 + 4 * EVERY)
    interval = (time.perf_counter() - began) / 4
    state, began = load_checkpoint(out / "checkpoints"), time.perf_counter()
    for step in range(4):
        save_checkpoint(out / "paced", step, *state)
    return interval, (time.perf_counter() - began) / 4


def _kill(pid: int, out: Path, rng: random.Random, pace: tuple[float, float], in_a_write: bool) -> bool:
    """Kill the child at a random moment within two checkpoints, if asked while it writes the next; whether one was
    left half written."""
    time.sleep(rng.uniform(0, 2 * pace[0]))
    if in_a_write:
        _wait_for(lambda: any((out / "checkpoints").glob(".partial-*")))
        time.sleep(rng.uniform(0, pace[1] / 2))
    os.kill(pid, signal.SIGKILL)
    code = end(pid)
    assert code == -signal.SIGKILL, f"the run had ended before it was killed, with code {code}"
    return any((out / "checkpoints").glob(".[pr]*"))


# ---- whole runs, killed once -----------------------------------------------------------------------------


def _whole_runs(folder: Path, lives: int, rng: random.Random) -> dict[str, Any]:
    source = make_source("hierarchical").save_pretrained(folder / "source")
    images = write_images(folder / "whole-images", dict.fromkeys("ab", 12))
    log = folder / "whole.txt"

    def adapt(out: Path) -> None:
        gt.adapt(source, images, "bsa", out, data_options={"per_class": 6}, steps=6, batch_size=4, n_fake=16,
                 device="cpu", eval_nimg=12, checkpoint_nimg=8)

    adapt(folder / "reference")  # in this process: what is cached here costs the children nothing
    expected = gt.merge(source, folder / "reference").sha256
    began = time.perf_counter()
    assert run(lambda: adapt(folder / "timed"), log) == 0, log.read_text()
    lasts = time.perf_counter() - began
    resumed = anew = 0
    for number in range(lives):
        out = folder / f"life-{number}"
        pid = start(lambda out=out: adapt(out), log)
        time.sleep(rng.uniform(0, lasts))
        os.kill(pid, signal.SIGKILL)
        end(pid)
        if (out / "checkpoints").is_dir() and any((out / "checkpoints").glob("step-*")):
            assert run(lambda out=out: gt.resume(out) and 0, log) == 0, log.read_text()
            resumed += 1
        else:  # nothing was trained yet
            shutil.rmtree(out, ignore_errors=True)
            adapt(out)
            anew += 1
        assert gt.merge(source, out).sha256 == expected, f"life {number} came to another model"
        assert read_json(out / "result.json")["steps"] == 6 and (out / "report.html").is_file()
        shutil.rmtree(out)
    return {"whole_runs": lives, "whole_runs_resumed": resumed, "whole_runs_killed_before_training": anew}



