"""What the methods that go on training a source's own weights have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gantransfer.errors import UsageError
from gantransfer.extension import (
    ROW_INITS,
    Choices,
    check_choices,
    class_parameters,
    one_source,
    split_groups,
    target_critic,
    with_target_classes,
)
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Batch, Group, Plan, Source, Target


@dataclass(frozen=True)
class FineTuning:
    """A source's generator and critic with the target's classes in place of its own.

    Attributes:
        class_init: where the generator's new class rows start.
        d_embedding: where the critic's new class rows start.
        lr_g, lr_d: Adam rates (betas 0 and 0.999 unless there is a beta2). lr_classes: Adam rate of G's class tables
            or embedding.
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    class_init: str = "mean"
    d_embedding: str = "random"
    lr_g: float = 2e-4
    lr_d: float = 4e-4
    lr_classes: float = 5e-3
    init_seed: int = 0

    choices: ClassVar[Choices] = {"class_init": ROW_INITS, "d_embedding": ROW_INITS}
    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_choices(self)

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes in place of its own."""
        source = one_source(sources, self.name)
        return with_target_classes(source, target.num_classes, self.class_init, self.init_seed)

    def critic_source(self, sources: Sequence[Source]) -> Source:
        """Whose critic, and so whose loss, the run goes on with."""
        return one_source(sources, self.name)

    def critic(self, source: Source, target: Target) -> nn.Module:
        """The source's critic with the target's classes."""
        return target_critic(source, target.num_classes, self.d_embedding, self.init_seed + 1)

    def tuned(
        self, generator: nn.Module, critic: nn.Module, loss: AdversarialLoss, *, frozen_g: Sequence[nn.Module] = (),
        frozen_d: Sequence[nn.Module] = (), regulariser: Callable[[], dict[str, Tensor]] | None = None,
        d_regulariser: Callable[[Batch], dict[str, Tensor]] | None = None, notes: Sequence[str] = (),
    ) -> Plan:
        """A plan that trains everything but the frozen parts, whose spectral-norm vectors stay too; class rows inside
        them are new, and train."""
        fixed = {id(p) for part in frozen_d for p in part.parameters()}
        groups = {"D": Group([p for p in critic.parameters() if id(p) not in fixed], self.lr_d),
                  **split_groups("G", generator, self.lr_g, self.lr_classes, frozen_g)}
        groups = {name: group for name, group in groups.items() if group.params}
        phases = loss.phases(generator, critic, g_updates=tuple(n for n in groups if n != "D"),
                             regulariser=regulariser, d_regulariser=d_regulariser)
        rows = {id(p) for p in class_parameters(generator)}
        held = [m for part in frozen_g for m in part.modules()
                if hasattr(m, "u0") and not any(id(p) in rows for p in m.parameters())]
        return Plan(groups, phases, nn.ModuleDict({"critic": critic}), fixed=[*frozen_d, *held], notes=notes)

    def changed(
        self, generator: nn.Module, critic: nn.Module, loss: AdversarialLoss, changes: Sequence[nn.Parameter],
        judging: Sequence[nn.Parameter], notes: Sequence[str],
    ) -> Plan:
        """A plan that trains `changes` of G and its class rows, and `judging` of D; layers whose own tensors do not
        train keep their spectral-norm vectors."""
        groups = {"D": Group(judging, self.lr_d), "G": Group(changes, self.lr_g)}
        if rows := class_parameters(generator):
            groups["G_classes"] = Group(rows, self.lr_classes)
        groups = {name: group for name, group in groups.items() if group.params}
        phases = loss.phases(generator, critic, g_updates=tuple(n for n in groups if n != "D"))
        moving = {id(p) for p in (*changes, *judging)}
        held = [m for net in (generator, critic) for m in net.modules()
                if hasattr(m, "u0") and not any(id(p) in moving for p in m.parameters(recurse=False))]
        return Plan(groups, phases, nn.ModuleDict({"critic": critic}), fixed=held, notes=notes)


def first_blocks(network: nn.Module, count: int, field: str, what: str) -> list[nn.Module]:
    """The first `count` blocks of a network in data-flow order (UsageError if it has fewer)."""
    if not 0 <= count <= len(network.blocks):
        raise UsageError(f"{field} {count} is outside 0 to {len(network.blocks)}, the blocks of this source's {what}")
    return list(network.blocks[:count])


def before_blocks(generator: nn.Module) -> list[nn.Module]:
    """What of a generator comes before its blocks: the layer after the latents, or a style head's mapping."""
    names = ("linear", "input", "fc", "specific.mapping")
    parts = dict(generator.named_modules())
    return [parts[name] for name in names if name in parts]
