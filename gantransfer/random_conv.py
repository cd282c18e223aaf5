"""The network behind the ``random-conv`` features: never trained, so equally good or bad for every kind of image.

Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020, section 4.3: features of a
randomly initialised network suit data that ImageNet's or anyone's classes do not. Differs from theirs: a small network
whose weights are drawn here, the same on every machine, instead of a random VGG-16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEED = 20201
WIDTHS = (32, 64, 128)
PLACES = 4  # side of the grid on which the last maps keep where things are


class RandomConv(nn.Module):
    """float32 [N, 3, S, S], S 32 or more, roughly in [-1, 1] -> (features [N, 256], None).

    Three stages of a 3x3 convolution, leaky ReLU and 2x2 average pooling. Features: mean and
    standard deviation of the second stage's maps (texture and colour), and a random projection of the third's, pooled
    to 4x4 places (layout). Each half is scaled to unit variance on noise of all resolutions, whose spectrum is about
    that of photographs.
    """

    FEATURES = 256

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.RandomState(SEED)
        ins = (3, *WIDTHS[:-1])
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, padding_mode="replicate")
                                   for i, o in zip(ins, WIDTHS, strict=True))
        self.project = nn.Linear(WIDTHS[-1] * PLACES**2, self.FEATURES - 2 * WIDTHS[1], bias=False)
        with torch.no_grad():
            for layer in (*self.convs, self.project):
                bound = (6 / layer.weight[0].numel()) ** 0.5  # keeps the variance, as leaky ReLUs take half of it away
                layer.weight.copy_(bound * _uniform(rng, layer.weight.shape))
                if layer.bias is not None:
                    layer.bias.copy_(0.1 * _uniform(rng, layer.bias.shape))
        self.register_buffer("scale", torch.ones(2))
        octaves = [F.interpolate(1.7 * _uniform(rng, (256, 3, side, side)), 32, mode="bilinear")
                   for side in (1, 2, 4, 8, 16, 32)]
        with torch.no_grad():
            parts = self._parts((0.4 * sum(octaves)).clamp(-1, 1))
            # Rounded, so that the identity of the features does not depend on a machine's last bits.
            self.scale.copy_(torch.tensor([float(f"{1 / float(part.std(0).mean()):.2g}") for part in parts]))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = []
        for conv in self.convs:
            x = F.avg_pool2d(F.leaky_relu(conv(x), 0.2), 2)
            maps.append(x)
        texture = torch.cat([maps[1].mean((2, 3)), maps[1].flatten(2).std(2)], 1)
        return texture, self.project(F.adaptive_avg_pool2d(maps[2], PLACES).flatten(1))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        texture, layout = self._parts(x)
        return torch.cat([self.scale[0] * texture, self.scale[1] * layout], 1), None


def _uniform(rng: np.random.RandomState, shape: Sequence[int]) -> Tensor:
    """float32 in [-1, 1) from whole numbers of the one stream that NumPy never changes."""
    return torch.from_numpy(rng.randint(-(2**15), 2**15, size=tuple(shape), dtype=np.int32).astype(np.float32)) / 2**15
