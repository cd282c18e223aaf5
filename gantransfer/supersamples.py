"""Several generators under one critic: of every supersample the best image, and who wins how often.

The part of MineGAN (see `gantransfer.methods.minegan`) that its text leaves open: it says what the selector's p_1..p_N
are for, picking a generator for every sample in the right frequencies, not how they are learned.

The shares f_i of supersamples that generator i wins among the critic's fakes, averaged as f <- d f + (1 - d) f_batch
with d = 2^(-batch / half life), are one answer: the fakes that the critic compares with the data are the mixture of
winners, and f is the minimiser of a selector's cross-entropy on winners, E[-log p_winner], so a learned selector would
end there. But scores vary within a source, so its worse images lose to the others' better ones and f is drawn towards
1/N: for f to stay away from it, the critic must go on preferring one source, so something must stay wrong. A sample by
p, moreover, is any image of its source, not a winner. So by default (``update="features"``) p is the mixture whose
features have the images' means (`gantransfer.proportions`), with f where sources cannot be told apart; measured in
results/minegan. ``update="ema"`` takes f itself, ``"mean"`` the shares of all supersamples so far, which never forget.

Who wins is decided sample by sample (the text leaves that open too; the official prototype does so), by the critic's
scores of images without augmentation; scoring moves none of its buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from gantransfer.observing import over_processes
from gantransfer.plan import Batch, Losses, Phase
from gantransfer.proportions import Proportions

SEEN = 4  # one image in so many is looked at for mean features, which need no more


class Supersample(nn.Module):
    """Fakes of several sources: of every supersample the image that the critic scores highest.

    Called without gradient (for the critic's fakes; with gradient where the critic is shown the generator's own, as
    `reused` says) it counts who won, and moves the generator's `p`. With gradient only winners' generators are in the
    graph; where sources are in eval mode they are computed a second time, winners alone, which is exact (normed miners
    do not take their step in the pass that only scores) and cheaper than a graph through all.

    Attributes:
        proportions: what p comes from with ``update="features"``; it sees every `SEEN`-th image.

    Buffers:
        wins: float [N], supersamples won so far. shares: float [N], the part of them that each wins, averaged.
    """

    wins: Tensor
    shares: Tensor

    def __init__(
        self, generator: nn.Module, critic: nn.Module, update: str, half_life_nimg: int, reused: bool = False,
        proportions: Proportions | None = None,
    ) -> None:
        super().__init__()
        # Not registered: both are saved elsewhere.
        self.__dict__["generator"], self.__dict__["critic"] = generator, critic
        self.update, self.half_life_nimg, self.reused = update, half_life_nimg, reused
        self.register_buffer("wins", torch.zeros(len(generator.sources), device=generator.p.device))
        self.register_buffer("shares", generator.p.detach().clone())
        self.proportions = proportions

    @property
    def num_classes(self) -> int:
        """0: winners have no labels."""
        return 0

    def forward(self, u: Tensor, y: Tensor | None = None) -> Tensor:
        """Winners, float [B, C, H, W], for u [B, z_dim]."""
        learning = torch.is_grad_enabled()
        tracked = learning and any(source.training for source in self.generator.sources)
        again = learning and not tracked
        with torch.set_grad_enabled(tracked), still(self.generator.miners) if again else nullcontext():
            images = [self.generator.from_miner(i, u) for i in range(len(self.wins))]
        winners = self.winners(images)
        if learning == self.reused:
            if self.proportions is not None:
                self.proportions.add([some(image) for image in images])
            self.count(winners)
        if again:
            return self.generator.draw(u, winners)
        rows = [(winners == i).nonzero().squeeze(1) for i in range(len(images))]
        chosen = torch.cat([image[r] for image, r in zip(images, rows, strict=True) if len(r)])
        return chosen[torch.cat(rows).argsort()]

    @torch.no_grad()
    def winners(self, images: Sequence[Tensor]) -> Tensor:
        """int64 [B]: argmax_i D(x_i) over N batches of images [B, C, H, W]; the first of equals."""
        mode = self.critic.training
        self.critic.eval()
        scores = self.critic(torch.cat(list(images)), None)
        self.critic.train(mode)
        return scores.view(len(images), -1).argmax(0)

    @torch.no_grad()
    def count(self, winners: Tensor) -> None:
        """Move `shares` by `winners`, int64 [B], of all processes, and `p` with them."""
        won = over_processes(torch.bincount(winners, minlength=len(self.wins)).to(self.wins))
        self.wins += won
        if self.update == "mean":
            self.shares.copy_(self.wins / self.wins.sum())
        else:
            shown = float(won.sum())
            keep = 0.5 ** (shown / self.half_life_nimg) if self.half_life_nimg else 0.0
            self.shares.lerp_(won / shown, 1 - keep)
        self.generator.p.copy_(self.shares if self.proportions is None else self.proportions.estimate(self.shares))


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """`module` in eval mode for a while."""
    mode = module.training
    module.eval()
    yield
    module.train(mode)


def some(images: Tensor) -> Tensor:
    """Every `SEEN`-th of the images."""
    return images.detach()[::SEEN]


def with_shares(phase: Phase, selector: Supersample) -> Phase:
    """The critic's `phase` with its images shown to the selector's `proportions` and, in its log, p_1..p_N and the
    shares of wins, won_1..won_N."""

    def loss(batch: Batch) -> Losses:
        if selector.proportions is not None:
            selector.proportions.see(some(batch.images))
        terms, logs = phase.loss(batch)
        told = {"p": selector.generator.p, "won": selector.shares}
        return Losses(terms, {**logs, **{f"{name}{i}": x for name, of in told.items() for i, x in enumerate(of, 1)}})

    return replace(phase, loss=loss)
