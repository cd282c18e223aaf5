"""The selector under training, in two dimensions: p ends at the target's own proportions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Batch
from gantransfer.supersamples import Supersample

FAR = 2.0  # the two sources' places


class TwoPlaces(nn.Module):
    """Two sources of points around (-2, 0) and (2, 0), as images [N, 1, 1, 2], with miners that choose where."""

    num_classes = 0

    def __init__(self) -> None:
        super().__init__()
        self.miners = nn.ModuleList(nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2)) for _ in range(2))
        self.sources = nn.ModuleList([nn.Identity(), nn.Identity()]).eval()
        self.register_buffer("p", torch.full((2,), 0.5))

    def from_miner(self, number: int, u: Tensor) -> Tensor:
        points = 1.5 * torch.tanh(self.miners[number](u)) + torch.tensor([(-FAR, FAR)[number], 0.0])
        return points.view(-1, 1, 1, 2)

    def draw(self, u: Tensor, picked: Tensor) -> Tensor:
        both = torch.stack([self.from_miner(i, u) for i in range(2)])
        return both[picked, torch.arange(len(u))]


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2),
                                    nn.Linear(64, 1))

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layers(images.flatten(1)).squeeze(1)


def learned(share: float, kind: str, steps: int = 600) -> float:
    """p of the first source after training on 200 points of which `share` lie at its place."""
    rng = torch.Generator().manual_seed(0)
    count = round(200 * share)
    places = torch.tensor([[-FAR, 0.0]] * count + [[FAR, 0.0]] * (200 - count))
    data = (places + 0.3 * torch.randn(200, 2, generator=rng)).view(-1, 1, 1, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, critic = TwoPlaces(), Critic()
    sample = Supersample(generator, critic, "ema", 2000)
    d_phase, g_phase = AdversarialLoss(kind).phases(sample, critic, g_updates=("M",))
    optimisers = [torch.optim.Adam(net.parameters(), lr, betas=(0.0, 0.999))
                  for net, lr in ((critic, 4e-4), (generator.miners, 1e-3))]
    labels = torch.zeros(32, dtype=torch.int64)
    for _ in range(steps):
        for phase, optimiser in zip((d_phase, g_phase), optimisers, strict=True):
            rows = torch.randint(200, (32,), generator=rng)
            batch = Batch(data[rows], labels, rows, torch.randn(32, 2, generator=rng), labels, rng)
            optimiser.zero_grad()
            sum(phase.loss(batch).terms.values()).backward()
            optimiser.step()
    return float(generator.p[0])


@pytest.mark.parametrize(("share", "kind"), [(0.0, "hinge"), (0.25, "hinge"), (0.5, "hinge"), (1.0, "hinge"),
                                             (0.25, "non-saturating")])
def test_p_follows_the_target_s_proportions(share: float, kind: str) -> None:
    assert learned(share, kind) == pytest.approx(share, abs=0.05)
