"""A scale and a shift after a layer, gamma y + beta, as parametrisations of the tensors that make y.

Noguchi and Harada, "Image Generation From Small Datasets via Batch Statistics Adaptation", ICCV 2019, section 3. A
norm layer's y = g x + b becomes (gamma g) x + (gamma b + beta), a convolution's or linear layer's the same with its
weight in place of g; `gantransfer.modulation.fold` makes plain tensors of them. All start as the identity.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantransfer.filter_modulation import WeightModulation, modulate


class Scaled(WeightModulation):
    """[out, ...] -> the same shape, times gamma [channels]; each channel has `out` / channels consecutive rows."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, weight: Tensor) -> Tensor:
        rows = self.gamma.repeat_interleave(len(weight) // len(self.gamma))
        return weight * rows.view(-1, *[1] * (weight.ndim - 1))


class ScaleShift(nn.Module):
    """v, [channels * k] or [classes, channels] -> gamma (v + lead) + beta - lead, the same shape.

    gamma and beta have v's shape, or [channels], each for k consecutive entries. `lead` is what a stored gain lacks of
    the scale it stands for. Without beta it is the scale alone.
    """

    def __init__(self, gamma: nn.Parameter, beta: nn.Parameter | None, lead: float = 0.0) -> None:
        super().__init__()
        self.gamma, self.beta, self.lead = gamma, beta, lead

    def forward(self, value: Tensor) -> Tensor:
        def spread(vector: Tensor) -> Tensor:
            return vector if vector.shape == value.shape else vector.repeat_interleave(len(value) // len(vector))

        scaled = spread(self.gamma) * (value + self.lead) - self.lead
        return scaled if self.beta is None else scaled + spread(self.beta)


def after_layer(layer: nn.Module, channels: int) -> None:
    """Give a convolution or a linear layer with bias, whose output has `channels` channels, a scale and a shift."""
    gamma, beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
    modulate(layer, Scaled(gamma))
    parametrize.register_parametrization(layer, "bias", ScaleShift(gamma, beta))


def after_norm(norm: nn.Module) -> None:
    """Give a norm layer a scale and a shift, one for each class where it has class tables."""
    by_class = isinstance(norm.gain, nn.Module)
    places = ((norm.gain, "weight"), (norm.bias, "weight")) if by_class else ((norm, "gain"), (norm, "bias"))
    shape = getattr(*places[0]).shape
    gamma, beta = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
    for (owner, name), shift, lead in zip(places, (None, beta), (float(by_class), 0.0), strict=True):
        parametrize.register_parametrization(owner, name, ScaleShift(gamma, shift, lead))


def scales_and_shifts(module: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """(gamma, beta) of every layer inside `module` that has them."""
    for part in module.modules():
        if isinstance(part, ScaleShift) and part.beta is not None:
            yield part.gamma, part.beta
