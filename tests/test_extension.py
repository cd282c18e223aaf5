"""Where new classes, fresh networks and target critics start: by mean, by drawn old classes, or at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_gans import KINDS, latents, small_gan
from torch import Tensor, nn

import gantransfer.methods  # noqa: F401  (registers them)
from gantransfer.extension import frozen_layers, frozen_statistics, mixing_rows, seeded, source_rows, target_critic
from gantransfer.layers import SpectralNorm
from gantransfer.losses import AdversarialLoss
from gantransfer.norm import ClassMixture
from gantransfer.plan import Plan, Target
from gantransfer.registry import methods
from gantransfer.sources import GAN

N, M = 4, 6  # more new classes than old ones
TARGET = Target(12, tuple("abcdef"), 32, 1)


def start(gan: GAN, method: str, **fields) -> tuple[nn.Module, Plan]:
    made = methods[method](**fields)
    generator = made.reshape([gan], TARGET)
    return generator, made.plan(generator, [gan], TARGET, AdversarialLoss())


def states(generator: nn.Module, plan: Plan) -> dict[str, Tensor]:
    critic = plan.extras["critic"].state_dict()
    return {**generator.state_dict(), **{f"critic.{k}": v for k, v in critic.items()}}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


RANDOM = [("scratch", {}), ("transfergan", {"class_init": "random"}), ("transfergan", {"class_init": "random_source"}),
          ("transfergan", {"generator": "scratch", "discriminator": "scratch"}),
          ("freezed", {"class_init": "random_source", "d_embedding": "random_source"}),
          ("bsa", {"init": "random_source"}), ("bsa", {}), ("cgantransfer", {})]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("method", "fields"), RANDOM, ids=lambda v: str(v))
def test_starts_are_deterministic_and_leave_the_global_generator_alone(method: str, fields: dict, kind: str) -> None:
    gan = small_gan(kind)
    before = {k: v.clone() for k, v in gan.generator.state_dict().items()}
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = states(*start(gan, method, **fields))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert same(first, states(*start(gan, method, **fields)))
    other = states(*start(gan, method, **fields, init_seed=1))
    assert not same(first, other)
    assert same(before, gan.generator.state_dict())


def rows_of(generator: nn.Module, gan: GAN, label: Tensor | ClassMixture) -> Tensor:
    z = latents(gan, M)
    with torch.no_grad():
        return generator.eval()(z, label)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("method", ["transfergan", "freezed", "bsa"])
def test_mean_and_drawn_classes(method: str, kind: str) -> None:
    gan = small_gan(kind)
    field = "init" if method == "bsa" else "class_init"
    y = torch.arange(M)
    generator, _ = start(gan, method, **{field: "mean"})
    expected = rows_of(gan.generator, gan, ClassMixture(torch.full((M, N), 1 / N)))
    torch.testing.assert_close(rows_of(generator, gan, y), expected, atol=1e-5, rtol=0)
    drawn = mixing_rows("random_source", M, N, 3).argmax(1)
    generator, _ = start(gan, method, **{field: "random_source", "init_seed": 3})
    torch.testing.assert_close(rows_of(generator, gan, y), rows_of(gan.generator, gan, drawn), atol=1e-5, rtol=0)


def test_drawn_classes_are_one_hot_and_vary() -> None:
    picks = mixing_rows("random_source", 200, N, 0)
    assert picks.shape == (200, N) and torch.equal(picks.sum(1), torch.ones(200)) and set(
        picks.unique().tolist()) == {0.0, 1.0}
    assert (picks.sum(0) > 20).all()
    assert mixing_rows("random", M, N, 0) is None and mixing_rows("mean", M, 0, 0) is None


@pytest.mark.parametrize("kind", list(KINDS))
def test_bsa_from_scratch_starts_at_gain_1_and_bias_0(kind: str) -> None:
    gan = small_gan(kind)
    generator, plan = start(gan, "bsa")
    for name, norm in generator.class_norms():
        assert not norm.gain.weight.any() and not norm.bias.weight.any()  # offsets: gain 1, bias 0
        old = gan.generator.get_submodule(name)
        assert torch.equal(norm.stored_mean, old.stored_mean)
        if kind == "hierarchical":
            torch.testing.assert_close(norm.gain.noise.weight, old.gain.noise_projection(), atol=1e-6, rtol=0)
    assert plan.groups.keys() == {"D", "classes"} | ({"noise"} if kind == "hierarchical" else set())
    kept = {k: v for k, v in gan.generator.state_dict().items() if ".gain." not in k and ".bias." not in k}
    kept = {k: v for k, v in kept.items() if k != "shared.weight"}
    assert all(torch.equal(v, generator.state_dict()[k]) for k, v in kept.items())


@pytest.mark.parametrize("kind", list(KINDS))
def test_transfergan_keeps_everything_but_class_rows(kind: str) -> None:
    gan = small_gan(kind)
    for init in ("mean", "random"):
        generator, plan = start(gan, "transfergan", class_init=init)
        critic = plan.extras["critic"]
        changed = {k for k, v in generator.state_dict().items()
                   if v.shape != gan.generator.state_dict()[k].shape or not torch.equal(
                       v, gan.generator.state_dict()[k])}
        per_class = {k for k in generator.state_dict() if k == "shared.weight"} if kind != "table" else {
            f"{n}.{part}.weight" for n, _ in generator.class_norms() for part in ("gain", "bias")}
        assert changed == per_class
        assert all(torch.equal(v, critic.state_dict()[k]) for k, v in gan.discriminator.state_dict().items()
                   if not k.startswith("embed."))
        assert critic.embed.weight.shape[0] == M
        assert {p for g in plan.groups.values() for p in g.params} == {*generator.parameters(), *critic.parameters()}


@pytest.mark.parametrize(("g", "d"), [("pretrained", "scratch"), ("scratch", "pretrained"), ("scratch", "scratch")])
def test_transfergan_halves_from_scratch(g: str, d: str) -> None:
    gan = small_gan("hierarchical")
    generator, plan = start(gan, "transfergan", generator=g, discriminator=d)
    critic = plan.extras["critic"]
    same_g = torch.equal(generator.blocks[0][0].conv1.weight, gan.generator.blocks[0][0].conv1.weight)
    same_d = torch.equal(critic.blocks[0][0].conv1.weight, gan.discriminator.blocks[0][0].conv1.weight)
    assert (same_g, same_d) == (g == "pretrained", d == "pretrained")
    assert generator.config.class_affine == "shared" and generator.num_classes == M


@pytest.mark.parametrize("init", ["ortho", "N02", "xavier"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_scratch_is_the_source_s_architecture_with_fresh_weights(kind: str, init: str) -> None:
    gan = small_gan(kind, init=init, d_wide=False)
    generator, plan = start(gan, "scratch")
    critic = plan.extras["critic"]
    for fresh, old in ((generator, gan.generator), (critic, gan.discriminator)):
        assert fresh.config.init == init and fresh.config.d_widths == old.config.d_widths
        assert [n for n, _ in fresh.named_modules()] == [n for n, _ in old.named_modules()]
        weights = {n: p for n, p in fresh.named_parameters() if p.dim() > 1}
        assert not any(p.shape == dict(old.named_parameters())[n].shape and torch.equal(
            p, dict(old.named_parameters())[n]) for n, p in weights.items())
        conv = fresh.blocks[1][0].conv2.weight.detach().flatten(1)
        if init == "ortho":
            torch.testing.assert_close(conv @ conv.t(), torch.eye(len(conv)), atol=1e-5, rtol=0)
        elif init == "N02":
            assert 0.015 < conv.std() < 0.025
    assert all(not norm.stored_mean.any() for _, norm in generator.norms())
    classes = {id(p) for m in generator.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    assert {id(p) for p in plan.groups["G_classes"].params} == classes
    assert plan.groups["G_classes"].lr == 2 * plan.groups["G"].lr


# ---- critics and frozen parts ----------------------------------------------------------------------------


@pytest.mark.parametrize(("init", "expected"), [
    ("mean", lambda old: old.mean(0).expand(M, -1)),
    ("random_source", lambda old: mixing_rows("random_source", M, N, 5) @ old),
])
def test_critic_rows(init: str, expected: Callable[[Tensor], Tensor]) -> None:
    gan = small_gan()
    critic = target_critic(gan, M, init, 5)
    torch.testing.assert_close(critic.embed.weight, expected(gan.discriminator.embed.weight), atol=1e-6, rtol=0)
    assert critic.embed.u0.shape == (1, M)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(critic(images), gan.discriminator(images))  # everything below the class rows is kept
    fresh = target_critic(small_gan(critic=False), M, "random", 5, fresh=True)
    assert fresh.embed.weight.shape[0] == M and not torch.equal(fresh.linear.weight, critic.linear.weight)


@pytest.mark.parametrize("statistics", ["batch", "source"])
@pytest.mark.parametrize("buffers", ["fixed", "official"])
def test_frozen_layers(statistics: str, buffers: str) -> None:
    generator = small_gan("hierarchical", g_attention=(8,)).generator
    spectral = [m for m in generator.modules() if isinstance(m, SpectralNorm)]
    assert {id(m) for m in frozen_layers(generator, buffers)} == {id(m) for m in spectral if buffers == "fixed"}
    norms = [norm for _, norm in generator.norms()]
    kept = {id(m) for m in frozen_statistics(generator, statistics)}
    assert kept == {id(m) for m in norms if statistics == "source"} and len(norms) == 7


def test_source_rows_belong_to_the_caller() -> None:
    gan = small_gan("shared")
    before = {k: v.clone() for k, v in gan.generator.state_dict().items()}
    for scales, shifts in source_rows(gan.generator).values():
        assert scales.shape == shifts.shape == (N, scales.shape[1])
        scales.add_(1)
        shifts.add_(1)
    assert same(before, gan.generator.state_dict())


def test_seeded_draws() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seeded(7):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    with seeded(7):
        assert torch.equal(torch.rand(2), inside)
