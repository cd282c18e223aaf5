"""The limited-data paper's specific part: a small style-based head in place of a generator's first layers.

Paper: Zhao, Cong, Carin, "On Leveraging Pretrained GANs for Limited-Data Generation", ICML 2020, section 3.2 and
Figure 1(c), after StyleGAN (Karras et al., 2019). Reference code: GANTransferLimitedData (b1725b5). Where the text is
silent the code is followed: mapping network of `mapping_layers` layers with weights from N(0, 0.1^2), AdaIN before the
activation, residual factor 0.1, 4x4 transposed convolutions. Options here that only the code has: `scaled_norm` and
`clamp`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.latents import noise_of
from gantransfer.saved_maps import leaky_relu

SLOPE = 0.2  # of every leaky ReLU in this family of networks
RESIDUAL = 0.1  # factor of a block's main path
SITES = 2  # places of a block where noise and style enter


def _normal(layer: nn.Linear) -> nn.Linear:
    nn.init.normal_(layer.weight, 0.0, 0.1)
    nn.init.zeros_(layer.bias)
    return layer


class Mapping(nn.Sequential):
    """float [N, z_dim] -> styles w [N, style_dim]: z over its root mean square, then linear layers, each followed by a
    leaky ReLU, the last one too."""

    def __init__(self, n_in: int, style_dim: int, layers: int) -> None:
        widths = [n_in] + [style_dim] * layers
        super().__init__(*(_normal(nn.Linear(a, b)) for a, b in itertools.pairwise(widths)))

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self:
            w = leaky_relu(layer(w), SLOPE)
        return w


class AdaIN(nn.Module):
    """Instance norm whose scale and shift are linear in the style (Huang and Belongie, 2017).

    With `clamp` the gradient towards the features takes the scale clamped to [-1, 1], as only the published code does.
    """

    def __init__(self, channels: int, style_dim: int, clamp: bool) -> None:
        super().__init__()
        self.linear, self.clamp = _normal(nn.Linear(style_dim, 2 * channels)), clamp
        with torch.no_grad():
            self.linear.bias[:channels] = 1

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.linear(w)[:, :, None, None].chunk(2, 1)
        x = F.instance_norm(x, eps=1e-5)
        if not self.clamp:
            return scale * x + shift
        fixed = x.detach()  # the value, and so the gradients of scale and shift; `x - fixed` is 0 and carries x's
        return scale * fixed + shift + scale.detach().clamp(-1, 1) * (x - fixed)


class Noise(nn.Module):
    """Adds one map [N, 1, H, W] to all channels, each with a weight of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class StyleBlock(nn.Module):
    """[N, C, H, W] -> [N, C, 2H, 2W]: shortcut(x) + 0.1 main(x); main is leaky ReLU, up-sampling convolution, noise,
    AdaIN, leaky ReLU, convolution, noise, AdaIN (Figure 1(c))."""

    def __init__(self, channels: int, style_dim: int, clamp: bool) -> None:
        super().__init__()
        self.conv_0 = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_s = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
        self.noise_0, self.noise_1 = Noise(channels), Noise(channels)
        self.adain_0, self.adain_1 = (AdaIN(channels, style_dim, clamp) for _ in range(SITES))

    def forward(self, x: Tensor, styles: Sequence[Tensor], noise: Sequence[Tensor]) -> Tensor:
        h = self.noise_0(self.conv_0(leaky_relu(x, SLOPE)), noise[0])
        h = self.conv_1(leaky_relu(self.adain_0(h, styles[0]), SLOPE))
        h = self.adain_1(self.noise_1(h, noise[1]), styles[1])
        return self.conv_s(x) + RESIDUAL * h


class ScaledNorm(nn.Module):
    """The published code's junction, absent from the paper: layer norm over the places of each channel, times
    0.01 + weight, plus beta; towards the features only the factor 0.01 is differentiated. Weights start near 1,000."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((side, side), eps=1e-5)
        self.weight = nn.Parameter(1000 + torch.randn(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x.contiguous())
        fixed = n.detach()
        return (0.01 + self.weight) * fixed + self.beta + 0.01 * (n - fixed)


class StyleHead(nn.Module):
    """Latents (and labels) to the features [N, channels, side, side] that the transferred general part takes up.

    Args:
        z_dim: of the latents. label_dim: width of the label vectors beside them; 0: none are used.
        channels, side: of the features. blocks: style blocks, each doubling the side.
        style_dim, mapping_layers: of the mapping network.
        scaled_norm, clamp: the published code's junction and gradient, see `ScaledNorm` and `AdaIN`.
    """

    def __init__(
        self, z_dim: int, label_dim: int, channels: int, side: int, blocks: int, style_dim: int, mapping_layers: int,
        scaled_norm: bool, clamp: bool,
    ) -> None:
        super().__init__()
        self.channels, self.start = channels, side // 2**blocks
        self.fc = nn.Linear(z_dim + label_dim, channels * self.start**2)
        self.mapping = Mapping(z_dim + label_dim, style_dim, mapping_layers)
        self.blocks = nn.ModuleList(StyleBlock(channels, style_dim, clamp) for _ in range(blocks))
        self.norm = ScaledNorm(channels, side) if scaled_norm else None

    @property
    def sites(self) -> int:
        """Places where noise and style enter, from the latents to the features."""
        return SITES * len(self.blocks)

    def noise(self, z: Tensor) -> list[Tensor]:
        """Standard normal maps [N, 1, H, W], one for each site, made from the latents z [N, z_dim]; see `noise_of`."""
        sides = [self.start * 2 ** (i // SITES + 1) for i in range(self.sites)]
        maps = noise_of(z, sum(s * s for s in sides)).split([s * s for s in sides], 1)
        return [part.view(-1, 1, s, s) for part, s in zip(maps, sides, strict=True)]

    def forward(
        self, z: Tensor, label: Tensor | None, noise: Sequence[Tensor] | None = None,
        styles: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Features; `label` [N, label_dim] or None. `noise` (see `noise`) and `styles` (w [N, style_dim]) one for each
        site; None: drawn from, and mapped from, `z` (and the labels)."""
        z_label = z if label is None else torch.cat([z, label], 1)
        if styles is None:
            styles = [self.mapping(z_label)] * self.sites
        noise = self.noise(z) if noise is None else noise
        h = self.fc(z_label).view(len(z), self.channels, self.start, self.start)
        h = h.contiguous(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            own = slice(SITES * i, SITES * (i + 1))
            h = block(h, styles[own], noise[own])
        return h if self.norm is None else self.norm(h)
