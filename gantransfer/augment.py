"""DiffAugment: differentiable augmentation of what the critic sees, real and fake alike.

Paper: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020. Reference code:
data-efficient-gans (0b63395). Every image has its own draws; nothing is clamped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gantransfer.errors import UsageError, did_you_mean


def _uniform(x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.rand(len(x), 1, 1, 1, generator=rng).to(x)


def brightness(x: Tensor, rng: torch.Generator) -> Tensor:
    """Add u - 0.5, one u per image."""
    return x + (_uniform(x, rng) - 0.5)


def saturation(x: Tensor, rng: torch.Generator) -> Tensor:
    """Scale the deviation from each pixel's channel mean by 2u (no effect on grey images)."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * (2 * _uniform(x, rng)) + mean


def contrast(x: Tensor, rng: torch.Generator) -> Tensor:
    """Scale the deviation from the image's mean by u + 0.5."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (_uniform(x, rng) + 0.5) + mean


def _integers(low: int, high: int, n: int, x: Tensor, rng: torch.Generator) -> Tensor:
    """int64 [n, 1, 1], uniform in [low, high]."""
    return torch.randint(low, high + 1, (n, 1, 1), generator=rng).to(x.device)


def translation(x: Tensor, rng: torch.Generator, ratio: float = 0.125) -> Tensor:
    """Shift rows and columns by integers up to `ratio` of the side; zeros come in."""
    n, _, h, w = x.shape
    limits = int(h * ratio + 0.5), int(w * ratio + 0.5)
    rows = torch.arange(h, device=x.device)[None, :, None] + _integers(-limits[0], limits[0], n, x, rng)
    cols = torch.arange(w, device=x.device)[None, None, :] + _integers(-limits[1], limits[1], n, x, rng)
    inside = ((rows >= 0) & (rows < h)) & ((cols >= 0) & (cols < w))  # [N, H, W]
    index = (rows.clamp(0, h - 1) * w + cols.clamp(0, w - 1)).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).reshape(x.shape) * inside[:, None]


def cutout(x: Tensor, rng: torch.Generator, ratio: float = 0.5) -> Tensor:
    """Zero a box of `ratio` of each side at a uniform centre, clipped to the image."""
    n, _, h, w = x.shape
    masks = []
    for side, axis in ((h, 1), (w, 2)):
        size = int(side * ratio + 0.5)
        start = _integers(0, side - size % 2, n, x, rng) - size // 2
        positions = torch.arange(side, device=x.device).view((1, -1, 1) if axis == 1 else (1, 1, -1))
        # The published code clips the box's pixels into the image, so an edge pixel can be hit from outside.
        low, high = start.clamp(0, side - 1), (start + size - 1).clamp(0, side - 1)
        masks.append((positions >= low) & (positions <= high))
    return x * ~(masks[0] & masks[1])[:, None]


OPERATIONS: dict[str, tuple[Callable[[Tensor, torch.Generator], Tensor], ...]] = {
    "color": (brightness, saturation, contrast),
    "translation": (translation,),
    "cutout": (cutout,),
}


def diff_augment(policy: str) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The augmentation of a comma list of 'color', 'translation', 'cutout', in that order; '' is none."""
    names = [p.strip() for p in policy.split(",") if p.strip()]
    for name in names:
        if name not in OPERATIONS:
            raise UsageError(
                f"augmentation '{name}' does not exist{did_you_mean(name, OPERATIONS)}; have: {', '.join(OPERATIONS)}"
            )

    def apply(x: Tensor, rng: torch.Generator) -> Tensor:
        for name in names:
            for operation in OPERATIONS[name]:
                x = operation(x, rng)
        return x

    return apply
