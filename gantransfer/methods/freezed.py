"""FreezeD: fine-tuning with the critic's first blocks frozen.

Paper: Mo, Cho, Shin, "Freeze the Discriminator: a Simple Baseline for Fine-Tuning GANs", 2020. Reference code: FreezeD
(5545bc3), whose projection-SNGAN runs freeze the first three blocks.

Differs from the original: blocks are chosen by index, never by matching names; frozen blocks also keep their
spectral-norm buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gantransfer.errors import UsageError
from gantransfer.extension import (
    ROW_INITS,
    Choices,
    check_choices,
    one_source,
    split_groups,
    target_critic,
    with_target_classes,
)
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Group, Plan, Source, Target
from gantransfer.registry import register_method


@register_method("freezed")
@dataclass(frozen=True)
class FreezeD:
    """Fine-tune G and the upper part of D.

    Attributes:
        frozen_blocks: how many of D's blocks stay fixed, counted from the image.
        class_init: where the generator's new class rows start.
        d_embedding: where the critic's new class rows start.
        lr_g, lr_d: Adam rates (betas 0 and 0.999). lr_classes: Adam rate of G's class tables or
            embedding.
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    frozen_blocks: int = 2
    class_init: str = "mean"
    d_embedding: str = "random"
    lr_g: float = 2e-4
    lr_d: float = 4e-4
    lr_classes: float = 5e-3
    init_seed: int = 0

    choices: ClassVar[Choices] = {"class_init": ROW_INITS, "d_embedding": ROW_INITS}

    def __post_init__(self) -> None:
        check_choices(self)

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes in place of its own."""
        source = one_source(sources, "freezed")
        return with_target_classes(source, target.num_classes, self.class_init, self.init_seed)

    def critic_source(self, sources: Sequence[Source]) -> Source:
        """Whose critic, and so whose loss, the run goes on with."""
        return one_source(sources, "freezed")

    def plan(
        self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss
    ) -> Plan:
        """All of G; of D everything above the frozen blocks."""
        source = one_source(sources, "freezed")
        critic = target_critic(source, target.num_classes, self.d_embedding, self.init_seed + 1)
        if not 0 <= self.frozen_blocks <= len(critic.blocks):
            raise UsageError(f"frozen_blocks {self.frozen_blocks} is outside 0 to {len(critic.blocks)}, "
                             "the blocks of this source's discriminator")
        frozen = list(critic.blocks[: self.frozen_blocks])
        fixed = {id(p) for block in frozen for p in block.parameters()}
        groups = {
            "D": Group([p for p in critic.parameters() if id(p) not in fixed], self.lr_d),
            **split_groups("G", generator, self.lr_g, self.lr_classes),
        }
        phases = loss.phases(generator, critic, g_updates=tuple(n for n in groups if n != "D"))
        notes = (f"discriminator blocks 0 to {self.frozen_blocks - 1} frozen" if frozen else "no block frozen",)
        return Plan(groups, phases, nn.ModuleDict({"critic": critic}), fixed=frozen, notes=notes)
