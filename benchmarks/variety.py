"""How much of the variety within a class a generator has, beside a class's real images.

    python benchmarks/variety.py glyph80-32 --data glyph100-open.zip --classes source80

For every class: the principal axes of its real images (pixels), and along each the variance of 64 samples as a part of
the real images' variance. 1 is as varied as the data, 0 is one image. Printed: the mean over classes of the total, the
least class, and the mean for the first axes (for letters: weight, then slant, width, serifs).
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import gantransfer as gt
from gantransfer.data import to_float
from gantransfer.sampling import generate

AXES, SAMPLES = 8, 64


def ratios(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(total, per axis [AXES]): variance of `fake` over that of `real`, float [N, D] each, around their own means."""
    real, fake = real - real.mean(0), fake - fake.mean(0)
    axes = torch.linalg.svd(real, full_matrices=False).Vh[:AXES]
    per_axis = (fake @ axes.T).square().mean(0) / (real @ axes.T).square().mean(0)
    return fake.square().sum(1).mean() / real.square().sum(1).mean(), per_axis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--classes", default=None)
    arguments = parser.parse_args()
    gan = gt.GAN.from_pretrained(arguments.model)
    config = gan.config
    data = gt.ImageData(arguments.data, size=config["resolution"], channels=config["channels"],
                        classes=arguments.classes)
    labels, totals, axes = torch.as_tensor(data.labels), [], []
    for c in range(len(gan.classes)):
        real = to_float(data.images((labels == c).nonzero().flatten())).flatten(1)
        z = torch.randn(SAMPLES, config["z_dim"], generator=torch.Generator().manual_seed(c))
        fake = to_float(generate(gan.generator, z, torch.full((SAMPLES,), c))).flatten(1)
        total, per_axis = ratios(real, fake)
        totals.append(total)
        axes.append(per_axis)
    total = torch.stack(totals)
    print(f"variance within a class: {total.mean():.2f} of the real images', least "
          f"{total.min():.2f} ({gan.classes[int(total.argmin())]})")
    print("first axes:", " ".join(f"{float(v):.2f}" for v in torch.stack(axes).mean(0)))


if __name__ == "__main__":
    main()
