"""A generator, a critic and data of a few numbers: the trainer's rules need no images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantransfer.plan import Batch, Group, Losses, Phase, Plan
from gantransfer.schedule import Hooks, Schedule
from gantransfer.trainer import Trainer

Loss = Callable[[Batch], Losses]


class ToyGenerator(nn.Module):
    """z [N, 3] -> [N, 4], with a norm layer's buffers (one of them a counter)."""

    z_dim, num_classes = 3, 2

    def __init__(self) -> None:
        super().__init__()
        self.low, self.norm, self.high = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.high(self.norm(self.low(z)))


class ToyData:
    """Position p is an "image" 1 x 2 x 2 that shows p; every batch that was asked for is noted."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def batch(self, number: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        self.asked.append(number)
        place = torch.arange(number * size, (number + 1) * size)
        return (place % 256).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2), place % 2, place


class Toy:
    """A trainer over the toy. `phases` may replace the two usual ones; its losses see the networks here."""

    def __init__(self, out: Path, phases: Callable[[Toy], Sequence[Phase]] | None = None, hooks: Hooks | None = None,
                 record: Callable[[], dict[str, Any]] = dict, lr: float = 0.1, betas: tuple[float, float] = (0.0, 0.9),
                 fixed: Callable[[Toy], Sequence[nn.Module]] | None = None, fixed_until_nimg: int | None = None,
                 **settings: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.generator, self.critic = ToyGenerator(), nn.Linear(4, 1)
        self.data = ToyData()
        groups = {
            "low": Group(list(self.generator.low.parameters()), lr, betas),
            "high": Group(list(self.generator.high.parameters()), lr, betas),
            "D": Group(list(self.critic.parameters()), lr, betas),
        }
        plan = Plan(groups, (phases or usual)(self), nn.ModuleDict({"critic": self.critic}),
                    fixed=fixed(self) if fixed else (), fixed_until_nimg=fixed_until_nimg)
        schedule = Schedule(**{"steps": 4, "batch_size": 2, "log_nimg": 1, "eval_nimg": 0, "checkpoint_nimg": 4,
                               "device": "cpu", **settings})
        self.trainer = Trainer(self.generator, plan, self.data, schedule, out, hooks, record)

    def params(self) -> dict[str, Tensor]:
        """Copies of all parameters by group."""
        groups = self.trainer.plan.groups
        return {f"{name}.{i}": p.detach().clone() for name, g in groups.items() for i, p in enumerate(g.params)}

    def moving(self) -> set[str]:
        """Names of the groups whose parameters all take a gradient now."""
        groups = self.trainer.plan.groups
        flags = {name: {p.requires_grad for p in group.params} for name, group in groups.items()}
        assert all(len(f) == 1 for f in flags.values())
        return {name for name, f in flags.items() if f == {True}}

    def critic_loss(self, batch: Batch) -> Losses:
        with torch.no_grad():
            fake = self.generator(batch.z, batch.y)
        real = batch.images.flatten(1)
        return Losses({"d": self.critic(fake).mean() - self.critic(real).mean()}, {})

    def generator_loss(self, batch: Batch) -> Losses:
        return Losses({"g": -self.critic(self.generator(batch.z, batch.y)).mean()}, {})


def usual(toy: Toy) -> list[Phase]:
    """The critic, then the generator."""
    return [Phase("D", ("D",), toy.critic_loss), Phase("G", ("low", "high"), toy.generator_loss, uses_images=False)]


def poisoned(loss: Loss, when: Callable[[], bool]) -> Loss:
    """`loss`, times NaN while `when()` holds."""

    def wrapped(batch: Batch) -> Losses:
        terms, logs = loss(batch)
        return Losses({k: v * float("nan") if when() else v for k, v in terms.items()}, logs)

    return wrapped


def lines(out: Path, name: str = "stats.jsonl") -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (out / name).read_text().splitlines()]
