"""Adaptive discriminator augmentation: strong augmentations with a probability that follows the critic's over-fitting.

Paper: Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020 (ADA). Every
transformation of appendix B's groups pixel blitting, general geometry and colour acts on each image with probability p,
for real and generated images alike; below p of about 0.8 they do not leak into what is generated. p moves every 4th
batch so that r_t = E[sign D(x)] over real images (eq. 1) stays at the target of 0.6, from 0 to 1 within 500,000 images
at the fastest.

Differs from the paper: bilinear sampling with reflected borders in place of orthogonal wavelets; grey images have
brightness, contrast and luma flips alone; filtering and corruptions, which the paper found harmful or of no gain, are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import UsageError, did_you_mean
from gantransfer.observing import over_processes

GROUPS = ("blit", "geometry", "colour")
EVERY = 4  # batches between adjustments of p


def parse(policy: str) -> tuple[str, ...] | None:
    """The groups that a policy "ada" (all) or "ada:blit,colour" names, or None for another policy.

    Raises:
        UsageError: a group that does not exist.
    """
    name, colon, rest = policy.partition(":")
    if name.strip() != "ada":
        return None
    groups = tuple(g.strip() for g in rest.split(",") if g.strip()) if colon else GROUPS
    for group in groups:
        if group not in GROUPS:
            raise UsageError(f"ADA has no group '{group}'{did_you_mean(group, GROUPS)}; have: {', '.join(GROUPS)}")
    if not groups:
        raise UsageError(f"augmentation '{policy}' names no group; have: {', '.join(GROUPS)}")
    return groups


class AdaptiveAugment(nn.Module):
    """``augment(images, rng)`` with what it has seen of the critic, which is saved and resumed with the run.

    Args:
        groups: of `GROUPS`. target: of r_t. nimg: images in which p moves by 1 at most.

    Buffers:
        p: probability of each transformation, [0, 1]. signs, count, batches: sums since the last adjustment.
    """

    p: Tensor
    signs: Tensor
    count: Tensor
    batches: Tensor

    def __init__(self, groups: Sequence[str] = GROUPS, target: float = 0.6, nimg: int = 500_000) -> None:
        super().__init__()
        self.groups, self.target, self.nimg = tuple(groups), target, nimg
        for name in ("p", "signs", "count", "batches"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def observe(self, logits: Tensor) -> None:
        """Take in the critic's logits [N] of real images, and adjust p when it is time."""
        seen = torch.stack([logits.float().sign().sum(), logits.new_tensor(float(len(logits)), dtype=torch.float32)])
        seen = over_processes(seen)
        self.signs += seen[0].to(self.signs)
        self.count += seen[1].to(self.count)
        self.batches += 1
        if self.batches >= EVERY:
            step = torch.sign(self.signs / self.count - self.target) * self.count / self.nimg
            self.p.copy_((self.p + step).clamp(0, 1))
            for name in ("signs", "count", "batches"):
                getattr(self, name).zero_()

    def forward(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """float [N, C, H, W] -> the same shape, each transformation drawn for each image; differentiable."""
        p = float(self.p)
        if p == 0:
            return images
        draw = Draws(len(images), p, rng)
        if {"blit", "geometry"} & set(self.groups):
            matrix = inverse_geometry(draw, "blit" in self.groups, "geometry" in self.groups, images.shape[2:])
            grid = F.affine_grid(matrix[:, :2].to(images), list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        if "colour" in self.groups:
            matrix = colour(draw, images.shape[1]).to(images)
            images = torch.einsum("nij,njhw->nihw", matrix[:, :-1, :-1], images) + matrix[:, :-1, -1, None, None]
        return images


class Draws:
    """Random numbers for a batch: each value is drawn, and then kept with probability p, else replaced by `neutral`."""

    def __init__(self, n: int, p: float, rng: torch.Generator) -> None:
        self.n, self.p, self.rng = n, p, rng

    def keep(self, values: Tensor, neutral: float, p: float | None = None) -> Tensor:
        """`values` [N, ...], all of an image or none."""
        chosen = torch.rand(self.n, generator=self.rng) < (self.p if p is None else p)
        return values.where(chosen.view(-1, *[1] * (values.ndim - 1)), torch.full_like(values, neutral))

    def uniform(self, low: float, high: float, neutral: float = 0.0, p: float | None = None) -> Tensor:
        return self.keep(low + (high - low) * torch.rand(self.n, generator=self.rng), neutral, p)

    def normal(self, std: float) -> Tensor:
        return self.keep(std * torch.randn(self.n, generator=self.rng), 0.0)

    def log_normal(self, std: float) -> Tensor:
        return self.keep(torch.exp2(std * torch.randn(self.n, generator=self.rng)), 1.0)

    def integer(self, low: int, high: int) -> Tensor:
        return self.keep(torch.randint(low, high + 1, (self.n,), generator=self.rng).float(), 0.0)


def inverse_geometry(draw: Draws, blit: bool, geometry: bool, size: Sequence[int]) -> Tensor:
    """float [N, 3, 3]: from places of the augmented image to those of the original, both from -1 to 1 (appendix B)."""
    matrix = torch.eye(3).repeat(draw.n, 1, 1)
    if blit:
        matrix = matrix @ _scale(1 - 2 * draw.integer(0, 1), torch.ones(draw.n))
        matrix = matrix @ _rotate(-math.pi / 2 * draw.integer(0, 3))
        parts = draw.keep(0.25 * torch.rand(draw.n, 2, generator=draw.rng) - 0.125, 0.0)
        shifts = [(part * side).round() * 2 / side for part, side in zip(parts.T, (size[1], size[0]), strict=True)]
        matrix = matrix @ _shift(*shifts)
    if geometry:
        rotation = 1 - math.sqrt(1 - draw.p)  # before and after the anisotropic scaling: p together
        isotropic = draw.log_normal(0.2)
        matrix = matrix @ _scale(1 / isotropic, 1 / isotropic)
        matrix = matrix @ _rotate(draw.uniform(-math.pi, math.pi, p=rotation))
        anisotropic = draw.log_normal(0.2)
        matrix = matrix @ _scale(1 / anisotropic, anisotropic)
        matrix = matrix @ _rotate(draw.uniform(-math.pi, math.pi, p=rotation))
        matrix = matrix @ _shift(*draw.keep(0.25 * torch.randn(draw.n, 2, generator=draw.rng), 0.0).T)
    return matrix


def colour(draw: Draws, channels: int) -> Tensor:
    """float [N, channels + 1, channels + 1]: acts on pixels (c_1, ..., 1) in [-1, 1] (appendix B)."""
    matrix = torch.eye(channels + 1).repeat(draw.n, 1, 1)
    luma = torch.cat([torch.full((channels,), channels**-0.5), torch.zeros(1)])
    along = luma[:, None] * luma
    brightness = torch.eye(channels + 1).repeat(draw.n, 1, 1)
    brightness[:, :-1, -1] = draw.normal(0.2)[:, None]
    contrast = torch.ones(draw.n, channels + 1)
    contrast[:, :-1] = draw.log_normal(0.5)[:, None]
    flip = torch.eye(channels + 1) - 2 * along * draw.integer(0, 1)[:, None, None]
    matrix = flip @ torch.diag_embed(contrast) @ brightness @ matrix
    if channels == 3:
        matrix = _around_luma(draw.uniform(-math.pi, math.pi), luma[:3]) @ matrix
        saturation = draw.log_normal(1.0)[:, None, None]
        rest = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])) - along
        matrix = (along + saturation * rest + torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))) @ matrix
    return matrix


def _around_luma(angle: Tensor, axis: Tensor) -> Tensor:
    """Rotation of colours around the grey axis (Rodrigues), float [N, 4, 4]."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    found = torch.eye(4).repeat(len(angle), 1, 1)
    found[:, :3, :3] = cos * torch.eye(3) + sin * cross + (1 - cos) * axis[:, None] * axis
    return found


def _scale(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def _rotate(angle: Tensor) -> Tensor:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    found = torch.eye(3).repeat(len(x), 1, 1)
    found[:, 0, 2], found[:, 1, 2] = x, y
    return found
