"""ADA: each transformation against its closed form, p against the critic's signs, and that runs resume exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import Crash, assemble, assert_same_runs, break_at, make_data, make_source
from torch import Tensor, nn

from gantransfer.ada import AdaptiveAugment, Draws, colour, inverse_geometry
from gantransfer.errors import UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Batch


class Forced(Draws):
    """Draws in a given order, whatever is asked for; neutral values after them."""

    def __init__(self, n: int, values: list[Any]) -> None:
        super().__init__(n, 0.5, torch.Generator())
        self.values = list(values)

    def keep(self, values: Tensor, neutral: float, p: float | None = None) -> Tensor:
        value = self.values.pop(0) if self.values else None
        return torch.tensor(neutral if value is None else value).expand_as(values)


def moved(images: Tensor, blit: bool, geometry: bool, values: list[float | None]) -> Tensor:
    matrix = inverse_geometry(Forced(len(images), values), blit, geometry, images.shape[2:])
    grid = F.affine_grid(matrix[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def test_blitting_is_exact() -> None:
    images = torch.rand(3, 2, 8, 8)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(moved(images, True, False, []), images, **close)
    torch.testing.assert_close(moved(images, True, False, [1]), images.flip(3), **close)
    for quarter in (1, 2, 3):
        found = moved(images, True, False, [None, quarter])
        assert any(torch.allclose(found, images.rot90(k, (2, 3)), atol=1e-5) for k in (quarter, -quarter))
    shifted = moved(images, True, False, [None, None, (1 / 8, 0.0)])  # one pixel along the rows
    assert torch.allclose(shifted[..., :-1], images[..., 1:], atol=1e-5) or \
        torch.allclose(shifted[..., 1:], images[..., :-1], atol=1e-5)


def test_geometry() -> None:
    images = torch.rand(2, 1, 16, 16)
    wide = moved(images, False, True, [0.5])  # scaled by a half: the whole image and its reflections
    inner = F.avg_pool2d(images, 2)
    torch.testing.assert_close(wide[:, :, 4:12, 4:12], inner, atol=1e-5, rtol=0)
    turned = moved(images, False, True, [None, math.pi])
    torch.testing.assert_close(turned, images.flip((2, 3)), atol=1e-4, rtol=0)
    back = moved(moved(images, False, True, [None, math.pi / 2]), False, True, [None, -math.pi / 2])
    torch.testing.assert_close(back, images, atol=1e-4, rtol=0)
    ramp = torch.linspace(-0.5, 0.5, 16)
    ramps = torch.stack([ramp.view(1, 1, 16).expand(1, 16, 16), ramp.view(1, 16, 1).expand(1, 16, 16)])
    squeezed = moved(ramps, False, True, [None, None, 0.5])[:, 0, 6:10, 6:10]  # in x by two, stretched as much in y
    torch.testing.assert_close(squeezed[0].diff(dim=1), torch.full((4, 3), 2 / 15), atol=1e-4, rtol=0)
    torch.testing.assert_close(squeezed[1].diff(dim=0), torch.full((3, 4), 0.5 / 15), atol=1e-4, rtol=0)
    shifted = moved(images, False, True, [None, None, None, None, (0.0, 1.5 / 8)])  # a pixel and a half
    found = (shifted[:, :, 3:12], shifted[:, :, 3:12])
    middle = [(images[:, :, i : i + 9] + images[:, :, i + 1 : i + 10]) / 2 for i in (1, 4)]
    assert min(float((a - b).abs().max()) for a, b in zip(found, middle, strict=True)) < 1e-4


def changed(images: Tensor, values: list[float | None]) -> Tensor:
    matrix = colour(Forced(len(images), values), images.shape[1])
    return torch.einsum("nij,njhw->nihw", matrix[:, :-1, :-1], images) + matrix[:, :-1, -1, None, None]


def test_colours() -> None:
    images = torch.rand(2, 3, 4, 4) * 2 - 1
    grey = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(changed(images, []), images)
    torch.testing.assert_close(changed(images, [0.3]), images + 0.3)
    torch.testing.assert_close(changed(images, [None, 2.0]), 2 * images)
    torch.testing.assert_close(changed(grey, [None, None, 1]), -grey)
    luma = images.mean(1, keepdim=True)
    torch.testing.assert_close(changed(images, [None, None, 1]), images - 2 * luma)  # colours stay, luma turns
    torch.testing.assert_close(changed(images, [None, None, None, None, 0.0]), luma.expand_as(images))
    torch.testing.assert_close(changed(images, [None, None, None, 2 * math.pi / 3]), images[:, [2, 0, 1]], atol=1e-5,
                               rtol=0)
    torch.testing.assert_close(changed(images[:, :1], [0.1, 3.0, 1]), -3 * (images[:, :1] + 0.1))


def test_p_follows_the_critics_signs() -> None:
    """Over-confident for 8 batches of 10: up by 40/1000 twice; unsure for 4: down again; never below 0."""
    augment = AdaptiveAugment(nimg=1000)
    seen = []
    for batch in range(16):
        augment.observe(torch.full((10,), 1.0 if batch < 8 else -1.0))
        seen.append(round(float(augment.p), 6))
    assert seen == [0] * 3 + [0.04] * 4 + [0.08] * 4 + [0.04] * 4 + [0.0]
    for _ in range(4):
        augment.observe(torch.tensor([1.0] * 8 + [-1.0] * 2))  # r = 0.6: at the target
    assert float(augment.p) == 0


def test_each_image_has_its_own_draws_and_gradients_flow() -> None:
    augment = AdaptiveAugment()
    images = torch.rand(64, 3, 16, 16, requires_grad=True)
    rng = torch.Generator().manual_seed(0)
    assert augment(images, rng) is images
    augment.p.fill_(0.2)
    found = augment(images, rng)
    same = ((found - images).abs().flatten(1).max(1).values < 1e-4).float().mean()
    assert 0 < float(same) < 0.5  # 0.8 to the power of the transformations that were drawn
    found.sum().backward()
    assert torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0
    again = augment(images, torch.Generator().manual_seed(5))
    assert torch.equal(again, augment(images, torch.Generator().manual_seed(5)))


def test_a_run_with_ada_resumes_exactly_and_saves_no_trace_in_its_critic(tmp_path: Path) -> None:
    gan, data = make_source("gp_gan"), make_data(tmp_path / "images")
    loss = AdversarialLoss("non-saturating", augment="ada", ada_nimg=40, ada_target=-1.0)
    whole = assemble(tmp_path / "whole", gan, data, "transfergan", loss=loss, steps=6)
    whole.trainer.run()
    state = whole.trainer.extras["state0"]
    assert float(state.p) > 0 and len([k for k in whole.trainer.extras if k.startswith("state")]) == 1
    assert not any("augment" in key for key in whole.trainer.extras["critic"].state_dict())
    holder: list[Any] = []
    parts = assemble(tmp_path / "parts", gan, data, "transfergan", None, break_at(5, "crash", holder), loss=loss,
                     steps=6)
    with pytest.raises(Crash):
        parts.trainer.run()
    rest = assemble(tmp_path / "parts", gan, data, "transfergan", loss=loss, steps=6).trainer
    rest.restore()
    rest.run()
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_shift_is_one_augmentation_of_an_image() -> None:
    """Both directions or none (appendix B): with p = 0.5 half of the images stay where they are."""
    matrices = inverse_geometry(Draws(4000, 0.5, torch.Generator().manual_seed(0)), True, False, (4096, 4096))
    still = (matrices[:, :2, 2] == 0).all(1).float().mean()
    assert float(still) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("policy", ["color", "translation,cutout,color", "ada:colour", "ada"])
def test_a_generator_s_brightness_does_not_leak(policy: str) -> None:
    """Through the loss's own phases: images brightened as the augmentations do come back to the real ones'."""
    class Brightness(nn.Module):
        num_classes, z_dim = 0, 1

        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.tensor(0.5))

        def forward(self, z: torch.Tensor, y: None = None) -> torch.Tensor:
            return picture.expand(len(z), -1, -1, -1) + self.level

    class Linear(nn.Module):
        num_classes = 0

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 64, 1)

        def forward(self, images: torch.Tensor, y: None = None) -> torch.Tensor:
            return self.layer(images.flatten(1)).squeeze(1)

    torch.manual_seed(0)
    picture = torch.zeros(1, 3, 8, 8)
    picture[:, :, 2:6, 1:7] = 0.4
    generator, critic, rng = Brightness(), Linear(), torch.Generator().manual_seed(0)
    loss = AdversarialLoss("hinge", augment=policy, r1_gamma=1.0, r1_every=1, ada_nimg=10**9)
    phases = loss.phases(generator, critic, g_updates=("G",))
    states = [phase.state for phase in phases if isinstance(phase.state, AdaptiveAugment)]
    assert bool(states) == policy.startswith("ada")
    for state in states:
        state.p.fill_(0.5)
    rates = {"D": torch.optim.Adam(critic.parameters(), 0.01), "G": torch.optim.Adam(generator.parameters(), 0.02)}
    levels, labels = [], torch.zeros(64, dtype=torch.int64)
    for _ in range(400):
        for phase in phases:
            batch = Batch(picture.expand(64, -1, -1, -1), labels, labels, torch.zeros(64, 1), labels, rng)
            rates[phase.name].zero_grad()
            sum(phase.loss(batch).terms.values()).backward()
            rates[phase.name].step()
        levels.append(float(generator.level.detach()))
    assert abs(sum(levels[-100:]) / 100) < 0.1, levels[::50]


@pytest.mark.parametrize(("p", "leaks"), [(0.5, False), (1.0, True)])
def test_augmentations_do_not_leak_below_the_papers_limit(p: float, leaks: bool) -> None:
    """A generator that may turn its picture by quarters, against a critic that sees everything turned with probability
    p: at 0.5 it learns the upright one; at 1, where orientation is lost, it cannot."""
    torch.manual_seed(0)
    picture = torch.zeros(1, 1, 8, 8)
    picture[:, :, :3, 1:7] = 1
    turned = torch.cat([picture.rot90(k, (2, 3)) for k in range(4)])
    augment, rng = AdaptiveAugment(("blit",)), torch.Generator().manual_seed(0)
    augment.p.fill_(p)
    shares = torch.zeros(4, requires_grad=True)
    critic = torch.nn.Linear(64, 1)
    optimizers = [torch.optim.Adam([shares], lr=0.03), torch.optim.Adam(critic.parameters(), lr=0.01)]

    def judged(images: Tensor) -> Tensor:
        return critic(augment(images, rng).flatten(1))

    for _ in range(250):
        weights = shares.softmax(0)
        fakes = turned[torch.multinomial(weights.detach(), 64, replacement=True, generator=rng)]
        loss = F.softplus(judged(fakes)).mean() + F.softplus(-judged(picture.expand(64, -1, -1, -1))).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        scores = judged(turned.repeat_interleave(32, 0)).view(4, 32).mean(1)
        optimizers[0].zero_grad()
        (-(weights * scores.detach()).sum()).backward()
        optimizers[0].step()
    upright = float(shares.softmax(0)[0].detach())
    assert upright < 0.6 if leaks else upright > 0.9


@pytest.mark.parametrize(("settings", "message"), [
    ({"augment": "ada:blit,color"}, "ADA has no group 'color'; did you mean 'colour'"),
    ({"augment": "ada:"}, "names no group"), ({"augment": "adaa"}, "augmentation 'adaa' does not exist"),
    ({"ada_target": 2.0}, "ada_target 2.0 .* is not possible"), ({"ada_nimg": 0}, "ada_nimg 0 is not possible"),
])
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AdversarialLoss(**settings)
