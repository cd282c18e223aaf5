"""Modulations of existing weights, as `torch.nn.utils.parametrize` classes.

Knowledge propagation computes a table of class offsets from old classes' parameters. The parametrised
tensor (``original``) holds the residuals [classes, channels]; reading ``weight`` yields the whole table.
`fold` replaces every modulation by the plain tensor it yields, without changing any image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantransfer.filter_modulation import WeightModulation
from gantransfer.layers import SNLinear, SpectralNorm, initialise
from gantransfer.norm import NoisyClassTable

PARAMETRISATIONS = ("centred", "linear", "softmax")


class Propagation(nn.Module):
    """Class parameters as combinations of old classes' (cGANTransfer, eqs. 5 and 6) plus residuals.

    With S = scale * scores and R = residual_scale * residual: ``linear``: table = S P + R. ``centred``:
    table = m + S (P - m) + R with m the mean of P's rows: eq. 5 with scores S + (1 - sum S) / N, which sum to 1, in
    a basis whose directions are the differences between classes. ``softmax``: table = softmax(S) P + R (ours).

    Args:
        prior: float [N, channels], effective scales (leading 1 included) or shifts of the old classes.
        scores: Parameter [M, N]; give the same one to several layers to share it.
        is_scale: the table feeds a gain, whose leading 1 is taken off again.
        parametrisation: one of `PARAMETRISATIONS`.
        scale, residual_scale: units of the stored scores and residuals: Adam moves S (R) by up to so many times the
            rate in a step.
    """

    def __init__(
        self, prior: Tensor, scores: nn.Parameter, is_scale: bool, parametrisation: str, scale: float = 1.0,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.prior = nn.Parameter(prior.clone())
        self.scores = scores
        self.is_scale, self.parametrisation, self.scale = is_scale, parametrisation, scale
        self.residual_scale = residual_scale

    def effective_scores(self) -> Tensor:
        """float [M, N]: the coefficients S of eq. 5, whatever the parametrisation."""
        scores = self.scale * self.scores
        if self.parametrisation == "softmax":
            return torch.softmax(scores, 1)
        if self.parametrisation == "centred":
            return scores + (1 - scores.sum(1, keepdim=True)) / scores.shape[1]
        return scores

    def pseudo_classes(self, is_scale: bool) -> tuple[Tensor, Tensor]:
        """The rows [N, C] that the scores combine, and what to add [C] for the scale or shift of one alone: nothing."""
        return self.prior, torch.zeros_like(self.prior[0])

    def forward(self, residual: Tensor) -> Tensor:
        residual = self.residual_scale * residual
        if self.parametrisation == "centred":
            mean = self.prior.mean(0)
            table = mean + self.scale * self.scores @ (self.prior - mean) + residual
        else:
            table = self.effective_scores() @ self.prior + residual
        return table - 1 if self.is_scale else table


class OfficialPropagation(nn.Module):
    """Knowledge propagation as cGANTransfer's published code computes it, per gain or bias:
    ``P (A c + a) + z_bias + R c`` on *offsets*, c the one-hot class.

    Args:
        classes, old_classes, channels: M, N and C.
        spectral: the ImageNet flavour: spectral norm on scores A and prior P, no bias on P, and a bias
            `noise_bias` that the code's noise projection adds. False is the CIFAR flavour: plain layers, both
            with bias.
        sn_eps: epsilon of the prior's spectral norm (the scores' is always 1e-12, as published).
    """

    def __init__(self, classes: int, old_classes: int, channels: int, spectral: bool, sn_eps: float) -> None:
        super().__init__()
        if spectral:
            self.scores: nn.Linear = SNLinear(classes, old_classes, bias=True, eps=1e-12)
            self.prior: nn.Linear = SNLinear(old_classes, channels, bias=False, eps=sn_eps)
        else:
            self.scores = nn.Linear(classes, old_classes)
            self.prior = nn.Linear(old_classes, channels)

    def effective_scores(self) -> Tensor:
        """float [M, N]: scores including their bias."""
        weight = self.scores.weight
        return self.scores(torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device))

    def pseudo_classes(self, is_scale: bool) -> tuple[Tensor, Tensor]:
        """The rows [N, C] that the scores combine, and what to add [C] for the scale or shift of one alone: here they
        are offsets."""
        weight = self.scores.weight
        none = self.prior(weight.new_zeros(1, self.prior.in_features))[0]
        rows = self.prior(torch.eye(self.prior.in_features, dtype=weight.dtype, device=weight.device)) - none
        return rows, none + float(is_scale)

    def forward(self, residual: Tensor) -> Tensor:
        return self.prior(self.effective_scores()) + residual


def attach_official_propagation(generator: nn.Module, old_classes: int, *, spectral: bool) -> None:
    """Parametrise every class table of `generator` (see `with_class_tables`) as the published code does, in
    place; with hierarchical z the noise projections become spectrally normed linears with bias."""
    for _, norm in generator.class_norms():
        for table in (norm.gain, norm.bias):
            classes, channels = table.weight.shape
            layer = OfficialPropagation(classes, old_classes, channels, spectral, generator.config.sn_eps)
            parametrize.register_parametrization(table, "weight", layer, unsafe=True)
            if hasattr(table, "noise"):
                plain = table.noise
                table.noise = SNLinear(plain.in_features, plain.out_features, bias=True, eps=1e-12)
                with torch.no_grad():
                    table.noise.weight.copy_(plain.weight)
            table.train(generator.training)


@torch.no_grad()
def start_official_propagation(generator: nn.Module, source: nn.Module) -> None:
    """Start `attach_official_propagation`'s layers as the published code does: prior and noise projection from
    the source's raw (not normalised) weights, everything else by the network's init scheme."""
    embedding, spectral = source.class_embedding(), source.config.shared_dim > 0
    for name, norm in source.class_norms():
        target = generator.get_submodule(name)
        for table, old in ((target.gain, norm.gain), (target.bias, norm.bias)):
            layer = table.parametrizations.weight[0]
            residual = nn.Linear(*reversed(table.parametrizations.weight.original.t().shape), bias=False)
            start = nn.ModuleList([layer, residual])
            initialise(start, source.config.init)
            table.parametrizations.weight.original.copy_(residual.weight.t())
            width = source.config.shared_dim
            if spectral:
                layer.prior.weight.copy_(old.weight[:, :width] @ embedding.t())
                if hasattr(table, "noise"):
                    table.noise.weight.copy_(old.weight[:, width:])
            else:
                layer.prior.weight.copy_(old.weight.t())


def _settle(part: nn.Module) -> None:
    """Replace `part`'s parametrisations by their values. PyTorch's own removal takes the property off the class,
    which a deep copy shares with its original, and so breaks the original."""
    values = {name: getattr(part, name).detach().clone() for name in getattr(part, "parametrizations", {})}
    if values:
        del part.parametrizations
        part.__class__ = type(part).__bases__[0]
        for name, value in values.items():
            part.register_parameter(name, nn.Parameter(value))


@torch.no_grad()
def fold(module: nn.Module, filters: bool = True) -> nn.Module:
    """Replace every parametrisation inside `module`, in place, by the tensor it yields in eval mode, every spectrally
    normed noise projection by a plain one, and every modulated spectrally normed convolution by one without the norm;
    returns `module` in eval mode.

    Args:
        filters: False leaves modulations of filters in place: the form of an adapter, which they are smaller in.
    """
    module.eval()
    plain_convolutions = []
    for name, part in list(module.named_modules()):
        if isinstance(part, SpectralNorm) and part.modulation is not None and filters:
            part.weight.copy_(part.normalized_weight())
            part.without_norm()
            part.modulation = None
            plain_convolutions.append(name)
        if filters or not _modulates_filters(part):
            _settle(part)
        if isinstance(part, NoisyClassTable) and isinstance(part.noise, SNLinear):
            plain = nn.Linear(part.noise.in_features, part.noise.out_features, bias=False).to(part.weight)
            plain.weight.copy_(part.noise.normalized_weight())
            if part.noise.bias is not None:
                part.weight += part.noise.bias
            part.noise = plain
    if plain_convolutions:
        module.config = replace(module.config, plain_convolutions=(*module.config.plain_convolutions,
                                                                  *plain_convolutions))
    return module


def _modulates_filters(part: nn.Module) -> bool:
    if isinstance(part, SpectralNorm) and part.modulation is not None:
        return True
    return parametrize.is_parametrized(part, "weight") and isinstance(part.parametrizations.weight[0], WeightModulation)


def is_plain(module: nn.Module) -> bool:
    """Whether nothing inside `module` is modulated."""
    return not any(parametrize.is_parametrized(part) or getattr(part, "modulation", None) is not None
                   for part in module.modules())


def propagations(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name of the class table, its propagation) for every parametrised table inside `module`."""
    found = []
    for name, part in module.named_modules():
        if parametrize.is_parametrized(part, "weight"):
            modulation = part.parametrizations.weight[0]
            if isinstance(modulation, (Propagation, OfficialPropagation)):
                found.append((name, modulation))
    return found
