"""Feature distillation: fine-tuning whose critic keeps the source critic's features of real images.

A baseline of FreezeD (Mo, Cho, Shin, 2020; code 5545bc3): weight times the mean squared difference of the source's and
the target's critic at one layer, on the batch's real images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gantransfer.errors import UsageError
from gantransfer.fine_tuning import FineTuning, first_blocks
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Batch, Plan, Source, Target
from gantransfer.registry import register_method


@register_method("distillation")
@dataclass(frozen=True)
class FeatureDistillation(FineTuning):
    """Fine-tune G and D, D's features held near the source's.

    Attributes:
        weight: of the difference.
        block: after how many of D's blocks the features are compared, counted from the image.
    """

    weight: float = 1.0
    block: int = 3

    name: ClassVar[str] = "distillation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1:
            raise UsageError(f"block {self.block} is none; give 1 (the image layer) or more")

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """Everything trains."""
        source = self.critic_source(sources)
        critic = self.critic(source, target)
        first_blocks(critic, self.block, "block", "discriminator")
        place = self.block - 1
        teacher = copy.deepcopy(source.discriminator).eval()

        def of_d(batch: Batch) -> dict[str, Tensor]:
            teacher.to(batch.images.device)
            with torch.no_grad():
                wanted = teacher.maps(batch.images)[place]
            return {"distillation": self.weight * (critic.maps(batch.images)[place] - wanted).square().mean()}

        notes = (f"features after {place + 1} block(s) of D distilled with weight {self.weight:g}",)
        return self.tuned(generator, critic, loss, d_regulariser=of_d, notes=notes)
