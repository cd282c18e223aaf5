"""Seconds per cGANTransfer iteration over the batch, the resolution, and the number N of source classes.

    python benchmarks/scaling.py           # narrow BigGANs (ch 8), 2 threads; writes results/speed/scaling-cpu.md

N enters an iteration in the score matrices alone: for M new classes and C channels a layer's tables cost M N C
multiplications, once per forward pass and not once per sample, and M N + N C numbers: linear in N. Beside the seconds
stands what the tables themselves take (forward and backward, all layers), which is all that grows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, whose profile.py would hide the standard library's

import torch  # noqa: E402

from benchmarks.workloads import HINGE, Work, make_trainer  # noqa: E402
from gantransfer.kept_memory import kept_memory  # noqa: E402
from gantransfer.modulation import propagations  # noqa: E402
from gantransfer.trainer import Trainer  # noqa: E402

BATCHES, RESOLUTIONS, CLASSES = (1, 4, 16, 64, 256), (32, 64, 128, 256), (10, 100, 300, 1000)
CHANNELS = {"cpu": 8, "cuda": 64}


def work(device: str, **network: Any) -> Work:
    width = CHANNELS[device]
    return Work("biggan", {"resolution": 32, "num_classes": 100, "g_ch": width, "d_ch": width, **network},
                "cgantransfer", 16, loss=HINGE)


def seconds(run: Callable[[], object], repeat: int, device: str) -> float:
    """Median of `repeat` runs after one that does not count."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def tables(trainer: Trainer, device: str) -> float:
    """Seconds of every class table, forward and backward, once."""
    trainer._only(trainer.plan.phases[-1].updates)
    layers = [trainer.generator.get_submodule(name) for name, _ in propagations(trainer.generator)]
    found = seconds(lambda: sum(layer.weight.sum() for layer in layers).backward(), 5, device)
    trainer.generator.zero_grad(set_to_none=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a trial; nothing is written")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    last = 2 if a.quick else None
    lines = ["| batch | resolution | source classes N | seconds per iteration | of them class tables | ms per image |",
             "|---|---|---|---|---|---|"]
    plan = [(batch, 32, 100) for batch in BATCHES[:last]] + [(8, side, 100) for side in RESOLUTIONS[:last]]
    plan += [(16, 32, classes) for classes in CLASSES[:last]]
    for batch, side, classes in plan:
        trainer = make_trainer(work(a.device, resolution=side, num_classes=classes), (), a.device, a.threads,
                               batch_size=batch)
        with kept_memory():
            whole, part = seconds(trainer._iteration, a.repeat, a.device), tables(trainer, a.device)
        # Both phases of an iteration make the tables, the critic's without a backward pass.
        lines.append(f"| {batch} | {side} | {classes} | {whole:.3f} | {2 * part:.4f} | {1000 * whole / batch:.1f} |")
        print(lines[-1], flush=True)
    if not a.quick:
        text = f"BigGAN, ch {CHANNELS[a.device]}, 10 new classes, {a.threads} threads, {a.device}.\n\n"
        (ROOT / "results" / "speed" / f"scaling-{a.device}.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
