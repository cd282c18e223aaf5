"""Memorisation check: the nearest training image of each sample, beside what real images show.

A sample counts as a copy where it lies nearer to a training image than nearly all real images do: the threshold is the
distance within which 1 in 100 held-out real images has its nearest training image. So about 1 % of an honest
generator's samples count too; a rate well above that means memorised images. Without held-out images the training
images' distances to each other are used. Pairs of equal images are left out of both: duplicates in the data would
make the threshold zero, and nothing a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gantransfer.data import ImageData
from gantransfer.features import Extractor

QUANTILE = 0.01  # of real images that count as copies: the rate to expect of an honest generator
CALIBRATED_ON = 4096  # real images at most, evenly taken: enough for the quantile
TABLE = 1 << 24  # distances computed at once at most: 64 MB
EQUAL = 1e-4  # distances below this part of the median are of equal images: features of other batches round otherwise


@dataclass(frozen=True)
class Calibration:
    """What distance counts as a copy: `threshold`, the `median` beside it, both of so many real `images`, which are
    `kind`."""

    threshold: float
    median: float
    images: int
    kind: str

    def copies(self, distances: Tensor) -> Tensor:
        """bool [n]: which of the nearest-training-image `distances` [n] are copies."""
        return distances <= max(self.threshold, EQUAL * self.median)


def calibrate(training: Tensor, held_out: Tensor | None) -> Calibration:
    """From features float32 [n, d] of the training images and, if there are some, of held-out ones [m, d]."""
    kind = "training images among themselves" if held_out is None else "held-out real images"
    real = training if held_out is None else held_out
    rows = torch.linspace(0, len(real) - 1, min(len(real), CALIBRATED_ON)).round().long()
    distances, _ = nearest(real[rows], training, own=rows if held_out is None else None)
    distances = distances[distances.isfinite()]
    different = distances[distances > EQUAL * distances.median()] if len(distances) else distances
    if not len(different):  # nothing to calibrate on: only equal images count
        return Calibration(0.0, 0.0, 0, kind)
    return Calibration(float(torch.quantile(different, QUANTILE)), float(different.median()), len(different), kind)


def nearest(a: Tensor, b: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distances float32 [n] from each row of `a` [n, d] to the nearest of `b` [m, d], and its index int64 [n].

    Args:
        own: int64 [n], the row of `b` that each of `a` is itself, which does not count.
    """
    indices = []
    for rows in torch.arange(len(a)).split(max(1, min(1024, TABLE // len(b)))):
        table = torch.cdist(a[rows], b)
        if own is not None:
            table[torch.arange(len(rows)), own[rows]] = torch.inf
        indices.append(table.argmin(1))
    found = torch.cat(indices)
    # Again without the table's matrix product, which is off by a thousandth where images are equal.
    distances = (a - b[found]).square().sum(1).sqrt()
    return (distances if own is None or len(b) > 1 else torch.full_like(distances, torch.inf)), found


def nearest_images(samples: Tensor, training: ImageData, held_out: ImageData | None,
                   extractor: Extractor) -> tuple[Tensor, dict[str, Any]]:
    """Indices of the nearest training images, int64 [n], and the record for ``nearest.json``.

    Args:
        samples: uint8 [n, C, H, W].
    """
    bank = _features(training.images, len(training), extractor)
    distances, indices = nearest(_features(samples.__getitem__, len(samples), extractor), bank)
    real = calibrate(bank, None if held_out is None else _features(held_out.images, len(held_out), extractor))
    copied = real.copies(distances)
    record = {
        "distances": [round(float(d), 4) for d in distances],
        "feature": extractor.identity,
        "copies": int(copied.sum()),
        "copied": copied.nonzero().flatten().tolist(),
        "rate": float(copied.float().mean()),
        "expected_rate": QUANTILE,
        "threshold": real.threshold,
        "calibration": f"1 % quantile of the nearest-training-image distance of {real.kind}",
        "calibration_images": real.images,
        "median_real": real.median,
        "indices": indices.tolist(),
        "paths": [training.paths[i] for i in indices.tolist()],
    }
    return indices, record


def _features(images: Callable[[Tensor], Tensor], count: int, extractor: Extractor) -> Tensor:
    """Of `count` images, a part at a time, since a large set is decoded as it is read."""
    return torch.cat([extractor(images(part))[0].float().cpu() for part in torch.arange(count).split(256)])
