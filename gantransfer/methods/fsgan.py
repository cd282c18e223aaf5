"""FSGAN: only the singular values of the convolutions adapt, in generator and critic.

Paper: Robb, Chu, Kumar, Huang, "Few-Shot Adaptation of Generative Adversarial Networks", 2020: W = U S V^T of every
convolution, W' = U (lambda S) V^T with lambda learned and U, V frozen (section 3.2). Everything that is no convolution
stays frozen, but for D's last layer and what is new with the target's classes.

Differs from the paper: on spectrally normed layers the factors act on W / sigma with sigma frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gantransfer.extension import class_parameters, one_source, refuse_label_inputs
from gantransfer.filter_modulation import SingularValues, is_normed, modulate
from gantransfer.fine_tuning import FineTuning
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Plan, Source, Target
from gantransfer.registry import register_method


@register_method("fsgan")
@dataclass(frozen=True)
class FSGAN(FineTuning):
    """Train singular values of G's and D's convolutions.

    Attributes:
        lr_g, lr_d: Adam rates of the factors on singular values (betas 0 and 0.999), and of D's last layer.
    """

    lr_g: float = 3e-3
    lr_d: float = 3e-3

    name: ClassVar[str] = "fsgan"

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes, its convolutions with a factor per singular value."""
        refuse_label_inputs(one_source(sources, self.name), target, self.name)
        generator = super().reshape(sources, target)
        _with_factors(generator)
        return generator

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """Factors of both networks, the class rows, and D's last layer with its class rows or auxiliary classifier."""
        critic = self.critic(self.critic_source(sources), target)
        _with_factors(critic)
        classifier = getattr(critic, "classifier", None)
        last = [*critic.head.parameters(), *class_parameters(critic),
                *(classifier.parameters() if classifier is not None else ())]
        of_g, of_d = _factors(generator), _factors(critic)
        notes = (f"singular values of {len(of_g)} convolutions of G and {len(of_d)} of D",)
        return self.changed(generator, critic, loss, of_g, [*of_d, *last], notes)


def _with_factors(network: nn.Module) -> None:
    for layer in [m for m in network.modules() if isinstance(m, nn.Conv2d)]:
        modulate(layer, SingularValues(layer.unmodulated() if is_normed(layer) else layer.weight.detach()))


def _factors(network: nn.Module) -> list[nn.Parameter]:
    return [m.factors for m in network.modules() if isinstance(m, SingularValues)]
