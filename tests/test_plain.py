"""Our networks against `benchmarks.plain`, the formulation that speeds are measured against."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny import latents, make_source
from torch import Tensor, nn

from benchmarks.plain import MEANS, frechet_plain, plain
from gantransfer.losses import AdversarialLoss
from gantransfer.methods.adafm import AdaFM
from gantransfer.methods.cgantransfer import CGANTransfer
from gantransfer.metrics.frechet import frechet_distance_from_features
from gantransfer.plan import Batch, Target

METHODS = {
    "tables": (CGANTransfer(), {"kind": "hinge"}),
    "hierarchical": (CGANTransfer(), {"kind": "hinge", "r1_gamma": 1.0}),
    "gp_gan": (AdaFM(style_blocks=1), {"kind": "non-saturating", "r1_gamma": 20.0}),
}


def batch(z_dim: int) -> Batch:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(4, 1, 32, 32, generator=rng, dtype=torch.float64) * 2 - 1
    y = torch.tensor([0, 1, 2, 1])
    return Batch(images, y.flip(0), y, torch.randn(4, z_dim, generator=rng, dtype=torch.float64), y, rng)


def results(network: str, form: str) -> dict[str, Tensor]:
    """Images, logits and every gradient of one loss of each phase, in float64."""
    source = make_source(network)
    method, loss = METHODS[network]
    target = Target(12, ("a", "b", "c"), 32, 1)
    generator = method.reshape([source], target)
    plan = method.plan(generator, [source], target, AdversarialLoss(**loss))
    critic = plan.extras["critic"]
    for part in (generator, plan.extras):
        part.double().train()
        if form == "plain":
            plain(part)
    found: dict[str, Tensor] = {}
    for module in plan.fixed:
        module.eval()
    for phase in plan.phases:
        own = batch(generator.z_dim)
        sum(phase.loss(own).terms.values()).backward()
        for part in (generator, critic):
            for name, param in part.named_parameters():
                if param.grad is not None:
                    found[f"{phase.name} {type(part).__name__} {name}"] = param.grad.clone()
                param.grad = None
    own = batch(generator.z_dim)
    with torch.no_grad():
        found["images"] = generator.eval()(own.z, own.y)
        found["logits"] = critic.eval()(own.images, own.y)
    return found


@pytest.mark.parametrize("network", METHODS)
def test_images_logits_and_gradients_are_those_of_the_plain_formulation(network: str) -> None:
    ours, expected = results(network, "ours"), results(network, "plain")
    assert ours.keys() == expected.keys() and len(ours) > 20
    for name, value in expected.items():
        assert (ours[name] - value).abs().max() <= 1e-9 * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize("network", ["tables", "shared", "hierarchical", "gp_gan"])
def test_single_precision(network: str) -> None:
    gan = make_source(network)
    z, y = latents(gan, 6)
    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(gan.generator(z, y), plain(copy.deepcopy(gan.generator))(z, y), atol=1e-5, rtol=0)
        torch.testing.assert_close(gan.discriminator(images, y), plain(copy.deepcopy(gan.discriminator))(images, y),
                                   atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("network", ["hierarchical", "gp_gan"])
def test_every_means_alone_can_be_undone(network: str, means: str) -> None:
    gan = make_source(network)
    z, y = latents(gan, 6)
    with torch.no_grad():
        images = gan.generator(z, y)
        torch.testing.assert_close(plain(copy.deepcopy(gan.generator), {means})(z, y), images, atol=1e-5, rtol=0)
        torch.testing.assert_close(plain(copy.deepcopy(gan.discriminator), {means})(images, y),
                                   gan.discriminator(images, y), atol=1e-5, rtol=1e-6)


def test_a_single_means_undoes_nothing_else() -> None:
    gan = make_source("hierarchical")
    z, y = latents(gan, 6)
    expected = gan.generator(z, y)
    undone = plain(copy.deepcopy(gan.generator), {"attention"})
    assert [n for n, m in undone.named_modules() if isinstance(m, nn.Module) and "forward" in m.__dict__] == [
        "blocks.1.1"]
    torch.testing.assert_close(undone(z, y), expected, atol=1e-5, rtol=0)


def test_the_distance_is_that_of_a_general_matrix_root() -> None:
    pytest.importorskip("scipy")
    rng = torch.Generator().manual_seed(0)
    data = SimpleNamespace(x=torch.randn(60, 8, generator=rng), y=torch.randn(50, 8, generator=rng) + 0.2)
    expected = frechet_plain(data.x.numpy(), data.y.numpy())
    assert frechet_distance_from_features(data.x, data.y) == pytest.approx(expected, rel=1e-9)
