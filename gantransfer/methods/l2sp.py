"""L2-SP: fine-tuning with a penalty on the distance to the source's weights.

Paper: Li, Grandvalet, Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018;
a baseline of FreezeD, whose code (5545bc3) sums mean squared differences over tensors and leaves the weights to the
command line (default 0). Parameters that the source does not have (class rows) are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gantransfer.extension import anchors
from gantransfer.fine_tuning import FineTuning
from gantransfer.losses import AdversarialLoss, squared_distance
from gantransfer.plan import Batch, Plan, Source, Target
from gantransfer.registry import register_method


@register_method("l2sp")
@dataclass(frozen=True)
class L2SP(FineTuning):
    """Fine-tune G and D near the source.

    Attributes:
        weight_g, weight_d: of the penalty on G and on D.
    """

    weight_g: float = 100.0
    weight_d: float = 0.0

    name: ClassVar[str] = "l2sp"

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """Everything trains, drawn to where it was."""
        source = self.critic_source(sources)
        critic = self.critic(source, target)
        own_g, old_g = anchors(generator, source.generator)
        own_d, old_d = anchors(critic, source.discriminator)

        def of_g() -> dict[str, Tensor]:
            return {"l2sp": self.weight_g * squared_distance(own_g, old_g)} if self.weight_g else {}

        def of_d(batch: Batch) -> dict[str, Tensor]:
            return {"l2sp": self.weight_d * squared_distance(own_d, old_d)} if self.weight_d else {}

        notes = (f"L2-SP with weight {self.weight_g:g} on {len(own_g)} tensors of G, {self.weight_d:g} on {len(own_d)} "
                 "of D",)
        return self.tuned(generator, critic, loss, regulariser=of_g, d_regulariser=of_d, notes=notes)
