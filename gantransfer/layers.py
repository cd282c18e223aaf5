"""Layers shared by the networks: BigGAN's spectral norm, folded resampling convolutions.

Spectral norm follows BigGAN-PyTorch (one power iteration in every forward pass, stored only in
training mode), which neither of PyTorch's own versions does, and keeps its buffer names ``u0`` and
``sv0`` so that official state dicts load key by key.

A convolution that follows nearest x2 up-sampling, or precedes 2x2 average pooling, is computed as one
4x4 convolution of stride 2 whose kernel is a linear function of the 3x3 weight (exact algebra, about
half the multiplications). Kernel and sigma of weights that take no gradient are constants and cached.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.minimal import convolution

# Rows: taps of the 4-tap kernel; columns: taps of the 3-tap kernel. With u the nearest x2 up-sampled
# signal, y[2i] = w0 x[i-1] + (w1+w2) x[i] and y[2i+1] = (w0+w1) x[i] + w2 x[i+1].
_UP_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
# y[i] = 1/2 sum_m (w[m] + w[m-1]) x[2i+m-1]: a 3-tap convolution averaged over two neighbours.
_DOWN_TAPS = ((0.5, 0.0, 0.0), (0.5, 0.5, 0.0), (0.0, 0.5, 0.5), (0.0, 0.0, 0.5))


def fold_upsampling(weight: Tensor) -> Tensor:
    """Kernel [in, out, 4, 4] of the transposed convolution (stride 2, padding 1) that equals nearest x2
    up-sampling followed by the 3x3 convolution `weight` [out, in, 3, 3] (padding 1)."""
    taps = weight.new_tensor(_UP_TAPS)
    return torch.einsum("ai,oqij,bj->qoab", taps, weight, taps)


def fold_pooling(weight: Tensor) -> Tensor:
    """Kernel [out, in, 4, 4] of the convolution (stride 2, padding 1) that equals the 3x3 convolution
    `weight` [out, in, 3, 3] (padding 1) followed by 2x2 average pooling."""
    taps = weight.new_tensor(_DOWN_TAPS)
    return torch.einsum("ai,oqij,bj->oqab", taps, weight, taps)


class SpectralNorm(nn.Module):
    """Mixin: ``weight / sigma`` with BigGAN's power iteration (one step from ``u0`` per forward).

    v = u0 W / |u0 W|, u = v W^T / |v W^T|, sigma = v W^T u^T; u and v carry no gradient, sigma does.
    Training mode stores u and sigma in ``u0`` [1, rows] and ``sv0`` [1]; evaluation mode stores nothing.
    """

    weight: Tensor
    u0: Tensor
    sv0: Tensor

    def _init_spectral_norm(self, eps: float) -> None:
        self.sn_eps = eps
        self.register_buffer("u0", torch.randn(1, self.weight.shape[0]))
        self.register_buffer("sv0", torch.ones(1))
        self.modulation: nn.Module | None = None  # of the normed weight; sigma is then a constant
        self._constant: tuple[Any, ...] | None = None

    def without_norm(self) -> None:
        """From now on the weight counts as it is; u0 and sv0 are gone."""
        del self.u0, self.sv0

    def normalized_weight(self) -> Tensor:
        """`weight` divided by its current estimate of the largest singular value, and modulated; same shape."""
        if not hasattr(self, "u0"):
            return self.weight
        return self._divided(self.training) if self.modulation is None else self.modulation(self.unmodulated())

    def unmodulated(self) -> Tensor:
        """The frozen weight over its sigma, which a modulation acts on."""
        with torch.no_grad():
            return self._divided(False)

    def _divided(self, store: bool) -> Tensor:
        weight = self.weight
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.reshape(weight.shape[0], -1)
            with torch.no_grad():
                v = F.normalize(self.u0 @ matrix, eps=self.sn_eps)
                u = F.normalize(v @ matrix.t(), eps=self.sn_eps)
            sigma = (v @ matrix.t() @ u.t()).squeeze()
            if store:
                with torch.no_grad():
                    self.u0.copy_(u)
                    self.sv0.copy_(sigma)
            return weight / sigma

    def kernel(self) -> Tensor:
        """What the forward pass multiplies with; subclasses fold resampling in here."""
        return self.normalized_weight()

    def effective_kernel(self) -> Tensor:
        """`kernel()`, computed once while the layer is in eval mode and its weight frozen (no ``requires_grad``).

        The cache is keyed by the identity, memory and version counter of weight and u0, so loading a state dict, an
        optimiser step or a move to another device renews it; writing into a frozen weight's ``.data``, which counts
        no version, does not.
        """
        weight = self.weight
        if not hasattr(self, "u0") or self.modulation is not None:
            return self.kernel()
        untracked = weight.is_inference() or self.u0.is_inference()  # such tensors have no version counter
        if self.training or untracked or weight.requires_grad:
            return self.kernel()
        key = (weight._version, self.u0._version, weight.data_ptr(), weight.dtype, weight.device)
        cached = self._constant
        if cached is None or cached[0]() is not weight or cached[1]() is not self.u0 or cached[2] != key:
            autocast = torch.autocast(weight.device.type, enabled=False)  # full precision, whoever comes first
            with torch.inference_mode(False), torch.no_grad(), autocast:
                kernel = self.kernel()
            if torch.nn.utils.parametrize.is_parametrized(self, "weight"):
                return kernel
            self._constant = cached = (weakref.ref(weight), weakref.ref(self.u0), key, kernel)
        return cached[3]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constant": None}


class SNConv2d(SpectralNorm, nn.Conv2d):
    """Spectrally normed convolution of stride 1, optionally with nearest x2 up-sampling before or 2x2
    average pooling after it (``resample="up"`` or ``"down"``), both exact.

    A 1x1 kernel commutes with both resamplings and is applied at the lower resolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, bias: bool = True,
        resample: str | None = None, eps: float = 1e-6,
    ) -> None:
        if resample is not None and (resample not in ("up", "down") or kernel_size not in (1, 3)):
            raise ValueError(f"resample '{resample}' with a kernel of {kernel_size}: have 'up' and 'down' with 1 and 3")
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.resample = resample
        self._init_spectral_norm(eps)

    def kernel(self) -> Tensor:
        weight = self.normalized_weight()
        if self.kernel_size[0] == 3 and self.resample == "up":
            return fold_upsampling(weight)
        if self.kernel_size[0] == 3 and self.resample == "down":
            return fold_pooling(weight)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.effective_kernel()
        if self.kernel_size[0] == 1:
            if self.resample == "down":
                x = F.avg_pool2d(x, 2)
            x = F.conv2d(x, kernel, self.bias)
            return F.interpolate(x, scale_factor=2) if self.resample == "up" else x
        if self.resample == "up":
            return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)
        if self.resample == "down":
            return F.conv2d(x, kernel, self.bias, stride=2, padding=1)
        return convolution(x, kernel, self.bias)


class SNLinear(SpectralNorm, nn.Linear):
    """Spectrally normed linear layer."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, eps: float = 1e-6) -> None:
        super().__init__(in_features, out_features, bias)
        self._init_spectral_norm(eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_kernel(), self.bias)


class SNEmbedding(SpectralNorm, nn.Embedding):
    """Embedding whose whole table [classes, features] is spectrally normed."""

    def __init__(self, num_embeddings: int, embedding_dim: int, eps: float = 1e-6) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self._init_spectral_norm(eps)

    def forward(self, labels: Tensor) -> Tensor:
        return F.embedding(labels, self.effective_kernel())


class _AffineNorm(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * gain + bias with the batch's statistics; also returns those (no gradient)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean((0, 2, 3))
        centred = x - mean[:, None, None]
        var = centred.square().mean((0, 2, 3))
        inverse = torch.rsqrt(var + eps)
        ctx.eps = eps
        ctx.save_for_backward(x, gain, mean, inverse)
        ctx.mark_non_differentiable(mean, var)
        scale = (gain * inverse)[:, :, None, None]
        out = torch.addcmul(bias[:, :, None, None], centred, scale, out=centred)  # fresh memory costs as much as a sum
        return out, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the statistics are functions of x again
            mean = x.mean((0, 2, 3))
            inverse = torch.rsqrt((x - mean[:, None, None]).square().mean((0, 2, 3)) + ctx.eps)
        centred = x - mean[:, None, None]
        d_bias = grad.sum((2, 3))
        d_gain = (grad * centred).sum((2, 3)) * inverse
        count = x.shape[0] * x.shape[2] * x.shape[3]
        along_mean = inverse * (gain * d_bias).sum(0) / count
        along_scale = inverse.square() * (gain * d_gain).sum(0) / count
        d_x = grad * (gain * inverse)[:, :, None, None]
        if torch.is_grad_enabled():
            d_x = torch.addcmul(d_x - along_mean[:, None, None], centred, -along_scale[:, None, None])
        else:
            d_x.sub_(along_mean[:, None, None]).addcmul_(centred, -along_scale[:, None, None])
        if len(gain) == 1:
            d_gain, d_bias = d_gain.sum(0, keepdim=True), d_bias.sum(0, keepdim=True)
        return d_x, d_gain, d_bias, None


def batch_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm with the batch's own statistics, and its affine in the same pass.

    PyTorch's CPU kernel for channels_last adds up in single precision, one value after the other: its error is
    ten times that of the other operations of a network and grows with the batch. This form is as exact as the
    contiguous kernel and as fast as the other.

    Args:
        x: [N, C, H, W]; half precision is computed in float32. gain, bias: [N, C] or [1, C].

    Returns:
        The result, and the batch's mean and biased variance [C], without gradient.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return _AffineNorm.apply(x, gain, bias, eps)


_drawing = ContextVar("drawing", default=True)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Inside, `initialise` draws nothing, since every weight is loaded right after: orthogonal draws of a
    full-size network take longer than reading its file."""
    token = _drawing.set(False)
    try:
        yield
    finally:
        _drawing.reset(token)


def initialise(module: nn.Module, scheme: str) -> None:
    """Initialise every convolution, linear and embedding weight in place as BigGAN does.

    Args:
        scheme: ``"ortho"`` (orthogonal), ``"N02"`` (normal, std 0.02) or ``"xavier"``. Biases keep
            PyTorch's default. The orthogonal draw uses the global generator: seed it for a fixed start.
    """
    schemes = {
        "ortho": nn.init.orthogonal_,
        "N02": lambda w: nn.init.normal_(w, 0.0, 0.02),
        "xavier": nn.init.xavier_uniform_,
        "glorot": nn.init.xavier_uniform_,
    }
    if scheme not in schemes:
        raise ValueError(f"init scheme '{scheme}' is unknown; choose one of {', '.join(schemes)}")
    if not _drawing.get():
        return
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)):
            schemes[scheme](layer.weight)
