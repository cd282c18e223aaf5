"""TransferGAN: fine-tune all weights of generator and critic on the target.

Paper: Wang et al., "Transferring GANs: generating images from limited data", ECCV 2018. Section 4.2 compares the
four combinations of pre-trained and fresh networks; both pre-trained is best and is the default here. Reference code:
yaxingwang/Transferring-GANs.

Unconditional to conditional (section 5.1): 'Cond BNorm' copies the source's batch-norm affines to every class, 'Cond
Concat' appends the label to z and draws what reads it anew; the critic gets a fresh auxiliary classifier (the objective
is in `gantransfer.losses`, eqs. 7 and 8). Ours: sources with classes, whose class parameters new classes start from or
mix; targets without classes, whose one set of parameters is the mean class's; BigGAN's projection critic and GP-GAN's
label embedding in place of the auxiliary classifier.

Differs from the original: rates and betas are this library's; the paper's are lr_g = lr_d = 1e-4 (1e-5 for 1,000
images), and the code, which has 1e-5, also betas 0 and 0.9. The code restores conditional checkpoints with the same
classes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import (
    Choices,
    seeded,
    split_groups,
    target_critic,
    transfer_notes,
    with_target_classes,
)
from gantransfer.fine_tuning import FineTuning
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Group, Plan, Source, Target
from gantransfer.registry import register_method

STARTS = ("pretrained", "scratch")
CONDITIONINGS = ("auto", "bnorm", "concat", "none")


@register_method("transfergan")
@dataclass(frozen=True)
class TransferGAN(FineTuning):
    """Fine-tuning.

    Attributes:
        generator, discriminator: whether it starts pre-trained or from scratch (the paper's Table 1).
        conditioning: how a generator without classes takes up the target's: class affines in batch norm ("bnorm"),
            labels beside z ("concat"), or "auto", which is bnorm where the network has it; sources with classes keep
            their own way. "none": the target's classes are one, and the generator has none.
        beta2: Adam's second beta (the first is 0).
    """

    generator: str = "pretrained"
    discriminator: str = "pretrained"
    conditioning: str = "auto"
    beta2: float = 0.999

    name: ClassVar[str] = "transfergan"
    choices: ClassVar[Choices] = {**FineTuning.choices, "generator": STARTS, "discriminator": STARTS,
                                  "conditioning": CONDITIONINGS}

    @property
    def reads_labels(self) -> bool:
        """Whether target classes are told apart; otherwise they are learned as one."""
        return self.conditioning != "none"

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes in place of its own."""
        source = self.critic_source(sources)
        classes, changes = self._classes(target), self._changes(source, target)
        if self.generator == "scratch":
            with seeded(self.init_seed):
                return source.generator.fresh(classes, **changes)
        return with_target_classes(source, classes, self.class_init, self.init_seed, **changes)

    def _classes(self, target: Target) -> int:
        return target.num_classes if self.reads_labels else 0

    def _changes(self, source: Source, target: Target) -> dict[str, str]:
        """How the generator is to take up classes, where that is not its own way."""
        if self.conditioning in ("auto", "none") or not self._classes(target):
            return {}
        network, arch = source.generator, source.config["arch"]
        own = source.config.get("conditioning")
        if network.num_classes and self.conditioning != own:
            raise UsageError(f"conditioning '{self.conditioning}' is for sources without classes and this one takes up "
                             f"{network.num_classes} in its own way; leave it at auto")
        able = getattr(network, "conditionings", ())
        if self.conditioning not in able:
            raise ModelError(f"a generator of architecture '{arch}' cannot take up classes by '{self.conditioning}' "
                             f"(it can by: {', '.join(able) or 'its own way alone'}); leave conditioning at auto, or "
                             "use a wgan_gp source")
        return {"conditioning": self.conditioning} if len(able) > 1 else {}

    def plan(
        self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss
    ) -> Plan:
        """Everything trains."""
        source = self.critic_source(sources)
        classes = self._classes(target)
        critic = target_critic(
            source, classes, self.d_embedding, self.init_seed + 1, fresh=self.discriminator == "scratch"
        )
        adam = {"betas": (0.0, self.beta2)}
        groups = {
            "D": Group(list(critic.parameters()), self.lr_d, **adam),
            **split_groups("G", generator, self.lr_g, self.lr_classes, **adam),
        }
        had = source.generator.num_classes

        def kept(start: str, network: nn.Module | None) -> nn.Module | None:
            return network if start == "pretrained" else None

        notes = (f"classes: {had or 'none'} in the source, {classes or 'none'} in the target",
                 f"generator {self.generator}, its class rows: {self.class_init}",
                 *transfer_notes("generator", kept(self.generator, source.generator), generator, self.class_init),
                 f"discriminator {self.discriminator}, its class rows: {self.d_embedding}",
                 *transfer_notes("discriminator", kept(self.discriminator, source.discriminator), critic,
                                 self.d_embedding))
        phases = loss.phases(generator, critic, g_updates=tuple(n for n in groups if n != "D"))
        return Plan(groups, phases, nn.ModuleDict({"critic": critic}), notes=notes)
