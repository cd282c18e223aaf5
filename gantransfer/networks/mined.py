"""Trained generators with miners before them: what MineGAN makes, as an architecture of its own.

Wang et al., "MineGAN: effective knowledge transfer from GANs to target domains with few images", CVPR 2020: a miner
M is a multilayer perceptron before a generator's prior, ``z = M(u)``; before a conditional generator a second one
maps the same u to its class condition. The sources are any other architectures; they are met only at what every
network declares: ``z_dim``, ``num_classes``, ``class_embedding()``, and a condition that is a float embedding or a
`ClassMixture` in place of labels.

Three forms: one source with one miner; one source with a miner per class (and, where it was extended, the source's
own classes before them, whose latents pass no miner); several sources with a miner each, of which a sample comes from
exactly one, drawn with probabilities `Mined.p`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.layers import SNLinear
from gantransfer.norm import ClassMixture, Condition
from gantransfer.registry import architectures, register_architecture
from gantransfer.routing import ConfiguredGenerator, drawn_by

ACTIVATIONS = {"relu": nn.ReLU, "lrelu": lambda: nn.LeakyReLU(0.2), "none": nn.Identity}
CONDITIONS = ("none", "embedding", "mixture")


@dataclass(frozen=True)
class MinerConfig:
    """One miner.

    Attributes:
        u_dim: entries of the new latent that it reads, the first ones of its part. z_dim: the source's.
        depth: linear layers. width: of the layers between. activation: after each but the last.
        spectral: spectrally normed layers with epsilon `sn_eps`.
        condition: what the label stack gives: "none", an "embedding" or a "mixture" of `condition_dim` entries.
    """

    u_dim: int
    z_dim: int
    depth: int = 2
    width: int = 64
    activation: str = "relu"
    spectral: bool = False
    condition: str = "none"
    condition_dim: int = 0
    sn_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("u_dim", "z_dim", "depth", "width"):
            if getattr(self, name) < 1:
                raise ModelError(f"a miner's {name} {getattr(self, name)} is not possible; give 1 or more")
        if self.activation not in ACTIVATIONS or self.condition not in CONDITIONS:
            raise ModelError(f"a miner with activation '{self.activation}' and condition '{self.condition}' is "
                             f"unknown; have: {', '.join(ACTIVATIONS)}; {', '.join(CONDITIONS)}")


class Miner(nn.Module):
    """u float [N, >= u_dim] -> (z float [N, z_dim], condition: None, float [N, dim] or `ClassMixture`)."""

    def __init__(self, config: MinerConfig) -> None:
        super().__init__()
        self.config = config
        self.latent = _perceptron(config, config.z_dim)
        self.label = None if config.condition == "none" else _perceptron(config, config.condition_dim)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor | ClassMixture | None]:
        u = u[:, : self.config.u_dim]
        z = self.latent(u)
        if self.label is None:
            return z, None
        condition = self.label(u)
        return z, ClassMixture(condition.softmax(1)) if self.config.condition == "mixture" else condition


def _perceptron(config: MinerConfig, out: int) -> nn.Sequential:
    sizes = [config.u_dim, *[config.width] * (config.depth - 1), out]
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        layers.append(SNLinear(n_in, n_out, eps=config.sn_eps) if config.spectral else nn.Linear(n_in, n_out))
        if config.activation != "none":
            layers.append(ACTIVATIONS[config.activation]())
    return nn.Sequential(*(layers if config.activation == "none" else layers[:-1]))


@dataclass(frozen=True)
class MinedConfig:
    """Everything a mined generator's structure depends on.

    Attributes:
        sources: ``{"arch": name, "network": settings}`` each. miners: settings of `MinerConfig` each.
        num_classes: classes; 0 is a model without them. old_classes: how many of them are the source's own.
        added: class counts of the adapters that were added to the source, in order.
        shared_u: several sources read the same entries of u, not entries of their own.
        resolution, channels, z_dim: follow from the others.
    """

    sources: tuple[dict, ...]
    miners: tuple[dict, ...]
    num_classes: int = 0
    old_classes: int = 0
    added: tuple[int, ...] = ()
    shared_u: bool = False
    resolution: int = 0
    channels: int = 0
    z_dim: int = 0

    def __post_init__(self) -> None:
        for name in ("sources", "miners", "added"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        shapes = [(c.resolution, c.channels) for c in self.source_configs()]
        if not shapes or (len(shapes) > 1 and len(self.miners) != len(shapes)):
            raise ModelError(f"{len(shapes)} sources with {len(self.miners)} miners make no mined model; give one each")
        for number, shape in enumerate(shapes[1:], 2):
            if shape != shapes[0]:
                raise ModelError(f"source {number} makes images of {shape[0]} px with {shape[1]} channel(s) and source "
                                 f"1 of {shapes[0][0]} px with {shapes[0][1]}; one critic sees them all: choose "
                                 "sources of one shape")
        widths = [miner.u_dim for miner in self.miner_configs()]
        if len(shapes) > 1:  # the last entry picks the source
            z_dim = (max(widths) if self.shared_u else sum(widths)) + 1
        else:
            z_dim = max([*widths, self.source_configs()[0].z_dim] if self.old_classes else widths)
        for name, value in (("resolution", shapes[0][0]), ("channels", shapes[0][1]), ("z_dim", z_dim)):
            object.__setattr__(self, name, value)

    def source_configs(self) -> list[Any]:
        """The sources' own configurations."""
        return [architectures[s["arch"]].config_class(**s["network"]) for s in self.sources]

    def miner_configs(self) -> list[MinerConfig]:
        return [MinerConfig(**miner) for miner in self.miners]


class Mined(ConfiguredGenerator):
    """Sources with their miners; `p` [sources] are the probabilities of picking each (several sources only), `starts`
    where in u each miner begins to read."""

    p: Tensor
    arch, wraps = "mined", "was mined"

    def __init__(self, config: MinedConfig, sources: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        if sources is None:
            built = zip(config.sources, config.source_configs(), strict=True)
            sources = [architectures[s["arch"]].build_generator(inner) for s, inner in built]
        self.sources = nn.ModuleList(sources)
        self.miners = nn.ModuleList(Miner(miner) for miner in config.miner_configs())
        if len(self.sources) > 1:
            self.register_buffer("p", torch.full((len(self.sources),), 1 / len(self.sources)))
        widths = [miner.config.u_dim for miner in self.miners]
        own = len(self.sources) > 1 and not config.shared_u
        self.starts = [sum(widths[:i]) if own else 0 for i in range(len(widths))]

    @property
    def picks(self) -> int:
        """Entries at z's end that pick and draw nothing: 1 with several sources, else 0."""
        return int(len(self.sources) > 1)

    @property
    def unaveraged(self) -> tuple[str, ...]:
        """Buffers that are averages already, and that no average over weights shall delay."""
        return ("p",) if self.picks else ()

    # ---- drawing -------------------------------------------------------------------------------------

    def forward(
        self, u: Tensor, y: Tensor | None = None, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """float32 images [N, channels, R, R] in [-1, 1] from u [N, z_dim] and, where miners belong to classes, int64
        labels [N]. With several sources every image is one source's, picked by u's last entry."""
        if noise is not None:
            raise ModelError("a mined model has no noise inputs: leave noise=None")
        if self.picks:
            return self.draw(u, self.pick(u))
        if len(self.miners) == 1 and not self.config.old_classes:
            return self.from_miner(0, u)
        return self._by_class(u, y)

    def from_miner(self, number: int, u: Tensor) -> Tensor:
        """Images of one miner and its source, G_i(M_i(u))."""
        own = u[:, self.starts[number] :]
        z, condition = self.miners[number](own)
        return drawn_by(own, self.sources[number if self.picks else 0], z, condition)

    def pick(self, u: Tensor) -> Tensor:
        """int64 [N]: a source for each row of u, with probabilities `p`: where the normal distribution function of u's
        last entry falls among their sums. Images of one seed are the same however many are drawn."""
        share = torch.special.ndtr(u[:, -1].double())
        edges = self.p.double().cumsum(0)
        return torch.searchsorted(edges / edges[-1], share, right=True).clamp_max(len(self.p) - 1)

    def draw(self, u: Tensor, picked: Tensor) -> Tensor:
        """Images of the sources `picked`, int64 [N]; each source computes its own rows alone."""
        rows = [(picked == i).nonzero().squeeze(1) for i in range(len(self.sources))]
        images = torch.cat([self.from_miner(i, u[r]) for i, r in enumerate(rows) if len(r)])
        return images[torch.cat(rows).argsort()]

    def _by_class(self, u: Tensor, y: Tensor | None) -> Tensor:
        """One pass of the source: rows of its own classes as without miners, others through their class's miner."""
        if not isinstance(y, Tensor) or y.is_floating_point():
            raise ModelError(f"this model draws {self.num_classes} classes with a miner each: pass int64 labels [N]")
        if y.device.type == "cpu" and y.numel() and int(y.max()) >= self.num_classes:
            raise ModelError(f"this model has {self.num_classes} classes and was asked for class {int(y.max())}; "
                             "labels count from 0")
        old, source = self.config.old_classes, self.sources[0]
        z = u[:, : source.z_dim].clone() if old else u.new_zeros(len(u), source.z_dim)
        mined = []
        for number, miner in enumerate(self.miners):
            rows = (y == old + number).nonzero().squeeze(1)
            if len(rows):
                found, condition = miner(u[rows])
                z = z.index_put((rows,), found)
                mined.append((rows, condition))
        if not source.num_classes:
            return drawn_by(u, source, z, None)
        labels = y.where(y < old, 0)
        return drawn_by(u, source, z, _together(source, labels, mined) if mined else labels)

    # ---- identity, extension -------------------------------------------------------------------------

    def standing_norms(self) -> list[nn.Module]:
        return [norm for source in self.sources for norm in source.standing_norms()]

    def beside_base(self) -> list[nn.Module]:
        """What may change while the base model stays: nothing that has statistics, where it is extended."""
        return [] if self.config.old_classes else [self]

    def added_to(self, generator: nn.Module, arch: str) -> Mined:
        """A copy of `generator`, of architecture `arch`, with this one's classes after its own. `generator` is the
        source, or what other classes were added to since."""
        if self.picks:
            raise ModelError("a model of several sources has no old classes to add to; use merge")
        if not self.num_classes:
            raise ModelError("an adapter that was mined without labels has no classes to add; use merge, or mine with "
                             "per_class")
        if isinstance(generator, Mined):
            config, miners = generator.config, [*generator.miners, *self.miners]
            source = generator.sources[0]
        else:
            inner = {"arch": arch, "network": architectures[arch].config_dict(generator.config)}
            count = max(generator.num_classes, 1)
            config = MinedConfig((inner,), self.config.miners, count, count)
            source, miners = generator, [*self.miners]
        settings = tuple(asdict(miner.config) for miner in miners)
        config = replace(config, miners=settings, num_classes=config.num_classes + self.num_classes,
                         added=(*config.added, self.num_classes))
        extended = Mined(config, [copy.deepcopy(source)])
        extended.miners = nn.ModuleList(copy.deepcopy(miner) for miner in miners)
        return extended.train(generator.training)

    @property
    def base_arch(self) -> str:
        return self.config.sources[0]["arch"]

    def base(self) -> nn.Module:
        """A copy of the source without any classes that were added to it."""
        source = self.sources[0]
        return source.base() if getattr(source.config, "extensions", ()) else copy.deepcopy(source)

    def state_before(self, adapters: int) -> dict[str, Tensor]:
        """The source's tensors as they were when only its first `adapters` adapters had been added."""
        own = len(getattr(self.sources[0].config, "extensions", ()))
        return self.sources[0].state_before(adapters) if adapters < own else self.sources[0].state_dict()

    def with_classes(self, classes: int, rows: Tensor | None) -> nn.Module:
        raise ModelError("a mined model is no source for another adaptation; give the source that it was mined from")

    def fresh(self, classes: int) -> nn.Module:
        return self.with_classes(classes, None)


def _together(source: nn.Module, labels: Tensor, mined: Sequence[tuple[Tensor, Any]]) -> Any:
    """The condition of a batch: old classes by `labels` [N], and at the rows of `mined` what their miner gave."""
    table = source.class_embedding()
    if table is None:
        weights = F.one_hot(labels, source.num_classes).to(mined[0][1].weights.dtype)
        for rows, mixture in mined:
            padding = (0, source.num_classes - mixture.weights.shape[1])
            weights = weights.index_put((rows,), F.pad(mixture.weights, padding))
        return ClassMixture(weights)
    known = labels.where(labels < len(table), 0)  # classes of adapters are rows of their norms, not of the embedding
    embedding = F.embedding(known, table)
    for rows, found in mined:
        if isinstance(found, ClassMixture):
            found = found.weights[:, : len(table)] @ table
        embedding = embedding.index_put((rows,), found)
    return Condition(labels, embedding, None) if getattr(source.config, "extensions", ()) else embedding


@register_architecture("mined")
class MinedArchitecture:
    """The architecture's entry points for `gantransfer.sources`, and for the method that mines."""

    config_class = MinedConfig
    miner_class = MinerConfig
    shorthand: dict[str, str] = {}

    @staticmethod
    def build_generator(config: MinedConfig) -> Mined:
        """Freshly initialised sources and miners, in eval mode."""
        return Mined(config).eval()

    @staticmethod
    def build_discriminator(config: MinedConfig) -> nn.Module:
        """The first source's critic, freshly initialised."""
        return architectures[config.sources[0]["arch"]].build_discriminator(config.source_configs()[0])

    @staticmethod
    def around(
        sources: Sequence[nn.Module], archs: Sequence[str], miners: Sequence[MinerConfig], **settings: Any
    ) -> Mined:
        """`sources` themselves, of architectures `archs`, with fresh miners (global generator) before them."""
        inner = tuple({"arch": arch, "network": architectures[arch].config_dict(source.config)}
                      for arch, source in zip(archs, sources, strict=True))
        return Mined(MinedConfig(inner, tuple(map(asdict, miners)), **settings), sources).eval()

    @staticmethod
    def expand(settings: Mapping[str, Any]) -> dict[str, Any]:
        raise ModelError("a mined model is made from trained sources; use 'gantransfer adapt --method minegan'")

    @staticmethod
    def config_dict(config: MinedConfig) -> dict[str, Any]:
        """JSON-ready settings."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
