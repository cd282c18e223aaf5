"""BSA, adversarial form: a frozen generator learns new classes' batch-norm scales and shifts.

Paper of the idea: Noguchi and Harada, "Image Generation From Small Datasets via Batch Statistics Adaptation", ICCV
2019. This form is the baseline of the cGANTransfer paper (supplement A): adversarial training, convolutions
frozen, the target classes' parameters learned from scratch, without transfer between classes; everything else
as in cgantransfer, the hierarchical-noise projections included.

New classes train with batch statistics and sample with their running average, which belongs to the adapter
(``statistics="source"``: both with the source's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gantransfer.extension import (
    FROZEN,
    Choices,
    check_choices,
    conditional_source,
    frozen_layers,
    frozen_statistics,
    matching_in_images,
    mixing_rows,
    noise_parameters,
    seeded,
    source_rows,
    target_critic,
    with_feature_matching,
)
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Group, Plan, Source, Target
from gantransfer.registry import register_method

INITS = ("scratch", "mean", "random_source")


@register_method("bsa")
@dataclass(frozen=True)
class BSA:
    """Learn class scales and shifts on a frozen generator.

    Attributes:
        init: "scratch" (gain 1, bias 0), "mean" of the old classes, or "random_source".
        d_embedding: the critic's new class rows: "random" (as published), "mean" or "random_source".
        lr: Adam rate of the class parameters. lr_noise: Adam rate of the noise projections (None: as lr).
        lr_d: Adam rate of the critic, which trains whole.
        statistics: new classes train with their batches' statistics and sample with the average, or both with the
            source's.
        buffers: frozen layers' spectral-norm vectors stay, or move as in the published code.
        match_steps: iterations of a first stage that only matches the source critic's features (see
            `gantransfer.matching`; not in the papers). match_nimg: the same in images. match_weight: weight of that
            term in the generator's loss afterwards (None: 1). lr_match: Adam rate in that stage. match_fakes: fakes in
            a batch of that stage, of each process and part of an accumulated batch (None: twice the batch's size).
            match_per_class: fakes of a class in the term's batches, in that stage and later; where not all classes
            fit, they are drawn anew each time.
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    init: str = "scratch"
    d_embedding: str = "random"
    lr: float = 5e-3
    lr_noise: float | None = None
    lr_d: float = 4e-4
    statistics: str = "batch"
    buffers: str = "fixed"
    match_steps: int = 0
    match_nimg: int | None = None
    match_weight: float | None = None
    lr_match: float = 2e-2
    match_per_class: int = 4
    match_fakes: int | None = None
    init_seed: int = 0

    choices: ClassVar[Choices] = {"init": INITS, **FROZEN}

    def __post_init__(self) -> None:
        check_choices(self)

    def in_images(self, shown: int) -> BSA:
        """This with the matching stage in images, `shown` in an iteration."""
        return matching_in_images(self, 0, shown)

    @torch.no_grad()
    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator, its class tables replaced by the target's."""
        source = conditional_source(sources, target, "bsa")
        with seeded(self.init_seed):
            generator = source.generator.with_class_tables(target.num_classes)
        if self.init != "scratch":
            for name, (scales, shifts) in source_rows(source.generator).items():
                norm = generator.get_submodule(name)
                rows = mixing_rows(self.init, target.num_classes, len(scales), self.init_seed).to(scales)
                norm.gain.weight.copy_(rows @ scales - 1)
                norm.bias.weight.copy_(rows @ shifts)
        return generator

    def plan(
        self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss
    ) -> Plan:
        """The class tables, the noise projections, and the whole critic."""
        source = conditional_source(sources, target, "bsa")
        critic = target_critic(source, target.num_classes, self.d_embedding, self.init_seed + 1)
        tables = [t.weight for _, norm in generator.class_norms() for t in (norm.gain, norm.bias)]
        groups = {"D": Group(list(critic.parameters()), self.lr_d), "classes": Group(tables, self.lr)}
        if noise := noise_parameters(generator):
            groups["noise"] = Group(noise, self.lr if self.lr_noise is None else self.lr_noise)
        learned = tuple(n for n in groups if n != "D")
        phases = loss.phases(generator, critic, g_updates=learned)
        notes = (f"class scales and shifts start at {self.init}; convolutions frozen",
                 f"discriminator pre-trained, its class rows: {self.d_embedding}")
        plan = Plan(groups, phases, nn.ModuleDict({"critic": critic}), fixed=frozen_layers(generator, self.buffers),
                    fixed_statistics=frozen_statistics(generator, self.statistics), notes=notes)
        return with_feature_matching(
            plan, generator, source, target, updates=learned, nimg=self.match_nimg, weight=self.match_weight,
            lr=self.lr_match, per_class=self.match_per_class, fakes=self.match_fakes,
        )
