"""Distributions of a generator's latents other than the standard normal, computed from it.

A generator whose latents were fitted to images is sampled near the middle of the normal distribution alone (Noguchi and
Harada, "Image Generation From Small Datasets via Batch Statistics Adaptation", ICCV 2019). Here that is a module at the
seam `prior` of every network, so that everything that draws standard normal latents draws the right ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gantransfer.errors import ModelError

KINDS = ("normal", "truncated")


class NarrowNormal(nn.Module):
    """Standard normal z, any shape -> the same shape, each entry of a narrower distribution.

    ``normal``: scale z. ``truncated``: the standard normal cut to [-scale, scale], by its distribution function F:
    F^-1(F(-scale) + F(z) (F(scale) - F(-scale))). Either is monotonous, so neighbours stay neighbours.
    """

    def __init__(self, kind: str, scale: float) -> None:
        super().__init__()
        self.kind, self.scale, self.passes = kind, scale, False

    def forward(self, z: Tensor) -> Tensor:
        if self.passes:
            return z
        if self.kind == "normal":
            return self.scale * z
        low = 0.5 * math.erfc(self.scale / math.sqrt(2))
        share = low + torch.special.ndtr(z.double()) * (1 - 2 * low)
        return torch.special.ndtri(share).clamp(-self.scale, self.scale).to(z)


def latent_prior(text: str) -> nn.Module:
    """The module that ``KIND:SCALE`` describes, as ``truncated:0.5``; "" is the standard normal distribution itself.

    Raises:
        ModelError: another kind, or a scale that is no positive number.
    """
    if not text:
        return nn.Identity()
    kind, _, number = text.partition(":")
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if kind not in KINDS or not 0 < scale < math.inf:
        kinds = " or ".join(f"{known}:SCALE" for known in KINDS)
        raise ModelError(f"sampling prior '{text}' does not exist; give {kinds} with a positive scale, for example "
                         "truncated:0.5, or nothing for the standard normal")
    return NarrowNormal(kind, scale)


@contextmanager
def given_latents(generator: nn.Module) -> Iterator[None]:
    """Inside, `generator` takes its latents as they are: they are no draws but fitted ones."""
    prior = generator.prior
    before = getattr(prior, "passes", None)
    if before is not None:
        prior.passes = True
    try:
        yield
    finally:
        if before is not None:
            prior.passes = before


def noise_of(z: Tensor, count: int) -> Tensor:
    """Standard normal numbers [N, count], of the dtype and on the device of the latents z [N, z_dim]. Each row's are
    drawn from a generator seeded by that row: a latent has the same noise in every batch, process and resumed run."""
    rows, draw = z.detach().to("cpu", torch.float32).contiguous().numpy(), torch.Generator()
    seeds = (int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") >> 1 for row in rows)
    return torch.stack([torch.randn(count, generator=draw.manual_seed(seed)) for seed in seeds]).to(z)
