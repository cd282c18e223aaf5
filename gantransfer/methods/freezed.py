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

from gantransfer.fine_tuning import FineTuning, first_blocks
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Plan, Source, Target
from gantransfer.registry import register_method


@register_method("freezed")
@dataclass(frozen=True)
class FreezeD(FineTuning):
    """Fine-tune G and the upper part of D.

    Attributes:
        frozen_blocks: how many of D's blocks stay fixed, counted from the image.
    """

    frozen_blocks: int = 2

    name: ClassVar[str] = "freezed"

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """All of G; of D everything above the frozen blocks."""
        critic = self.critic(self.critic_source(sources), target)
        frozen = first_blocks(critic, self.frozen_blocks, "frozen_blocks", "discriminator")
        notes = (f"discriminator blocks 0 to {self.frozen_blocks - 1} frozen" if frozen else "no block frozen",)
        return self.tuned(generator, critic, loss, frozen_d=frozen, notes=notes)
