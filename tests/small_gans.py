"""The smallest GANs of every kind a method meets, with disturbed weights and statistics so that nothing is trivial."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gantransfer.networks.biggan import BigGAN, build_discriminator, build_generator
from gantransfer.sources import GAN

KINDS: dict[str, dict[str, Any]] = {
    "table": {},
    "shared": {"class_affine": "shared", "shared_dim": 6},
    "hierarchical": {"class_affine": "shared", "shared_dim": 6, "hierarchical": True, "z_dim": 12},
}


def disturb(net: nn.Module, seed: int) -> None:
    """Random statistics, affines and sizes of weights: fresh ones hide a missing division or a missing 1."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            last = name.rsplit(".", 1)[-1]
            noise = torch.randn(tensor.shape, generator=rng)
            if last in ("stored_mean", "bias", "gamma"):
                tensor.copy_(0.3 * noise)
            elif last == "stored_var":
                tensor.copy_(1 + 0.5 * noise.abs())
            elif last == "gain":
                tensor.copy_(1 + 0.2 * noise)
            elif last == "weight":
                tensor.mul_(1.7).add_(0.1 * noise)


def small_gan(kind: str = "table", *, critic: bool = True, seed: int = 0, **changes: Any) -> GAN:
    """A GAN of `KINDS[kind]` with 4 classes, in eval mode."""
    config = BigGAN.tiny(**{**KINDS[kind], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = build_generator(config)
        discriminator = build_discriminator(config) if critic else None
    disturb(generator, seed + 1)
    if discriminator is not None:
        disturb(discriminator, seed + 2)
    return GAN(generator, discriminator)


def latents(gan: GAN, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, gan.generator.z_dim, generator=torch.Generator().manual_seed(seed))
