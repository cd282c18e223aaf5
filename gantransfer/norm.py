"""Class-conditional batch norm: statistics, class affines, and their routing by class.

A norm layer computes ``(x - mean) / sqrt(var + eps) * gain + bias``. Gain and bias of a class come from
a *class affine* in one of three forms, all of which yield offsets (the gain's leading 1 is added here):

* `ClassTable`: one row per class;
* `SharedAffine`: a spectrally normed linear map of the shared class embedding (and of a noise chunk);
* `NoisyClassTable`: one row per class plus a linear map of the noise chunk.

`RoutedNorm` holds a source's norm and one norm per adapter and selects by class id, statistics included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.layers import SNLinear, batch_norm


class Condition(NamedTuple):
    """What a block knows about the sample.

    labels: int64 [N], or float [N, classes] rows of mixing weights, or None;
    embedding: float [N, shared_dim] or None; noise: float [N, chunk] or None (hierarchical z only).
    """

    labels: Tensor | None
    embedding: Tensor | None
    noise: Tensor | None


class ClassMixture(NamedTuple):
    """Mixing weights over classes, float [N, num_classes], given to a generator in place of labels."""

    weights: Tensor


def _rows(table: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("this network has one row of parameters per class: pass integer labels [N]")
    return labels @ table if labels.is_floating_point() else F.embedding(labels, table)


class ClassTable(nn.Embedding):
    """Offsets of gain or bias as a plain table [classes, channels]."""

    def forward(self, condition: Condition) -> Tensor:
        return _rows(self.weight, condition.labels)

    def class_offsets(self, embedding: Tensor | None) -> Tensor:
        """float [classes, channels]: the part that depends on the class alone."""
        return self.weight.detach()

    def noise_projection(self) -> Tensor | None:
        """float [channels, chunk], or None without hierarchical noise."""
        return None


class SharedAffine(SNLinear):
    """Offsets as one spectrally normed linear map of [class embedding, noise chunk]."""

    def __init__(self, shared_dim: int, chunk: int, channels: int, eps: float) -> None:
        super().__init__(shared_dim + chunk, channels, bias=False, eps=eps)
        self.shared_dim = shared_dim

    def forward(self, condition: Condition) -> Tensor:
        if condition.embedding is None:
            raise ValueError("this network needs class labels [N] or class embeddings [N, shared_dim]")
        if condition.noise is None:
            return super().forward(condition.embedding)
        return super().forward(torch.cat([condition.embedding, condition.noise], 1))

    @torch.no_grad()
    def class_offsets(self, embedding: Tensor | None) -> Tensor:
        """float [classes, channels]: W_y / sigma applied to every row of `embedding` [classes, shared]."""
        assert embedding is not None
        return embedding @ self._frozen_weight()[:, : self.shared_dim].t()

    @torch.no_grad()
    def noise_projection(self) -> Tensor | None:
        """float [channels, chunk]: W_z / sigma with the source's own sigma."""
        weight = self._frozen_weight()[:, self.shared_dim :]
        return weight.clone() if weight.shape[1] else None

    def _frozen_weight(self) -> Tensor:
        training = self.training
        self.eval()  # the power iteration must not be stored by a mere read
        weight = self.normalized_weight().detach()
        self.train(training)
        return weight


class NoisyClassTable(ClassTable):
    """A table of offsets plus a linear map of the noise chunk: ``table[y] + noise W^T``."""

    def __init__(self, classes: int, channels: int, chunk: int) -> None:
        super().__init__(classes, channels)
        self.noise = nn.Linear(chunk, channels, bias=False)

    def forward(self, condition: Condition) -> Tensor:
        return _rows(self.weight, condition.labels) + self.noise(condition.noise)

    def noise_projection(self) -> Tensor | None:
        return self.noise.weight.detach()


class StandingStatistics(nn.Module):
    """BigGAN's own batch norm without affine (``mybn``): biased variance in the running average and
    *standing statistics*, sums over several forward passes divided by their count.

    Attributes:
        accumulating: training passes add to the sums instead of the running average.
        standing: evaluation divides the sums by ``accumulation_counter``.
    """

    def __init__(self, channels: int, eps: float, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.accumulating = self.standing = False
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.register_buffer("accumulation_counter", torch.zeros(1))

    def reset(self) -> None:
        """Start a new accumulation."""
        for buffer in (self.stored_mean, self.stored_var, self.accumulation_counter):
            buffer.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            xf = x if x.dtype == torch.float64 else x.float()
            mean = xf.mean((0, 2, 3))
            var = xf.square().mean((0, 2, 3)) - mean.square()
            self._store(mean.detach(), var.detach())
        else:
            mean, var = self.stored_mean, self.stored_var
            if self.standing:
                mean, var = mean / self.accumulation_counter, var / self.accumulation_counter
        scale = torch.rsqrt(var + self.eps)
        return (x * scale[:, None, None] - (mean * scale)[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _store(self, mean: Tensor, var: Tensor) -> None:
        if self.accumulating:
            self.stored_mean += mean
            self.stored_var += var
            self.accumulation_counter += 1
        else:
            self.stored_mean.lerp_(mean.to(self.stored_mean), self.momentum)
            self.stored_var.lerp_(var.to(self.stored_var), self.momentum)


class _Statistics(nn.Module):
    """Normalisation with the buffer names of the official code, in its two flavours.

    Attributes:
        batch_statistics: evaluation, too, normalises with its own batch, and stores nothing.
    """

    batch_statistics = False

    def _init_statistics(self, channels: int, eps: float, standing: bool) -> None:
        self.channels, self.eps = channels, eps
        if standing:
            self.bn = StandingStatistics(channels, eps)
        else:
            self.register_buffer("stored_mean", torch.zeros(channels))
            self.register_buffer("stored_var", torch.ones(channels))

    def scale_and_shift(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """Normalise x [N, C, H, W], then multiply with `gain` and add `bias`, [N, C] or [1, C] each."""
        if self.batch_statistics and not self.training:
            return batch_norm(x, gain, bias, self.eps)[0]
        if self.training and not hasattr(self, "bn") and x.device.type == "cpu":
            out, mean, var = batch_norm(x, gain, bias, self.eps)
            count = x.numel() // x.shape[1]
            self.stored_mean.lerp_(mean.to(self.stored_mean), 0.1)
            self.stored_var.lerp_((var * (count / (count - 1))).to(self.stored_var), 0.1)
            return out
        if hasattr(self, "bn"):
            out = self.bn(x)
        else:
            out = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, self.training, 0.1, self.eps)
        return out * gain[:, :, None, None] + bias[:, :, None, None]


class BatchNorm(_Statistics):
    """Batch norm with one gain and bias per channel, [channels] each, for all classes."""

    def __init__(self, channels: int, eps: float = 1e-5, standing: bool = False) -> None:
        super().__init__()
        self._init_statistics(channels, eps, standing)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return self.scale_and_shift(x, self.gain[None], self.bias[None])


class ClassBatchNorm(_Statistics):
    """Batch norm whose gain (1 + offset) and bias come from class affines.

    Args:
        gain, bias: modules mapping a `Condition` to offsets [N, channels].
    """

    def __init__(
        self, channels: int, gain: nn.Module, bias: nn.Module, eps: float = 1e-5, standing: bool = False
    ) -> None:
        super().__init__()
        self._init_statistics(channels, eps, standing)
        self.gain, self.bias = gain, bias

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return self.scale_and_shift(x, 1 + self.gain(condition), self.bias(condition))


class RoutedNorm(nn.Module):
    """A source's norm layer and the norm layers of the adapters that extend it.

    Class ids ``0..sizes[0]-1`` are the source's, the next ``sizes[1]`` the first adapter's, and so on.
    The source's norm runs on the whole batch exactly as in the source, so rows of old classes are
    bit-identical in any mix; rows of new classes are then replaced by their adapter's norm, statistics
    included. Mixing weights over classes blend the norms' outputs.
    """

    def __init__(self, source: nn.Module, sizes: Sequence[int], adapters: Sequence[nn.Module]) -> None:
        super().__init__()
        self.source = source
        self.adapters = nn.ModuleList(adapters)
        self.sizes = list(sizes)

    @property
    def channels(self) -> int:
        return self.source.channels

    def append(self, norm: nn.Module, classes: int) -> None:
        """Add the norm of an adapter with `classes` classes."""
        self.adapters.append(norm)
        self.sizes.append(classes)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        labels = condition.labels
        if labels is None:
            return self.source(x, condition)
        if labels.is_floating_point():
            return self._mix(x, condition)
        first = self.sizes[0]
        new_class = (labels >= first) & (labels < sum(self.sizes))  # a label beyond all classes fails in the source
        out = self.source(x, condition._replace(labels=labels.where(~new_class, 0)))
        for norm, size in zip(self.adapters, self.sizes[1:], strict=True):
            rows = ((labels >= first) & (labels < first + size)).nonzero().squeeze(1)
            if len(rows):
                part = Condition(*(None if c is None else c[rows] for c in condition))
                new = norm(x[rows], part._replace(labels=labels[rows] - first))
                # Not index_copy: it loses channels_last, and the next convolution would then round differently.
                out = out.index_put((rows,), new)
            first += size
        return out

    def _mix(self, x: Tensor, condition: Condition) -> Tensor:
        out = torch.zeros_like(x)
        parts = condition.labels.split(self.sizes, 1)
        for norm, weights in zip([self.source, *self.adapters], parts, strict=True):
            mass = weights.sum(1, keepdim=True)
            if mass.any():
                share = weights / mass.clamp_min(1e-12)
                out = out + mass[:, :, None, None] * norm(x, condition._replace(labels=share))
        return out


def class_rows(norm: nn.Module, embedding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Effective scales (the leading 1 included) and shifts of every class of a class norm.

    Args:
        norm: a `ClassBatchNorm`, or a `RoutedNorm` of them (then the adapters' classes follow).
        embedding: the generator's shared class embedding [classes, shared_dim], or None.

    Returns:
        Two float tensors [classes, channels], without gradient: the columns of cGANTransfer's eq. 5.
    """
    if isinstance(norm, RoutedNorm):
        parts = [class_rows(part, embedding) for part in [norm.source, *norm.adapters]]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    return 1 + norm.gain.class_offsets(embedding), norm.bias.class_offsets(embedding).clone()
