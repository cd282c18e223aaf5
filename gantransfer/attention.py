"""BigGAN's self-attention, whose matrix of weights is never stored.

At 64 px the weights of one image are 4,096 x 1,024 numbers, a hundred times its features: writing and reading them
would be most of the time, and of the memory, of a small network's iteration.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.layers import SNConv2d


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    wider = (0, value.shape[2] - query.shape[2])  # zeros change no product; the fused kernels want equal widths
    query, key = F.pad(query, wider), F.pad(key, wider)
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]


class _Attend(torch.autograd.Function):
    """The fused kernels, and for second derivatives, which they lack, the products written out."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return _fused(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        twice = torch.is_grad_enabled()
        with torch.enable_grad():
            query, key, value = (x if twice and x.requires_grad else x.detach().requires_grad_(True)
                                 for x in ctx.saved_tensors)
            if twice:
                out = torch.softmax(query @ key.transpose(1, 2), -1) @ value
            else:
                out = _fused(query, key, value)
            return torch.autograd.grad(out, (query, key, value), grad, create_graph=twice)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T) value, [N, L, V], from query [N, L, K], key [N, S, K] and value [N, S, V], K <= V."""
    return _Attend.apply(query, key, value)


def _places(x: Tensor) -> Tensor:
    """[N, C, H, W] to [N, HW, C]; no copy in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class SelfAttention(nn.Module):
    """BigGAN's non-local block: 1x1 spectrally normed convolutions without bias, keys and values 2x2
    max-pooled, softmax without 1/sqrt(d), output ``gamma * o + x`` with gamma starting at 0.

    Input and output [N, C, H, W] with C >= 8 and even H, W.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.theta = SNConv2d(channels, channels // 8, 1, bias=False, eps=eps)
        self.phi = SNConv2d(channels, channels // 8, 1, bias=False, eps=eps)
        self.g = SNConv2d(channels, channels // 2, 1, bias=False, eps=eps)
        self.o = SNConv2d(channels // 2, channels, 1, bias=False, eps=eps)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        phi, g = (_places(F.max_pool2d(conv(x), 2)) for conv in (self.phi, self.g))
        o = attend(_places(self.theta(x)), phi, g).reshape(n, h, w, -1).permute(0, 3, 1, 2)
        return self.gamma * self.o(o) + x
