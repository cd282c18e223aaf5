"""What every means gains alone: an iteration of ours, and of ours with that one means in its plain form, in turn.

    python benchmarks/means.py            # both BigGAN rows of speed.py and AdaFM's; writes results/speed/means.md

A gain of 1.10 means that without it an iteration takes 1.10 times as long. Means that were tried and are not in the
library stand in ``results/speed/tried.md``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, whose profile.py would hide the standard library's

import torch  # noqa: E402

from benchmarks.plain import MEANS, plain  # noqa: E402
from benchmarks.speed import turns  # noqa: E402
from benchmarks.workloads import WORKS, make_trainer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--works", default="cgantransfer 32,cgantransfer 128,adafm 128")
    parser.add_argument("--out", type=Path, default=None, help="a Markdown file (default: results/speed/means.md)")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    works = a.works.split(",")
    gains: dict[str, list[str]] = {means: [] for means in MEANS}
    for work in works:
        size = {"batch_size": a.batch} if a.batch else {}
        trainers = {form: make_trainer(WORKS[work], "ours", a.device, a.threads, **size) for form in ("ours", *MEANS)}
        for means in MEANS:
            for part in (trainers[means].generator, trainers[means].extras):
                plain(part, {means})
        times = turns({form: trainer._iteration for form, trainer in trainers.items()}, a.repeat, a.device)
        base = statistics.median(times["ours"])
        for means in MEANS:
            ratios = sorted(t / o for t, o in zip(times[means], times["ours"], strict=True))
            gains[means].append(f"{statistics.median(times[means]) / base:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    lines = [f"| means | {' | '.join(works)} |", "|---" * (len(works) + 1) + "|"]
    lines += [f"| {means} | {' | '.join(found)} |" for means, found in gains.items()]
    text = "\n".join(lines) + "\n"
    print(text)
    if not a.batch:
        (a.out or ROOT / "results" / "speed" / "means.md").write_text(text)


if __name__ == "__main__":
    main()
