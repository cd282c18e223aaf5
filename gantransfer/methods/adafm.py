"""AdaFM, the limited-data method: keep low-level filters, modulate them, and learn a small style head above them.

Paper: Zhao, Cong, Carin, "On Leveraging Pretrained GANs for Limited-Data Generation", ICML 2020. Reference code:
GANTransferLimitedData (b1725b5). G_m and D_n are the general parts, frozen: the m groups of G and the n of D that are
next to the image (section 3.1; the image layer is the first group). Above them G gets a fully connected layer and style
blocks (section 3.2), and the frozen filters are modulated (section 3.3).

The rows of the paper's Table 1: (b) GPHead is ``head="source", modulation="none"``, (c) SmallHead
``modulation="none"``, (d) the defaults; Table 2's TransferGAN is ``head="source", general_g=0, general_d=0,
modulation="none"``, (a) GP-GAN the same with ``start="scratch"``. Table 2's Scratch is ``start="scratch",
modulation="none"``: the paper names this architecture, and modulating filters that train themselves would add nothing
but a second rate for them (leave the modulation on for the letter of it).

Only in the published code, and options here: `scaled_norm`, `clamp`, `modulation_nimg` (10,001 iterations of 16 images)
and, of the training settings, ``order="generator"`` and for 25 images ``r2_gamma=40`` beside ``r1_gamma=40`` (the
code's 20 without the factor 1/2). The code leaves the label out; here a target with classes has labels in head and D.
Of a source with a moving average of G, that is what is transferred, as by every method here; the code's files of
pre-trained weights are of the raw G.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import Choices, check_choices, critic_rows, one_source, seeded, with_target_classes
from gantransfer.filter_modulation import KINDS, filter_modulations, filters, is_normed, modulate
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Group, Plan, Source, Target
from gantransfer.registry import register_method


@register_method("adafm")
@dataclass(frozen=True)
class AdaFM:
    """Freeze and modulate low-level filters, learn the rest.

    Attributes:
        general_g, general_d: m and n of G_m and D_n, how many groups next to the image stay frozen in G and D.
        head: "style", fully connected layer and style blocks in place of G's other groups, or "source", these groups
            themselves, which start from the source's weights and train.
        modulation: of the frozen 3x3 filters of G: "adafm" (scale and shift per pair of channels), "fs" (per output
            channel), "demodulation" (scale of rank one) or "none".
        modulation_nimg: images shown before the modulation starts to train.
        start: "pretrained", or "scratch": nothing is transferred, and everything trains.
        first_layer: with head "source", whether the layer after the latents starts "random" (as published, the label's
            and latent's sizes differ there) or as the "source"'s, with class parameters from its mean. In D the last
            layer does likewise. In other networks than GP-GAN G's layer is always the source's, and D's class rows are
            meant.
        z_dim: length of the latent; 0 is the source's. Another one needs a "random" first layer.
        style_blocks, style_dim, mapping_layers: of the style head.
        scaled_norm, clamp: the published code's junction of head and general part, and its clamped AdaIN gradient.
        grey: the target is grey and the source is not: the frozen image layers stay, D's input is repeated over
            channels and G's output averaged (appendix I). R1 is of the grey image, whose gradient is the sum over the
            three copies.
        lr_g, lr_d, lr_modulation: Adam rates of G's head, of D and of the modulation. beta2: Adam's (the first is 0).
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    general_g: int = 4
    general_d: int = 2
    head: str = "style"
    modulation: str = "adafm"
    modulation_nimg: int = 0
    start: str = "pretrained"
    first_layer: str = "random"
    z_dim: int = 0
    style_blocks: int = 2
    style_dim: int = 256
    mapping_layers: int = 8
    scaled_norm: bool = False
    clamp: bool = False
    grey: bool = False
    lr_g: float = 1e-4
    lr_d: float = 1e-4
    lr_modulation: float = 1e-4
    beta2: float = 0.99
    init_seed: int = 0

    choices: ClassVar[Choices] = {"head": ("style", "source"), "modulation": (*KINDS, "none"),
                                  "start": ("pretrained", "scratch"), "first_layer": ("random", "source")}

    def __post_init__(self) -> None:
        check_choices(self)

    needs_labels: ClassVar[bool] = False  # it takes them up where there are some

    def critic_source(self, sources: Sequence[Source]) -> Source:
        """Whose critic, and so whose loss, the run goes on with."""
        return one_source(sources, "adafm")

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """Channels of the target's images for a source of this `config`."""
        return 1 if self.grey else config["channels"]

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The general part with its modulation, and the specific part."""
        source = one_source(sources, "adafm")
        if self.start == "scratch" and any(map(is_normed, source.generator.modules())) and self.modulation != "none":
            raise UsageError("start 'scratch' trains all filters, and a modulation of this source's normed layers "
                             "would freeze them; add --modulation none")
        with seeded(self.init_seed):
            generator = self._generator(source, target)
            if self.start == "scratch":
                generator = generator.fresh(target.num_classes)
            for _, convolution in self._modulated(generator):
                modulate(convolution, self.modulation)
        return generator

    def _generator(self, source: Source, target: Target) -> nn.Module:
        generator = source.generator
        changes: dict[str, Any] = {}
        if self.z_dim and self.z_dim != generator.z_dim:
            changes["z_dim"] = self.z_dim
        if self.grey and source.config["channels"] == 3:
            changes |= {"channels": 1, "replicate": True}
        if self.head == "style":
            changes |= {"general": self.general_g, "style_blocks": self.style_blocks, "style_dim": self.style_dim,
                        "mapping_layers": self.mapping_layers, "scaled_norm": self.scaled_norm, "clamp": self.clamp}
        if not hasattr(generator, "with_changes"):
            if changes:
                what = "another z_dim" if "z_dim" in changes else "grey images through its colour layers (grey)"
                what = "a style head" if self.head == "style" else what
                raise ModelError(f"a generator of architecture '{source.config['arch']}' cannot take {what}; use head "
                                 "'source' with the source's z_dim and without grey, or a gp_gan source")
            self._check_range("general_g", self.general_g, len(generator.blocks) + 1, "generator")
            return with_target_classes(source, target.num_classes, "mean", self.init_seed)
        own = generator.config
        if "z_dim" in changes and self.head == "source" and self.first_layer == "source":
            raise UsageError(f"z_dim {self.z_dim} is not the source's {generator.z_dim}, which its first layer takes; "
                             "use first_layer 'random', or leave z_dim out")
        self._check_range("general_g", self.general_g, len(own.layout.g), "generator", int(self.head == "style"))
        if own.general:
            raise ModelError("this source has a style head already and adafm puts one on a plain generator; start from "
                             "the model that it was adapted from, or use transfergan")
        if not changes and self.first_layer == "source":
            return with_target_classes(source, target.num_classes, "mean", self.init_seed)
        return generator.with_changes(target.num_classes, self.first_layer == "source", **changes)

    def _check_range(self, name: str, value: int, most: int, network: str, least: int = 0) -> None:
        if not least <= value <= most:
            raise UsageError(f"{name} {value} is outside {least} to {most}, the groups of this source's {network}, "
                             "counted from the image on")

    def _general(self, generator: nn.Module) -> list[nn.Module]:
        """G's frozen groups, the image layer first."""
        groups = [generator.head, *reversed(list(generator.blocks))]
        return groups[: self.general_g]

    def _modulated(self, generator: nn.Module) -> list[tuple[str, nn.Conv2d]]:
        if self.modulation == "none":
            return []
        return [found for group in self._general(generator)[1:] for found in filters(group)]

    def _critic(self, source: Source, target: Target) -> nn.Module:
        if source.discriminator is None:
            raise ModelError("this source has no discriminator, which adafm transfers; use a source with one")
        changes: dict[str, Any] = {}
        if self.grey and source.config["channels"] == 3:
            changes = {"channels": 1, "replicate": True}
        rows = critic_rows("random" if self.first_layer == "random" else "mean", target.num_classes,
                           source.discriminator.num_classes, self.init_seed + 1)
        with seeded(self.init_seed + 1):
            critic = source.discriminator.with_classes(target.num_classes, rows, **changes)
            if self.start == "scratch":
                critic = critic.fresh(target.num_classes)
        self._check_range("general_d", self.general_d, len(critic.blocks), "discriminator")
        return critic

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """The head, the modulation, and D above its general part."""
        source = one_source(sources, "adafm")
        critic = self._critic(source, target)
        transferred = self.start == "pretrained"
        frozen_g = self._general(generator) if transferred else []
        frozen_d = list(critic.blocks[: self.general_d]) if transferred else []
        modulation = {id(p): p for _, _, m in filter_modulations(generator) for p in m.parameters()}
        fixed = {id(p) for part in (*frozen_g, *frozen_d) for p in part.parameters()}
        fixed -= self._class_parameters(frozen_g)
        if frozen_g and not target.num_classes and getattr(generator, "embedding", None) is not None:
            fixed |= {id(p) for p in generator.embedding.parameters()}  # one label's is a constant, as published
        adam = {"betas": (0.0, self.beta2)}
        head = [p for p in generator.parameters() if id(p) not in fixed | modulation.keys()]
        groups = {"D": Group([p for p in critic.parameters() if id(p) not in fixed], self.lr_d, **adam),
                  "G": Group(head, self.lr_g, **adam)}
        if modulation:
            groups["modulation"] = Group(list(modulation.values()), self.lr_modulation, **adam)
        learned = tuple(name for name in groups if name != "D")
        delayed = bool(modulation and self.modulation_nimg)
        phases = loss.phases(generator, critic, g_updates=("G",) if delayed else learned,
                             later=(self.modulation_nimg, learned) if delayed else None)
        filters = self.modulation if modulation else "not modulated"
        notes = (f"G{self.general_g} and D{self.general_d} frozen, filters: {filters}" if transferred else
                 "nothing transferred", f"head: {self.head}")
        return Plan(groups, phases, nn.ModuleDict({"critic": critic}), fixed=[*frozen_d, *self._normed(frozen_g)],
                    notes=notes)

    @staticmethod
    def _class_parameters(frozen: Sequence[nn.Module]) -> set[int]:
        """Those of conditional norms inside frozen groups: the target's classes are new, so theirs train."""
        tables = [m for part in frozen for m in part.modules() if isinstance(m, nn.Embedding)]
        return {id(p) for table in tables for p in table.parameters()}

    @staticmethod
    def _normed(frozen: Sequence[nn.Module]) -> list[nn.Module]:
        """Frozen layers with spectral norm, whose u0 and sv0 stay; batch norms' statistics become the target's."""
        return [m for part in frozen for m in part.modules() if hasattr(m, "u0")]
