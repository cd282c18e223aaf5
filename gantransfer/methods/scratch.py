"""Scratch: the source's architecture with fresh weights, the baseline every paper compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from gantransfer.extension import one_source, seeded, split_groups, target_critic
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Plan, Source, Target
from gantransfer.registry import register_method


@register_method("scratch")
@dataclass(frozen=True)
class Scratch:
    """Train generator and critic from random weights.

    Attributes:
        lr_g, lr_d: Adam rates.
        class_lr_scale_g, class_lr_scale_d: factors on the rates of G's class tables or embedding and of D's class rows.
        beta2: Adam's second beta (the first is 0). init_seed: of the fresh weights; a run's own
            seed unless given.
    """

    lr_g: float = 4e-4
    lr_d: float = 4e-4
    class_lr_scale_g: float = 2.0
    class_lr_scale_d: float = 2.0
    beta2: float = 0.99
    init_seed: int = 0

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """A fresh generator of the source's architecture for the target's classes."""
        with seeded(self.init_seed):
            return one_source(sources, "scratch").generator.fresh(target.num_classes)

    def plan(
        self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss
    ) -> Plan:
        """Everything trains."""
        source = one_source(sources, "scratch")
        critic = target_critic(source, target.num_classes, "random", self.init_seed + 1, fresh=True)
        groups = {}
        for name, net, lr, scale in (("G", generator, self.lr_g, self.class_lr_scale_g),
                                     ("D", critic, self.lr_d, self.class_lr_scale_d)):
            groups |= split_groups(name, net, lr, lr * scale, betas=(0.0, self.beta2))
        phases = loss.phases(
            generator, critic, g_updates=tuple(n for n in groups if n[0] == "G"),
            d_updates=tuple(n for n in groups if n[0] == "D"),
        )
        return Plan(groups, phases, nn.ModuleDict({"critic": critic}), notes=("all weights newly initialised",))
