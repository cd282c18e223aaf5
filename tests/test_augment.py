"""DiffAugment against recorded runs of the published code, and what every augmentation must keep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gantransfer import augment
from gantransfer.augment import OPERATIONS, diff_augment
from gantransfer.errors import UsageError

POLICIES = ["color", "translation", "cutout", "color,translation,cutout"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, channels: int = 3, h: int = 12, w: int = 10) -> Tensor:
    return torch.rand(n, channels, h, w, generator=rng(9)) * 2 - 1


# ---- the published code ----------------------------------------------------------------------------------

DRAWS = {"brightness": ("u",), "saturation": ("u",), "contrast": ("u",), "translation": ("t_rows", "t_cols"),
         "cutout": ("off_rows", "off_cols")}
IN_ALL = {"brightness": ("bright_u",), "saturation": ("sat_u",), "contrast": ("con_u",)}


@pytest.fixture(params=["s0", "s1"])
def golden(shared: Path, request: pytest.FixtureRequest) -> dict[str, Tensor]:
    tensors = load_file(shared / "fixtures" / "gpgan" / "diffaugment.safetensors")
    prefix = f"{request.param}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", list(DRAWS))
def test_each_operation(golden: dict[str, Tensor], name: str) -> None:
    draws = [golden[f"{name}.{draw}"] for draw in DRAWS[name]]
    out = getattr(augment, name)(golden["x"].double(), *draws)
    torch.testing.assert_close(out, golden[f"{name}.out"].double(), atol=1e-6, rtol=0)
    assert getattr(augment, name)(golden["x"], *draws).dtype == torch.float32


def test_the_whole_policy_and_its_gradient(golden: dict[str, Tensor]) -> None:
    x = golden["x"].double().requires_grad_(True)
    out = x
    for part in ("color", "translation", "cutout"):  # the order of the published code
        for operation, _ in OPERATIONS[part]:
            name = operation.__name__
            out = operation(out, *(golden[f"all.{draw}"] for draw in IN_ALL.get(name, DRAWS[name])))
    torch.testing.assert_close(out, golden["all.out"], atol=1e-10, rtol=0)
    (grad,) = torch.autograd.grad((out * golden["all.w"].double()).sum(), x)
    torch.testing.assert_close(grad, golden["all.grad_x"], atol=1e-10, rtol=0)


def test_channels_last(golden: dict[str, Tensor]) -> None:
    x = golden["x"].contiguous(memory_format=torch.channels_last)
    moved = augment.translation(x, golden["nhwc.t_rows"], golden["nhwc.t_cols"])
    cut = augment.cutout(moved, golden["nhwc.off_rows"], golden["nhwc.off_cols"])
    torch.testing.assert_close(cut.permute(0, 2, 3, 1), golden["nhwc.out"], atol=1e-6, rtol=0)


# ---- draws -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "shift", "box", "end"), [(32, 4, 16, 33), (21, 3, 11, 21), (27, 3, 14, 28)])
def test_ranges_of_the_draws(side: int, shift: int, box: int, end: int) -> None:
    x = torch.ones(4000, 1, side, 2)
    shifts, centres = augment._shifts(x, rng())[0], augment._centres(x, rng())[0]
    assert (int(shifts.min()), int(shifts.max())) == (-shift, shift)
    assert (int(centres.min()), int(centres.max())) == (0, end - 1)
    cut = augment.cutout(x[:1].expand(end, -1, -1, -1), torch.arange(end), torch.ones(end, dtype=torch.int64))
    zeros = (cut[:, 0, :, 1] == 0).sum(1)
    assert zeros.max() == box and zeros.min() >= box // 2
    (u,) = augment._uniform(x, rng())
    assert 0 <= u.min() < 0.01 and 0.99 < u.max() < 1


@pytest.mark.parametrize("policy", POLICIES)
def test_no_draw_is_shared_between_images(policy: str) -> None:
    x = images(1, h=32, w=24).expand(16, -1, -1, -1)
    out = diff_augment(policy)(x, rng(1)).flatten(1)
    assert len({tuple(row.tolist()) for row in out}) >= 12  # few integer shifts may coincide
    pixel = torch.zeros_like(out[0])
    assert not any(torch.equal(row, pixel) for row in out)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_generator_decides_alone(policy: str) -> None:
    x, apply = images(), diff_augment(policy)
    state = torch.random.get_rng_state()
    first = apply(x, rng(1))
    assert torch.equal(first, apply(x, rng(1)))
    assert not torch.equal(first, apply(x, rng(2)))
    assert torch.equal(state, torch.random.get_rng_state())
    one = rng(1)
    apply(x, one)
    assert not torch.equal(first, apply(x, one))  # the generator moves on


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_reach_the_images(policy: str, channels: int) -> None:
    x = images(2, channels, 6, 6).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: diff_augment(policy)(t, rng(3)), (x,))


def test_policies() -> None:
    x = images()
    assert diff_augment("")(x, rng()) is x
    assert torch.equal(diff_augment(" color , cutout")(x, rng()), diff_augment("color,cutout")(x, rng()))
    with pytest.raises(UsageError, match="'colour' does not exist; did you mean 'color'.*have: color, translation"):
        diff_augment("colour")


def test_grey_images_keep_their_saturation() -> None:
    x = images(channels=1)
    torch.testing.assert_close(augment.saturation(x, torch.rand(4)), x)


def test_means_survive_colour_changes() -> None:
    x = images()
    u = torch.rand(4, generator=rng())
    torch.testing.assert_close(augment.contrast(x, u).mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(augment.saturation(x, u).mean(1), x.mean(1))
    torch.testing.assert_close(augment.brightness(x, u) - x, (u - 0.5).view(-1, 1, 1, 1).expand_as(x))


@pytest.mark.parametrize("policy", ["translation", "cutout", "translation,cutout"])
def test_augmentations_do_not_leak(policy: str) -> None:
    """A generator that may shift its picture or cut parts out of it, against a critic that sees everything augmented
    by the policy, in every image: it learns the whole picture in its place."""
    torch.manual_seed(0)
    picture = torch.zeros(1, 1, 16, 16)
    picture[:, :, 4:12, 5:11] = 1
    holes = [picture.clone() for _ in range(4)]
    for hole, (top, left) in zip(holes, ((4, 5), (8, 5), (4, 8), (8, 8)), strict=True):
        hole[:, :, top : top + 4, left : left + 3] = 0
    shifts = [picture.roll(by, (2, 3)) for by in ((2, 0), (-2, 0), (0, 2), (0, -2))]
    choices = torch.cat([picture, *shifts, *holes])
    augment, draws = diff_augment(policy), rng()
    shares, critic = torch.zeros(len(choices), requires_grad=True), torch.nn.Linear(256, 1)
    optimizers = [torch.optim.Adam([shares], lr=0.05), torch.optim.Adam(critic.parameters(), lr=0.003)]

    def judged(batch: Tensor) -> Tensor:
        return critic(augment(batch, draws).flatten(1))

    for _ in range(250):
        fakes = choices[torch.multinomial(shares.softmax(0).detach(), 64, replacement=True, generator=draws)]
        loss = torch.relu(1 + judged(fakes)).mean() + torch.relu(1 - judged(picture.expand(64, -1, -1, -1))).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        scores = judged(choices.repeat_interleave(32, 0)).view(len(choices), 32).mean(1).detach()
        optimizers[0].zero_grad()
        (-(shares.softmax(0) * scores).sum()).backward()
        optimizers[0].step()
    assert float(shares.softmax(0)[0].detach()) > 0.9
