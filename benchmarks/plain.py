"""The networks in the plain formulation: what `benchmarks/speed.py` compares with, and tests hold ours equal to.

Nearest up-sampling and then a 3x3 convolution, a 3x3 convolution and then average pooling, spectral norm recomputed in
every forward pass, a linear map of every sample's one-hot class for the class affines, contiguous float32 tensors.
Parameters and buffers are the given network's own: only its layers' forward functions are replaced, so that trainer,
losses and optimisers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import MethodType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantransfer.attention import SelfAttention
from gantransfer.layers import SNConv2d, SpectralNorm
from gantransfer.modulation import Propagation
from gantransfer.networks import gp_gan
from gantransfer.norm import BatchNorm, ClassBatchNorm, ClassTable, Condition
from gantransfer.saved_maps import AveragePool
from gantransfer.stylehead import RESIDUAL, SLOPE

MEANS = ("constants", "resampling", "minimal filtering", "attention", "norm", "class tables", "residual blocks",
         "channels_last")


def plain(network: nn.Module, means: Collection[str] = MEANS) -> nn.Module:
    """Give every layer inside `network` its plain form, in place; returns it.

    Args:
        means: of `MEANS`, what is undone; everything by default. The layout of maps follows that of the weights.
    """
    if "channels_last" in means:
        network.to(memory_format=torch.contiguous_format)
    for layer in network.modules():
        if isinstance(layer, SpectralNorm) and "constants" in means:
            layer.effective_kernel = layer.kernel  # computed in every forward pass
        if isinstance(layer, (BatchNorm, ClassBatchNorm)) and "norm" in means:
            layer.scale_and_shift = MethodType(_norm, layer)
        form = next((form for applies, name, form in FORMS if name in means and applies(layer)), None)
        if form is not None:
            layer.forward = MethodType(form, layer)
    return network


def _laid_out(x: Tensor, weight: Tensor) -> Tensor:
    contiguous = weight.is_contiguous()  # also of 1x1 kernels, whose layouts are one
    return x.contiguous() if contiguous and weight.shape[2:] != (1, 1) else x


def _resampled_convolution(layer: SNConv2d, x: Tensor) -> Tensor:
    if layer.resample == "up":
        x = F.interpolate(x, scale_factor=2)
    x = F.conv2d(_laid_out(x, layer.weight), layer.normalized_weight(), layer.bias, padding=layer.padding)
    return F.avg_pool2d(x, 2) if layer.resample == "down" else x


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(_laid_out(x, layer.weight), layer.weight, layer.bias, padding=layer.padding)


def _norm(layer: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    if hasattr(layer, "bn"):
        x = layer.bn(x)
    else:
        statistics = layer.stored_mean, layer.stored_var
        x = F.batch_norm(x, *statistics, None, None, layer.training, 0.1, layer.eps)
    return x * gain[:, :, None, None] + bias[:, :, None, None]


def _class_table(table: ClassTable, condition: Condition) -> Tensor:
    """A linear layer on every sample's one-hot class; of a propagated table, two in a row."""
    labels = condition.labels
    rows = labels if labels.is_floating_point() else _one_hot(labels, table)
    if parametrize.is_parametrized(table, "weight") and isinstance(table.parametrizations.weight[0], Propagation):
        offsets = _propagated(table.parametrizations.weight[0], rows, table.parametrizations.weight.original)
    else:
        offsets = rows @ table.weight
    return offsets + table.noise(condition.noise) if hasattr(table, "noise") else offsets


def _one_hot(labels: Tensor, table: ClassTable) -> Tensor:
    return F.one_hot(labels, table.num_embeddings).to(next(table.parameters()))


def _propagated(layer: Propagation, rows: Tensor, residual: Tensor) -> Tensor:
    mean = layer.prior.mean(0)
    if layer.parametrisation != "centred":
        raise NotImplementedError("the plain form is written for the default parametrisation")
    offsets = mean + layer.scale * (rows @ layer.scores) @ (layer.prior - mean) + layer.residual_scale * rows @ residual
    return offsets - 1 if layer.is_scale else offsets


def _residual_block(block: gp_gan.ResidualBlock, x: Tensor, up: bool = False) -> Tensor:
    x = F.interpolate(x, scale_factor=2) if up else x
    h = block.conv_0(F.leaky_relu(x, SLOPE))
    h = block.conv_1(F.leaky_relu(h, SLOPE))
    return (x if block.conv_s is None else block.conv_s(x)) + RESIDUAL * h


def _average_pool(layer: AveragePool, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def _attention(block: SelfAttention, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    theta = block.theta(x).flatten(2)
    phi, g = (F.max_pool2d(conv(x), 2).flatten(2) for conv in (block.phi, block.g))
    beta = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
    return block.gamma * block.o((g @ beta.transpose(1, 2)).view(n, -1, h, w)) + x


def _is(kind: type[nn.Module]) -> Callable[[nn.Module], bool]:
    return lambda layer: isinstance(layer, kind)


# For a layer the first form of a means that is undone.
FORMS: tuple[tuple[Callable[[nn.Module], bool], str, Callable[..., Tensor]], ...] = (
    (_is(SelfAttention), "attention", _attention),
    (lambda layer: isinstance(layer, SNConv2d) and layer.resample is not None, "resampling", _resampled_convolution),
    (lambda layer: isinstance(layer, SNConv2d) and layer.resample is None, "minimal filtering", _resampled_convolution),
    (_is(SNConv2d), "channels_last", lambda layer, x: SNConv2d.forward(layer, x.contiguous())),
    (_is(nn.Conv2d), "channels_last", _convolution),
    (_is(ClassTable), "class tables", _class_table),
    (_is(gp_gan.ResidualBlock), "residual blocks", _residual_block),
    (_is(AveragePool), "residual blocks", _average_pool),
)


def frechet_plain(x: np.ndarray, y: np.ndarray) -> float:
    """The squared Fréchet distance of two sets of features [n, d] by a general matrix square root in float64."""
    from scipy.linalg import sqrtm  # comes with scikit-learn, of the dev extra

    x, y = x.astype(np.float64), y.astype(np.float64)
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(cov_x @ cov_y).real
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cov_x + cov_y - 2 * root))
