"""The types a transfer method and the trainer agree on; no behaviour.

A *method* is a frozen dataclass of the paper's hyper-parameters with `reshape` (structure, no data) and `plan`
(what trains, with which loss, when). The trainer iterates over the plan's phases and knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """All a generator's structure may depend on; stored in the adapter.

    Attributes:
        classes: class names in label order; empty for an unlabelled target.
    """

    num_images: int
    classes: tuple[str, ...]
    resolution: int
    channels: int

    @property
    def num_classes(self) -> int:
        return len(self.classes)


class Batch(NamedTuple):
    """What one loss evaluation sees, on the training device.

    images: float32 [B, C, H, W] in [-1, 1]; labels: int64 [B]; indices: int64 [B], the images' places in the
    data; z: float32 [B, z_dim]; y: int64 [B], uniform labels for the fakes; rng: CPU generator for everything
    else that is random; step: iterations done. `images`, `labels` and `indices` are empty in phases that use no images.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    z: Tensor
    y: Tensor
    rng: torch.Generator
    step: int = 0


class Losses(NamedTuple):
    """Scalar terms whose sum is minimised, and scalars that are only logged."""

    terms: dict[str, Tensor]
    logs: dict[str, Tensor]


@dataclass(frozen=True)
class Group:
    """Parameters that share one optimiser for the whole run; `betas` are Adam's. The rate is multiplied by `decay`
    every `decay_steps` iterations (0: never)."""

    params: Sequence[nn.Parameter]
    lr: float
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-8
    decay: float = 1.0
    decay_steps: int = 0


@dataclass(frozen=True)
class Phase:
    """One kind of update; several may move the same group. List order is update order.

    Attributes:
        updates: names of the groups it may move; nothing else receives a gradient.
        every: run in every k-th iteration. repeat: so often within the iteration, on fresh batches.
        start_nimg, stop_nimg: active while start <= images shown < stop.
        uses_images: real images are fetched for it, and counted as shown.
        state: what its loss remembers between updates, saved and resumed with the run.
    """

    name: str
    updates: tuple[str, ...]
    loss: Callable[[Batch], Losses]
    every: int = 1
    repeat: int = 1
    start_nimg: int = 0
    stop_nimg: int | None = None
    uses_images: bool = True
    state: nn.Module | None = None


@dataclass(frozen=True)
class Plan:
    """What trains.

    Attributes:
        groups: parameter groups by name.
        phases: updates in order.
        extras: training-only modules (critic, latents); resumed, not shipped.
        fixed: modules kept in eval mode, so that their buffers do not move either.
        fixed_until_nimg: release them once so many images were shown; None keeps them to the end.
        fixed_statistics: norms that use, and keep, their running statistics to the end; what they contain trains on.
        notes: what was copied, combined or newly initialised, for the run's record.
    """

    groups: Mapping[str, Group]
    phases: Sequence[Phase]
    extras: nn.ModuleDict
    fixed: Sequence[nn.Module] = ()
    fixed_until_nimg: int | None = None
    fixed_statistics: Sequence[nn.Module] = ()
    notes: Sequence[str] = field(default_factory=tuple)


class Source(Protocol):
    """What a method sees of a pre-trained GAN."""

    generator: nn.Module
    discriminator: nn.Module | None
    classes: list[str]

    @property
    def config(self) -> Mapping[str, Any]: ...


class Method(Protocol):
    """A transfer method; a frozen dataclass whose fields are its hyper-parameters."""

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The adapted generator's structure, from deep copies; deterministic, needs no data."""
        ...

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: Any) -> Plan:
        """What trains; may parametrise `generator` in place. `loss` is an `AdversarialLoss`."""
        ...
