"""Memorisation check: the nearest training image of each sample, beside what real images show.

The threshold is calibrated on real data: one in a hundred held-out real images is at least as close to a
training image. Without held-out images the training images' distances to each other are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gantransfer.data import ImageData
from gantransfer.features import Extractor


def nearest_images(samples: Tensor, training: ImageData, held_out: ImageData | None,
                   extractor: Extractor) -> tuple[Tensor, dict[str, Any]]:
    """Indices of the nearest training images, int64 [n], and the record for ``nearest.json``.

    Args:
        samples: uint8 [n, C, H, W].
    """
    bank = _features(training.images, len(training), extractor)
    distances, indices = _nearest(_features(samples.__getitem__, len(samples), extractor), bank)
    if held_out is not None:
        real, _ = _nearest(_features(held_out.images, len(held_out), extractor), bank)
        calibration = "held-out real images"
    else:
        real = _nearest(bank, bank, skip_self=True)[0]
        calibration = "training images among themselves"
    threshold = float(torch.quantile(real[:20000], 0.01))
    record = {
        "distances": [round(float(d), 4) for d in distances],
        "feature": extractor.identity,
        "copies": int((distances < threshold).sum()),
        "threshold": threshold,
        "calibration": f"1 % quantile of the nearest-training-image distance of {calibration}",
        "median_real": float(real.median()),
        "indices": indices.tolist(),
        "paths": [training.paths[i] for i in indices.tolist()],
    }
    return indices, record


def _features(images: Callable[[Tensor], Tensor], count: int, extractor: Extractor) -> Tensor:
    """Of `count` images, a part at a time, since a large set is decoded as it is read."""
    return torch.cat([extractor(images(part))[0].float().cpu() for part in torch.arange(count).split(256)])


def _nearest(a: Tensor, b: Tensor, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = [], []
    for start in range(0, len(a), 1024):
        d = torch.cdist(a[start : start + 1024], b)
        if skip_self:
            rows = torch.arange(len(d))
            d[rows, rows + start] = torch.inf
        least = d.min(1)
        values.append(least.values)
        indices.append(least.indices)
    return torch.cat(values), torch.cat(indices)
