"""Where an iteration's time goes, for `benchmarks/profile.py`."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain import MEANS
from benchmarks.workloads import WORKS, make_trainer
from gantransfer.kept_memory import kept_memory
from gantransfer.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
TOP = 14  # operations listed


def by_phase(trainer: Trainer) -> dict[str, float]:
    """Seconds of each phase's update, and of the rest of an iteration (moving average, copies of buffers)."""
    found: dict[str, float] = {}
    update = trainer._update

    def timed(index: int, repeat: int, draw: int) -> Any:
        start = time.perf_counter()
        result = update(index, repeat, draw)
        found[trainer.plan.phases[index].name] = time.perf_counter() - start
        return result

    trainer._update = timed
    start = time.perf_counter()
    trainer._iteration()
    whole = time.perf_counter() - start
    trainer._update = update
    return {**found, "rest": whole - sum(found.values())}


def by_operation(trainer: Trainer, device: str) -> dict[str, float]:
    """Shares of the time spent in operations themselves, the largest first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        trainer._iteration()
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = {event.key: getattr(event, key) for event in profiler.key_averages()}
    whole = sum(times.values())
    largest = sorted(times, key=times.get, reverse=True)[:TOP]
    return {name: times[name] / whole for name in largest}


def main() -> None:
    parser = argparse.ArgumentParser(prog="profile.py", description=__doc__)
    parser.add_argument("--work", default="", choices=("", *WORKS))
    parser.add_argument("--form", default="ours", choices=("ours", "plain"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON (default: results/speed/profile-DEVICE.json)")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    results = {}
    for work in [a.work] if a.work else WORKS:
        size = {"batch_size": a.batch} if a.batch else {}
        trainer = make_trainer(WORKS[work], MEANS if a.form == "plain" else (), a.device, a.threads, **size)
        with kept_memory() if a.form == "ours" else nullcontext():
            trainer._iteration()
            phases, operations = by_phase(trainer), by_operation(trainer, a.device)
        results[work] = {"form": a.form, "batch": trainer.schedule.batch_size, "seconds": phases, "share": operations}
        print(f"\n{work}, {a.form}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items()))
        for name, share in operations.items():
            print(f"  {share:6.1%}  {name}")
    if not (a.work or a.batch):
        out = a.out or ROOT / "results" / "speed" / f"profile-{a.device}.json"
        out.write_text(json.dumps(results, indent=1) + "\n")
