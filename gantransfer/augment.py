"""DiffAugment: differentiable augmentation of what the critic sees, real and fake alike.

Paper: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020. Reference code:
data-efficient-gans (0b63395). Every image has its own draws; nothing is clamped. Operations take their draws as
arguments, one number per image [N]; `OPERATIONS` says how each is drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gantransfer.errors import UsageError, did_you_mean

TRANSLATION, CUTOUT = 0.125, 0.5  # parts of the side, as published


def _per_image(u: Tensor, x: Tensor) -> Tensor:
    return u.to(x).view(-1, 1, 1, 1)


def brightness(x: Tensor, u: Tensor) -> Tensor:
    """Add u - 0.5, u in [0, 1)."""
    return x + (_per_image(u, x) - 0.5)


def saturation(x: Tensor, u: Tensor) -> Tensor:
    """Scale the deviation from each pixel's channel mean by 2u (no effect on grey images)."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * (2 * _per_image(u, x)) + mean


def contrast(x: Tensor, u: Tensor) -> Tensor:
    """Scale the deviation from the image's mean by u + 0.5."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (_per_image(u, x) + 0.5) + mean


def translation(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """out[i, j] = x[i + rows, j + cols], int64 shifts; zeros come in."""
    h, w = x.shape[2:]
    i = torch.arange(h, device=x.device)[None, :, None] + rows.to(x.device)[:, None, None]
    j = torch.arange(w, device=x.device)[None, None, :] + cols.to(x.device)[:, None, None]
    inside = ((i >= 0) & (i < h)) & ((j >= 0) & (j < w))  # [N, H, W]
    index = (i.clamp(0, h - 1) * w + j.clamp(0, w - 1)).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).reshape(x.shape) * inside[:, None]


def cutout(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Zero a box of half of each side at the centre (rows, cols), int64, clipped to the image."""
    masks = []
    for side, centre in zip(x.shape[2:], (rows, cols), strict=True):
        size = _box(side)
        start = centre.to(x.device)[:, None] - size // 2
        positions = torch.arange(side, device=x.device)[None]
        # The published code clips the box's pixels into the image, so an edge pixel can be hit from outside.
        low, high = start.clamp(0, side - 1), (start + size - 1).clamp(0, side - 1)
        masks.append((positions >= low) & (positions <= high))
    return x * ~(masks[0][:, :, None] & masks[1][:, None, :])[:, None]


def _box(side: int) -> int:
    return int(side * CUTOUT + 0.5)


# ---- draws -----------------------------------------------------------------------------------------------


def _uniform(x: Tensor, rng: torch.Generator) -> tuple[Tensor]:
    """float32 [N] in [0, 1)."""
    return (torch.rand(len(x), generator=rng),)


def _shifts(x: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
    """int64 [N] twice, up to an eighth of the side either way."""
    limits = [int(side * TRANSLATION + 0.5) for side in x.shape[2:]]
    return tuple(torch.randint(-limit, limit + 1, (len(x),), generator=rng) for limit in limits)


def _centres(x: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
    """int64 [N] twice, anywhere on the image; for even boxes one position beyond it."""
    ends = [side + 1 - _box(side) % 2 for side in x.shape[2:]]
    return tuple(torch.randint(0, end, (len(x),), generator=rng) for end in ends)


Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, ...]]
OPERATIONS: dict[str, tuple[tuple[Callable[..., Tensor], Draw], ...]] = {
    "color": ((brightness, _uniform), (saturation, _uniform), (contrast, _uniform)),
    "translation": ((translation, _shifts),),
    "cutout": ((cutout, _centres),),
}


def diff_augment(policy: str) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The augmentation of a comma list of 'color', 'translation', 'cutout', in that order; '' is none.

    Returns:
        A function of images float [N, C, H, W] and a CPU generator.
    """
    names = [p.strip() for p in policy.split(",") if p.strip()]
    for name in names:
        if name not in OPERATIONS:
            raise UsageError(
                f"augmentation '{name}' does not exist{did_you_mean(name, OPERATIONS)}; have: {', '.join(OPERATIONS)}"
            )

    def apply(x: Tensor, rng: torch.Generator) -> Tensor:
        for name in names:
            for operation, draw in OPERATIONS[name]:
                x = operation(x, *draw(x, rng))
        return x

    return apply
