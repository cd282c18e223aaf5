"""Scale and shift: only the affine parameters of the generator's norm layers fine-tune.

A baseline of FreezeD (Mo, Cho, Shin, 2020), after Noguchi and Harada (ICCV 2019). In FreezeD's code (5545bc3) each step
of the adversarial loop frees every parameter of G again; here the others stay frozen, as the text says.

Differs from method bsa: norm layers keep the source's form (a shared embedding with its linear maps stays one) and all
of them train, the last one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gantransfer.errors import ModelError
from gantransfer.extension import class_parameters, one_source, refuse_label_inputs
from gantransfer.fine_tuning import FineTuning
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Plan, Source, Target
from gantransfer.registry import register_method


@register_method("scaleshift")
@dataclass(frozen=True)
class ScaleShift(FineTuning):
    """Fine-tune D, and the scales and shifts of G's norm layers."""

    name: ClassVar[str] = "scaleshift"

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes in place of its own."""
        refuse_label_inputs(one_source(sources, self.name), target, self.name)
        return super().reshape(sources, target)

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """All of D; of G what its norms hold."""
        source = self.critic_source(sources)
        norms = {name for name, _ in generator.norms()}
        if not norms:
            raise ModelError("method 'scaleshift' trains norm layers and this source's generator has none; use adafm "
                             "with --head source --modulation fs")
        inside = {id(p) for name in norms for p in generator.get_submodule(name).parameters()}
        inside -= {id(p) for p in class_parameters(generator)}
        scales = [p for p in generator.parameters() if id(p) in inside]
        critic = self.critic(source, target)
        notes = (f"scales and shifts of {len(norms)} norm layers train; the rest of G frozen",)
        return self.changed(generator, critic, loss, scales, list(critic.parameters()), notes)
