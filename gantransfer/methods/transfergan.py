"""TransferGAN: fine-tune all weights of generator and critic on the target.

Paper: Wang et al., "Transferring GANs: generating images from limited data", ECCV 2018. Section 4.2 compares the
four combinations of pre-trained and fresh networks; both pre-trained is best and is the default here.

Differs from the original: BigGAN sources with a projection critic instead of WGAN-GP with an auxiliary classifier.
Class parameters of new classes start from the old classes', as the paper's conditional variants copy theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gantransfer.extension import (
    ROW_INITS,
    Choices,
    check_choices,
    one_source,
    seeded,
    split_groups,
    target_critic,
    with_target_classes,
)
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Group, Plan, Source, Target
from gantransfer.registry import register_method

STARTS = ("pretrained", "scratch")


@register_method("transfergan")
@dataclass(frozen=True)
class TransferGAN:
    """Fine-tuning.

    Attributes:
        generator, discriminator: whether it starts pre-trained or from scratch (the paper's Table 1).
        class_init: where the generator's new class rows start.
        d_embedding: where the critic's new class rows start.
        lr_g, lr_d: Adam rates (betas 0 and 0.999). lr_classes: Adam rate of G's class tables or
            embedding.
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    generator: str = "pretrained"
    discriminator: str = "pretrained"
    class_init: str = "mean"
    d_embedding: str = "random"
    lr_g: float = 2e-4
    lr_d: float = 4e-4
    lr_classes: float = 5e-3
    init_seed: int = 0

    choices: ClassVar[Choices] = {"generator": STARTS, "discriminator": STARTS, "class_init": ROW_INITS,
                                  "d_embedding": ROW_INITS}

    def __post_init__(self) -> None:
        check_choices(self)

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes in place of its own."""
        source = one_source(sources, "transfergan")
        if self.generator == "scratch":
            with seeded(self.init_seed):
                return source.generator.fresh(target.num_classes)
        return with_target_classes(source, target.num_classes, self.class_init, self.init_seed)

    def critic_source(self, sources: Sequence[Source]) -> Source:
        """Whose critic, and so whose loss, the run goes on with."""
        return one_source(sources, "transfergan")

    def plan(
        self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss
    ) -> Plan:
        """Everything trains."""
        source = one_source(sources, "transfergan")
        critic = target_critic(
            source, target.num_classes, self.d_embedding, self.init_seed + 1, fresh=self.discriminator == "scratch"
        )
        groups = {
            "D": Group(list(critic.parameters()), self.lr_d),
            **split_groups("G", generator, self.lr_g, self.lr_classes),
        }
        notes = (f"generator {self.generator}, its class rows: {self.class_init}",
                 f"discriminator {self.discriminator}, its class rows: {self.d_embedding}")
        phases = loss.phases(generator, critic, g_updates=tuple(n for n in groups if n != "D"))
        return Plan(groups, phases, nn.ModuleDict({"critic": critic}), notes=notes)
