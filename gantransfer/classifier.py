"""A small convolutional network from images to numbers: the classifier of the target's classes that steers iterative
sampling, and the encoder of its prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2


class ConvNet(nn.Module):
    """float [N, channels, R, R] in [-1, 1], R a power of two from 8 -> float [N, outputs].

    2x2 pixels become channels of a 3x3 convolution; 4x4 convolutions of stride 2 go down to 4x4 places, the width
    doubling from `width` up to 4 `width`; then one linear layer, which sees where things are. Leaky ReLUs, and no
    normalisation, so that one image's gradient is its own.
    """

    def __init__(self, resolution: int, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        steps = resolution.bit_length() - 3
        widths = [width * min(2**i, 4) for i in range(steps)]
        # A single input channel would leave the layout, and so the rounding, to chance: hence 4 of them.
        layers = [nn.Conv2d(4 * channels, width, 3, padding=1)]
        layers += [nn.Conv2d(i, o, 4, 2, 1) for i, o in zip(widths, widths[1:], strict=False)]
        self.convs = nn.ModuleList(layers)
        self.out = nn.Linear(widths[-1] * 16, outputs)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Every convolution's output after its leaky ReLU."""
        found, x = [], F.pixel_unshuffle(images, 2)
        for conv in self.convs:
            x = F.leaky_relu(conv(x.contiguous(memory_format=torch.channels_last)), SLOPE)
            found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.maps(images)[-1].flatten(1))


class Perceptron(nn.Module):
    """float [N, size] -> the same shape: hidden layers with ReLUs, the middle one a quarter as wide."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        sizes = (size, width, width // 2, max(width // 4, 1), width // 2, width, size)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            h = torch.relu(layer(h))
        return self.layers[-1](h)
