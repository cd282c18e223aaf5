"""Modulations of frozen convolution filters: AdaFM and its special cases, low rank, singular values. All start as the
identity.

Papers: Zhao, Cong, Carin, "On Leveraging Pretrained GANs for Limited-Data Generation", ICML 2020, section 3.3; Hu et
al., "LoRA", ICLR 2022; Robb et al., "Few-Shot Adaptation of Generative Adversarial Networks", 2020. A plain convolution
takes a modulation as a parametrisation of its weight; a spectrally normed one takes it behind the norm, on W / sigma
with sigma frozen. `gantransfer.modulation.fold` turns both into plain weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantransfer.layers import SpectralNorm

KINDS = ("adafm", "fs", "demodulation")


class WeightModulation(nn.Module):
    """[out, in, k, k] -> the same shape."""


class FilterModulation(WeightModulation):
    """[out, in, k, k] -> the same shape, from a scale and a shift for each pair of an output and an input channel.

    ``adafm``: gamma W + beta, both [out, in, 1, 1] (eq. 2). ``fs``, filter selection (Noguchi and Harada, 2019): both
    [out, 1, 1, 1], one number for all input channels. ``demodulation`` (eq. 3; Karras et al., 2020): no shift and the
    scale of rank one eta s^T with s [1, in, 1, 1] learned and eta_i = 1 / sqrt(eps + sum (s_j W_ijk)^2), relative to
    its value at s = 1, so that it starts as the identity too. (The paper prints the sum without the square.)
    """

    def __init__(self, kind: str, weight: Tensor) -> None:
        super().__init__()
        n_out, n_in = weight.shape[:2]
        self.kind = kind
        if kind == "demodulation":
            self.style = nn.Parameter(weight.new_ones(1, n_in, 1, 1))
        else:
            shape = (n_out, n_in, 1, 1) if kind == "adafm" else (n_out, 1, 1, 1)
            self.gamma = nn.Parameter(weight.new_ones(shape))
            self.beta = nn.Parameter(weight.new_zeros(shape))

    def scale_and_shift(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and beta, float [out, in] each, as they act on `weight`."""
        n_out, n_in = weight.shape[:2]
        if self.kind == "demodulation":
            eps, weight = 1e-8, weight.contiguous()  # sums must not depend on the layout
            eta = torch.rsqrt(eps + (self.style * weight).square().sum((1, 2, 3)))
            relative = eta * (eps + weight.square().sum((1, 2, 3))).sqrt()
            return relative[:, None] * self.style.view(1, -1), weight.new_zeros(n_out, n_in)
        return self.gamma[:, :, 0, 0].expand(n_out, n_in), self.beta[:, :, 0, 0].expand(n_out, n_in)

    def forward(self, weight: Tensor) -> Tensor:
        if self.kind == "demodulation":
            return self.scale_and_shift(weight)[0][:, :, None, None] * weight
        return self.gamma * weight + self.beta


class LowRank(WeightModulation):
    """W + scale B A, with W as a matrix [out, in k k], B [out, rank] and A [rank, in k k] (Hu et al., eq. 3). B starts
    at 0, A as the linear layers of PyTorch do (from the global generator)."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        n_out, n_in = weight.shape[0], weight[0].numel()
        rank = min(rank, n_out, n_in)
        self.scale = scale / rank
        self.a = nn.Parameter(weight.new_empty(rank, n_in))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)
        self.b = nn.Parameter(weight.new_zeros(n_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.scale * self.b @ self.a).view_as(weight)


class SingularValues(WeightModulation):
    """U diag(l s) V^T with W = U diag(s) V^T as a matrix [out, in k k] and l learned, 1 at the start (Robb et al., eq.
    2).

    W is what the forward pass multiplies with (see `bare_weight`). Computed as W + U diag((l - 1) s) V^T, so that the
    start is W bit for bit. U, s and V follow from the frozen W and are in no file.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        u, s, v = torch.linalg.svd(weight.reshape(weight.shape[0], -1).double(), full_matrices=False)
        self.register_buffer("left", (u * s).to(weight), persistent=False)
        self.register_buffer("right", v.to(weight).contiguous(), persistent=False)
        self.factors = nn.Parameter(weight.new_ones(len(s)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + ((self.left * (self.factors - 1)) @ self.right).view_as(weight)


def filters(module: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """(name, convolution) of everything inside `module` that is modulated: the 3x3 convolutions. Shortcuts and
    attention (1x1) stay as they are, as in the published code."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            yield name, part


def is_normed(layer: nn.Module) -> bool:
    """Whether `layer` divides its weight by sigma; layers that were modulated once and folded do no more."""
    return isinstance(layer, SpectralNorm) and hasattr(layer, "u0")


def modulate(convolution: nn.Conv2d, modulation: str | WeightModulation) -> WeightModulation:
    """Give `convolution` a modulation, or a `FilterModulation` of this kind, in place; returns it."""
    if isinstance(modulation, str):
        modulation = FilterModulation(modulation, convolution.weight.detach())
    if is_normed(convolution):
        convolution.modulation = modulation
    else:
        parametrize.register_parametrization(convolution, "weight", modulation)
    return modulation


def filter_modulations(module: nn.Module) -> list[tuple[str, nn.Conv2d, WeightModulation]]:
    """(name, convolution, its modulation) of every modulated convolution inside `module`."""
    found = []
    for name, part in module.named_modules():
        modulation = getattr(part, "modulation", None) if isinstance(part, SpectralNorm) else None
        if parametrize.is_parametrized(part, "weight"):
            modulation = part.parametrizations.weight[0]
        if isinstance(modulation, WeightModulation):
            found.append((name, part, modulation))
    return found


def bare_weight(convolution: nn.Conv2d) -> Tensor:
    """What a modulated convolution's modulation acts on: the frozen filters, over sigma where they are normed."""
    if is_normed(convolution):
        return convolution.unmodulated()
    return convolution.parametrizations.weight.original
