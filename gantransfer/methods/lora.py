"""LoRA: a low-rank change of every convolution of a frozen generator.

Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, W + (alpha / r) B A (eq. 3); here W
is a convolution's weight as a matrix [out, in k k], and the critic trains whole, as in every adversarial adaptation
here. Adapters hold A, B and the target's class rows. On spectrally normed layers the change is added to W / sigma with
sigma frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gantransfer.errors import UsageError
from gantransfer.extension import one_source, refuse_label_inputs, seeded
from gantransfer.filter_modulation import LowRank, filter_modulations, modulate
from gantransfer.fine_tuning import FineTuning
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Plan, Source, Target
from gantransfer.registry import register_method


@register_method("lora")
@dataclass(frozen=True)
class LoRA(FineTuning):
    """Train low-rank changes of G's convolutions, and D.

    Attributes:
        rank: r; a convolution's own where that is smaller. alpha: of the factor alpha / r.
        lr_g: Adam rate of A and B (betas 0 and 0.999).
    """

    rank: int = 4
    alpha: float = 4.0
    lr_g: float = 1e-3

    name: ClassVar[str] = "lora"

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes, a low-rank change of 0 on its convolutions."""
        if self.rank < 1:
            raise UsageError(f"rank {self.rank} changes nothing; give 1 or more")
        if not self.alpha:
            raise UsageError("alpha 0 changes nothing; give more than 0")
        refuse_label_inputs(one_source(sources, self.name), target, self.name)
        generator = super().reshape(sources, target)
        with seeded(self.init_seed + 2):
            for layer in [m for m in generator.modules() if isinstance(m, nn.Conv2d)]:
                modulate(layer, LowRank(layer.weight.detach(), self.rank, self.alpha))
        return generator

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """The changes, the class rows, and all of D."""
        critic = self.critic(self.critic_source(sources), target)
        changes = [p for _, _, change in filter_modulations(generator) for p in change.parameters()]
        notes = (f"rank {self.rank} on {len(changes) // 2} convolutions of G",)
        return self.changed(generator, critic, loss, changes, list(critic.parameters()), notes)
