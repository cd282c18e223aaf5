"""The weights of several sources, against mixtures that are known."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from gantransfer.proportions import Proportions, on_simplex


class Maps(nn.Module):
    """A critic of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 10, 3)

    def maps(self, images: Tensor) -> list[Tensor]:
        first = self.first(images).relu()
        return [first, self.second(first).relu()]


def images_of(source: int, n: int, seed: int = 0) -> Tensor:
    """Images [n, 1, 8, 8] of one of three kinds: noise around a bright corner, a bright edge, a dark ground."""
    images = 0.5 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(100 * seed + source))
    height, width, more = ((4, 4, 1.0), (8, 2, 1.0), (8, 8, -0.5))[source]
    images[:, :, :height, :width] += more
    return images


def told(counts: tuple[int, ...], half_life: float = 1000) -> Proportions:
    """Proportions that have seen `counts` target images of each kind, and 400 fakes of each source."""
    found = Proportions(Maps(), len(counts), 8, 1, half_life)
    for kind, count in enumerate(counts):
        if count:
            found.see(images_of(kind, count, seed=1))
    for step in range(10):
        found.add([images_of(kind, 40, seed=2 + step) for kind in range(len(counts))])
    return found


EVEN = torch.full((3,), 1 / 3)


@pytest.mark.parametrize("counts", [(300, 100, 0), (0, 0, 400), (100, 100, 200), (133, 133, 134)])
def test_a_mixture_of_what_the_sources_draw_is_recognised(counts: tuple[int, ...]) -> None:
    p = told(counts).estimate(EVEN)
    assert p == pytest.approx([count / sum(counts) for count in counts], abs=0.05)
    assert float(p.min()) >= 0 and float(p.sum()) == pytest.approx(1)


def test_a_feature_that_is_nearly_constant_in_the_sources_does_not_decide() -> None:
    """A channel that sources hardly ever use, and targets always: no mixture explains it."""
    rng, n = torch.Generator().manual_seed(0), 400
    found = Proportions(Maps(), 2, 8, 1, 1e9)
    width = 41

    def features(source: int) -> Tensor:
        own = torch.randn(n, width, generator=rng)
        own[:, :40] += (1, -1)[source]
        own[:, 40] = 0
        own[: n // 40, 40] = (0, 1e-3)[source]
        return own

    found.drawn = torch.zeros(2, 2 * width + 1)
    for source in range(2):
        x = features(source)
        found.drawn[source] = torch.cat([x.sum(0), x.square().sum(0), torch.tensor([float(n)])])
    x = torch.cat([features(0), features(1)])
    x[:, 40] = 0.5
    found.seen = torch.cat([x.sum(0), x.square().sum(0), torch.tensor([2.0 * n])])
    assert found.estimate(torch.full((2,), 0.5)).tolist() == pytest.approx([0.5, 0.5], abs=0.05)


def test_where_sources_draw_the_same_shares_hold() -> None:
    twins = Proportions(Maps(), 2, 8, 1, 1000)
    twins.see(images_of(0, 200, seed=1))
    for step in range(10):
        twins.add([images_of(0, 40, seed=2 + step), images_of(0, 40, seed=50 + step)])
    assert twins.estimate(torch.tensor([0.8, 0.2])) == pytest.approx([0.8, 0.2], abs=0.06)


def test_before_anything_is_seen_shares_hold() -> None:
    shares, empty = torch.tensor([0.3, 0.7]), Proportions(Maps(), 2, 8, 1, 1000)
    assert torch.equal(empty.estimate(shares), shares)
    empty.see(images_of(0, 4))
    assert torch.equal(empty.estimate(shares), shares)


def test_what_a_source_drew_before_is_forgotten() -> None:
    found = Proportions(Maps(), 2, 8, 1, half_life=40)
    found.see(images_of(0, 300, seed=1))
    for kinds in ([0, 1], [2, 0]):  # then the second source draws what the first did
        for step in range(12):
            found.add([images_of(kind, 40, seed=2 + step) for kind in kinds])
    assert float(found.estimate(torch.tensor([0.5, 0.5]))[1]) > 0.95


def test_it_is_saved_without_its_critic_and_gives_the_same_again() -> None:
    found, other = told((300, 100, 0)), Proportions(Maps(), 3, 8, 1, 1000)
    assert set(found.state_dict()) == {"drawn", "seen"}
    other.load_state_dict(found.state_dict())
    assert torch.equal(other.estimate(EVEN), found.estimate(EVEN))


def test_the_critic_is_a_frozen_copy() -> None:
    critic = Maps()
    found = Proportions(critic, 2, 8, 1, 1000)
    assert found.critic is not critic and not any(p.requires_grad for p in found.critic.parameters())
    assert not found.features(images_of(0, 2).requires_grad_()).requires_grad


@pytest.mark.parametrize("seed", range(6))
def test_least_squares_on_the_simplex_is_the_least_of_a_fine_grid(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows, wanted = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((3, 5), (5,)))
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def loss(p: Tensor) -> float:
        return float((p @ rows - wanted).square().sum() + 0.1 * (p - prior).square().sum())

    steps = torch.linspace(0, 1, 51, dtype=torch.float64)
    grid = [torch.stack([a, b, 1 - a - b]) for a, b in itertools.product(steps, steps) if a + b <= 1]
    found = on_simplex(rows, wanted, prior, 0.1)
    assert float(found.min()) >= 0 and float(found.sum()) == pytest.approx(1)
    assert loss(found) <= min(loss(p) for p in grid) + 1e-9
