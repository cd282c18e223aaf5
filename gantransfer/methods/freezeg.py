"""FreezeG: fine-tuning with the generator's first blocks frozen, so that layout stays the source's.

Known from bryandlee/FreezeG, which has no paper, and from later studies of few-shot adaptation that compare with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gantransfer.fine_tuning import FineTuning, before_blocks, first_blocks
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Plan, Source, Target
from gantransfer.registry import register_method


@register_method("freezeg")
@dataclass(frozen=True)
class FreezeG(FineTuning):
    """Fine-tune D and the lower part of G.

    Attributes:
        frozen_blocks: how many of G's blocks stay fixed, counted from the latent, with what lies before them (not
            where labels come in beside the latent). Class rows inside them train.
    """

    frozen_blocks: int = 1

    name: ClassVar[str] = "freezeg"

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """All of D; of G everything after the frozen blocks, and class rows."""
        critic = self.critic(self.critic_source(sources), target)
        frozen = first_blocks(generator, self.frozen_blocks, "frozen_blocks", "generator")
        before = [] if getattr(generator.config, "label_inputs", 0) else before_blocks(generator)
        if frozen:
            frozen += before
        notes = (f"generator blocks 0 to {self.frozen_blocks - 1} and "
                 + ("what is before them frozen" if before else "not the layer before them, which takes labels, frozen")
                 if frozen else "no block frozen",)
        return self.tuned(generator, critic, loss, frozen_g=frozen, notes=notes)
