"""What every means gains alone: an iteration of ours, and of ours with that one means in its plain form, in turn.

    python benchmarks/means.py            # both BigGAN rows of speed.py and AdaFM's; writes results/speed/means.md

A gain of 1.10 means that without it an iteration takes 1.10 times as long; a means that a work does not have (attention
at 32 px, residual blocks of a BigGAN) says how noisy the figures are. Means that were tried and are not in the
library stand in ``results/speed/tried.md``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, whose profile.py would hide the standard library's

from benchmarks.forms import KEPT, measured  # noqa: E402
from benchmarks.plain import MEANS  # noqa: E402
from benchmarks.speed import iteration  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--works", default="cgantransfer 32,cgantransfer 128,adafm 128")
    parser.add_argument("--out", type=Path, default=None, help="a Markdown file (default: results/speed/means.md)")
    a = parser.parse_args()
    works = a.works.split(",")
    gains: dict[str, list[str]] = {means: [] for means in (*MEANS, KEPT)}
    for work in works:
        make = partial(iteration, work=work, changes={}, precision="fp32", batch=a.batch, device=a.device,
                       threads=a.threads)
        found = measured(make, ("ours", *(f"without {means}" for means in gains)), a.repeat, a.device, a.threads)
        ours = found["ours"]["seconds"]
        for means in gains:
            times = found[f"without {means}"]["seconds"]
            ratios = sorted(t / o for t, o in zip(times, ours, strict=True))
            gain = statistics.median(times) / statistics.median(ours)
            gains[means].append(f"{gain:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    lines = [f"| means | {' | '.join(works)} |", "|---" * (len(works) + 1) + "|"]
    lines += [f"| {means} | {' | '.join(found)} |" for means, found in gains.items()]
    text = __doc__.split("\n\n")[2] + "\n\n" + "\n".join(lines) + "\n"
    print(text)
    if not a.batch:
        (a.out or ROOT / "results" / "speed" / "means.md").write_text(text)


if __name__ == "__main__":
    main()
