"""Layers that keep fewer maps for their backward passes than PyTorch's: values and gradients of every order equal.

A leaky ReLU's slope is known from its output, which the next convolution keeps anyway, and average pooling is linear,
so neither has to keep its input. With R1, whose graph holds every map twice, that decides an iteration's peak.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        y = F.leaky_relu(x, slope)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        # Piecewise linear: nothing flows back through `y` itself.
        return torch.ops.aten.leaky_relu_backward(grad, y.detach(), ctx.slope, True), None


class _AveragePool(torch.autograd.Function):
    """3x3, stride 2, padding 1, zeros counted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        ctx.layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        return F.avg_pool2d(x, 3, stride=2, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Spread.apply(grad, ctx.shape, ctx.layout)


class _Spread(torch.autograd.Function):
    """The transpose of `_AveragePool`."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, shape: torch.Size, layout: torch.memory_format) -> Tensor:
        like = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)  # its size alone is read
        grad = grad.contiguous(memory_format=layout)
        return torch.ops.aten.avg_pool2d_backward(grad, like, [3, 3], [2, 2], [1, 1], False, True, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _AveragePool.apply(grad), None, None


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    """max(x, slope x) for a `slope` of 0 to 1, float of any shape."""
    return _LeakyReLU.apply(x, slope)


class AveragePool(nn.Module):
    """[N, C, H, W] -> [N, C, ceil(H / 2), ceil(W / 2)]: means of 3x3 places at every second one, with zeros around."""

    def forward(self, x: Tensor) -> Tensor:
        return _AveragePool.apply(x)
