"""A generator whose distribution is known: one dark bar across each image."""

from __future__ import annotations

import torch
from tiny import make_source
from torch import Tensor, nn

from gantransfer.sources import GAN


class Bars(nn.Module):
    """Draws one dark bar across each image, at places that z chooses between `low` and `high`."""

    z_dim, num_classes = 4, 0

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, y: Tensor | None = None, noise: None = None) -> Tensor:
        images = torch.ones(len(z), 1, 32, 32)
        spread = torch.special.ndtr(z[:, 0])
        for image, share in zip(images, spread, strict=True):
            at = self.low + int(share * (self.high - self.low))
            image[:, at : at + 4] = -1
        return images


def bars(low: int, high: int, name: str) -> GAN:
    gan = make_source("unconditional")
    generator = Bars(low, high).eval()
    generator.config = gan.generator.config
    return GAN(generator, gan.discriminator, card={"name": name})
