"""3x3 convolutions with half the multiplications: minimal filtering along the rows.

Winograd, Arithmetic Complexity of Computations (1980); Lavin and Gray, Fast Algorithms for Convolutional Neural
Networks (CVPR 2016): four neighbouring outputs of a 3-tap filter need six products instead of twelve, those of two
polynomials at the points 0, 1, -1, 2, -2 and infinity. Here the products are 1x3 convolutions along the other
direction, which libraries do well, and only rows, whole runs of memory, are added up: 4.5 multiplications per place
instead of 9. The algebra is exact; rounding is about 2.5 times that of the direct sum.

Both operations are bilinear and closed under differentiation: derivatives of every order have the same cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 4  # rows of outputs that share their products
CHUNK = 1 << 22  # numbers of a chunk's transformed maps: they stay in the cache, and take little memory
LEAST_CHANNELS, LEAST_PLACES = 96, 256
# From the taps of a filter to the factors of the six products.
_TAPS = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
         (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` costs less than the direct convolution: on the CPU (libraries for GPUs have it), in full
    precision, on wide layers and maps that are not small (measured: ``results/speed``)."""
    return (x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and x.shape[2] % TILE == 0
            and x.shape[2] * x.shape[3] >= LEAST_PLACES and min(weight.shape[:2]) >= LEAST_CHANNELS)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of x [N, in, H, W], H a multiple of 4, with weight [out, in, 3, 3], padding 1, plus bias [out]:
    [N, out, H, W] in channels_last."""
    out = _Convolve.apply(x, weight)
    return out if bias is None else out.add_(bias[:, None, None])


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution with padding 1, in the form that costs less."""
    return convolve(x, weight, bias) if pays(x, weight) else F.conv2d(x, weight, bias, padding=1)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        n, _, h, w = x.shape
        out = torch.empty((n, len(weight), h, w), dtype=x.dtype, memory_format=torch.channels_last)
        x, y, factors = _rows_last(x), _rows_last(out), _factors(weight)
        for part in _chunks(x, y):
            products = [_rows_last(F.conv2d(rows.permute(0, 3, 1, 2), factor, padding=(0, 1)))
                        for rows, factor in zip(_inputs(x[part]), factors, strict=True)]
            _outputs(products, y[part])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return (_transposed(grad, weight) if ctx.needs_input_grad[0] else None,
                _Correlate.apply(x, grad) if ctx.needs_input_grad[1] else None)


class _Correlate(torch.autograd.Function):
    """The gradient of the weight, [out, in, 3, 3], from the input and the gradient of the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(x, grad)
        x, grad = _rows_last(x), _rows_last(grad)
        total = x.new_zeros(6, grad.shape[3], x.shape[3], 1, 3)
        for part in _chunks(x, grad):
            for k, (a, b) in enumerate(zip(_inputs(x[part]), _outputs_transposed(grad[part]), strict=True)):
                total[k] += torch.nn.grad.conv2d_weight(
                    a.permute(0, 3, 1, 2), total[k].shape, b.permute(0, 3, 1, 2), padding=(0, 1))
        return torch.einsum("ra,roiyb->oiab", total.new_tensor(_TAPS), total)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, grad = ctx.saved_tensors
        return (_transposed(grad, h) if ctx.needs_input_grad[0] else None,
                _Convolve.apply(x, h) if ctx.needs_input_grad[1] else None)


def _transposed(grad: Tensor, weight: Tensor) -> Tensor:
    return _Convolve.apply(grad, weight.flip(2, 3).transpose(0, 1))


def _rows_last(x: Tensor) -> Tensor:
    """[N, C, H, W] to [N, H, W, C]; no copy in channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _chunks(*maps: Tensor) -> list[slice]:
    size = max(1, CHUNK // max(m[0].numel() for m in maps))
    return [slice(i, i + size) for i in range(0, len(maps[0]), size)]


def _factors(weight: Tensor) -> list[Tensor]:
    """Six kernels [out, in, 1, 3]."""
    factors = torch.einsum("ra,oiab->roib", weight.new_tensor(_TAPS), weight)
    return [f[:, :, None].contiguous(memory_format=torch.channels_last) for f in factors]


def _inputs(x: Tensor) -> Tensor:
    """[6, n, H / 4, W, C]: what each product of a tile multiplies, from maps [n, H, W, C]."""
    n, h, w, c = x.shape
    out = x.new_empty(6, n, h // TILE, w, c)
    for maps, result in zip(x, out.unbind(1), strict=True):  # image by image: what is added twice is in the cache
        padded = F.pad(maps, (0, 0, 0, 0, 1, 1))
        d = [padded[i : i + h : TILE] for i in range(6)]
        torch.sub(d[4], d[2], alpha=5, out=result[0]).add_(d[0], alpha=4)
        torch.sub(d[5], d[3], alpha=5, out=result[5]).add_(d[1], alpha=4)
        for k, alpha, even, odd in ((1, 1, d[4] - 4 * d[2], d[3] - 4 * d[1]), (3, 2, d[4] - d[2], d[3] - d[1])):
            torch.add(even, odd, alpha=alpha, out=result[k])
            torch.sub(even, odd, alpha=alpha, out=result[k + 1])
    return out


def _outputs(products: Sequence[Tensor], out: Tensor) -> None:
    """The outputs [n, H, W, C] of the six products [n, H / 4, W, C], written into `out`."""
    for *m, y in zip(*products, out, strict=True):
        sums, differences = (m[1] + m[2], m[3] + m[4]), (m[1] - m[2], m[3] - m[4])
        torch.add(m[0], sums[0], out=y[0::TILE]).add_(sums[1])
        torch.add(differences[0], differences[1], alpha=2, out=y[1::TILE])
        torch.add(sums[0], sums[1], alpha=4, out=y[2::TILE])
        torch.add(differences[0], differences[1], alpha=8, out=y[3::TILE]).add_(m[5])


def _outputs_transposed(y: Tensor) -> Tensor:
    """[6, n, H / 4, W, C] from the gradients [n, H, W, C] of the outputs."""
    n, h, w, c = y.shape
    out = y.new_empty(6, n, h // TILE, w, c)
    for maps, m in zip(y, out.unbind(1), strict=True):
        a, b, c, d = (maps[i::TILE] for i in range(TILE))
        m[0].copy_(a)
        m[5].copy_(d)
        for k, scale in ((1, 1), (3, 2)):
            even = torch.add(a, c, alpha=scale**2)
            odd = torch.add(b, d, alpha=scale**2)
            torch.add(even, odd, alpha=scale, out=m[k])
            torch.sub(even, odd, alpha=scale, out=m[k + 1])
    return out
