"""Adversarial losses against their closed forms, penalties against finite differences, and the two phases."""

from __future__ import annotations

import math

import pytest
import torch
from small_gans import latents, small_gan
from torch import Tensor, nn

from gantransfer.errors import UsageError
from gantransfer.losses import LOSSES, AdversarialLoss, gradient_penalty, gradient_square_norm
from gantransfer.plan import Batch


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- closed forms ----------------------------------------------------------------------------------------

REAL, FAKE = [-2.0, -0.5, 0.0, 0.5, 1.0, 3.0], [-3.0, -1.0, -0.25, 0.0, 2.0, 1.5]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


EXPECTED = {  # discriminator on real and fake, generator
    "hinge": (mean([max(0.0, 1 - v) for v in REAL]), mean([max(0.0, 1 + v) for v in FAKE]), -mean(FAKE)),
    "non-saturating": (mean([-math.log(sigmoid(v)) for v in REAL]), mean([-math.log(1 - sigmoid(v)) for v in FAKE]),
                       mean([-math.log(sigmoid(v)) for v in FAKE])),
    "wgan-gp": (-mean(REAL), mean(FAKE), -mean(FAKE)),
}


@pytest.mark.parametrize("kind", list(LOSSES))
def test_closed_forms(kind: str) -> None:
    critic, generator = LOSSES[kind]
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    terms = critic(real, fake)
    assert (float(terms["real"]), float(terms["fake"]), float(generator(fake))) == pytest.approx(EXPECTED[kind])
    longer = critic(torch.cat([real, real]), fake)  # means, whatever the sizes
    assert all(float(longer[name]) == pytest.approx(float(term)) for name, term in terms.items())


@pytest.mark.parametrize("kind", list(LOSSES))
def test_losses_are_finite_far_out(kind: str) -> None:
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    critic, generator = LOSSES[kind]
    total = sum(critic(far, far).values()) + generator(far)
    (grad,) = torch.autograd.grad(total, far)
    assert torch.isfinite(total) and torch.isfinite(grad).all()


# ---- penalties -------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """D(x, y) = a_y |x|^2 / 2, whose gradient is a_y x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.5, 2.0], dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a[y] * x.square().sum((1, 2, 3)) / 2


def test_gradient_square_norm_in_closed_form() -> None:
    critic, x, y = Quadratic(), torch.randn(3, 1, 2, 2, generator=rng()).double(), torch.tensor([0, 1, 1])
    square = gradient_square_norm(critic, x, y)
    lengths = x.square().sum((1, 2, 3))
    torch.testing.assert_close(square, critic.a[y] ** 2 * lengths)
    (grad,) = torch.autograd.grad(square.sum(), critic.a)  # second order: differentiable in D's parameters
    expected = torch.stack([2 * critic.a[0] * lengths[0], 2 * critic.a[1] * lengths[1:].sum()])
    torch.testing.assert_close(grad, expected)
    assert not x.requires_grad


def test_gradient_penalty_in_closed_form() -> None:
    critic, y = Quadratic(), torch.tensor([0, 1, 1])
    real, fake = (torch.randn(3, 1, 2, 2, generator=rng(s)).double() for s in (1, 2))
    penalty = gradient_penalty(critic, real, fake, y, rng(5))
    a = torch.rand(3, 1, 1, 1, generator=rng(5)).double()  # one point per image
    between = (1 - a) * real + a * fake
    expected = (critic.a[y] * between.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
    torch.testing.assert_close(penalty, expected)
    assert len(set(a.flatten().tolist())) == 3


@pytest.mark.parametrize("kind", ["r1", "gradient penalty"])
def test_penalties_of_a_real_critic_against_finite_differences(kind: str) -> None:
    gan = small_gan(d_widths=(4, 4, 4, 4), d_attention=())
    critic = gan.discriminator.double()
    real, fake = (torch.randn(2, 1, 32, 32, generator=rng(s)).double() for s in (1, 2))
    y = torch.tensor([0, 3])

    def value() -> Tensor:
        if kind == "r1":
            return gradient_square_norm(critic, real, y).mean()
        return gradient_penalty(critic, real, fake, y, rng(4))

    # The penalty itself: the gradient it squares, by differences along random directions.
    if kind == "r1":
        images = real.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(images, y).sum(), images)
        direction = torch.randn(real.shape, generator=rng(7)).double()
        step = 1e-6
        with torch.no_grad():
            rise = (critic(real + step * direction, y) - critic(real - step * direction, y)) / (2 * step)
        torch.testing.assert_close((slope * direction).sum((1, 2, 3)), rise, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(value(), slope.square().sum((1, 2, 3)).mean())
    # Its derivative in D's parameters. Weights are held inside their spectral norm's constants by a bias
    # and by eval mode; the head's weight is 1 x n, whose singular vectors are exact at once.
    for param in (critic.blocks[0][0].conv1.bias, critic.linear.weight):
        (grad,) = torch.autograd.grad(value(), param)
        direction = torch.randn(param.shape, generator=rng(8)).double()
        differences = []
        for sign in (1, -1):
            with torch.no_grad():
                param.add_(1e-6 * sign * direction)
            differences.append(value().item())
            with torch.no_grad():
                param.sub_(1e-6 * sign * direction)
        assert float((grad * direction).sum()) == pytest.approx(
            (differences[0] - differences[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_a_flat_critic_gives_a_finite_gradient() -> None:
    critic = Quadratic()
    zero = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    penalty = gradient_penalty(critic, zero, zero, torch.tensor([0, 1]), rng())
    assert float(penalty.detach()) == pytest.approx(1)
    (grad,) = torch.autograd.grad(penalty, critic.a)
    assert torch.isfinite(grad).all()


# ---- the phases ------------------------------------------------------------------------------------------


def batch(gan, n: int = 3, seed: int = 0) -> Batch:
    images = torch.randn(n, 1, 32, 32, generator=rng(seed)).tanh()
    return Batch(images, torch.arange(n) % 4, torch.arange(n), latents(gan, n, seed), (torch.arange(n) + 1) % 4, rng(1))


@pytest.mark.parametrize("kind", list(LOSSES))
def test_the_two_phases(kind: str) -> None:
    gan = small_gan()
    loss = AdversarialLoss(kind, d_steps=3)
    d, g = loss.phases(gan.generator, gan.discriminator, g_updates=("a", "b"))
    assert (d.updates, d.repeat, d.uses_images) == (("D",), 3, True)
    assert (g.updates, g.repeat, g.uses_images) == (("a", "b"), 1, False)
    b = batch(gan)
    on_critic = d.loss(b)
    assert all(not p.grad for p in gan.generator.parameters())
    total = sum(on_critic.terms.values())
    assert all(grad is None for grad in torch.autograd.grad(  # fakes carry no gradient to G
        total, list(gan.generator.parameters()), allow_unused=True))
    with torch.no_grad():
        fake = gan.generator(b.z, b.y)
        on_fake, on_real = gan.discriminator(fake, b.y), gan.discriminator(b.images, b.labels)
    expected = LOSSES[kind][0](on_real, on_fake)
    for name in ("real", "fake"):
        torch.testing.assert_close(on_critic.terms[name].detach(), expected[name], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(on_critic.logs["logits_real"].detach(), on_real.mean(), atol=1e-5, rtol=1e-5)
    assert ("gradient_penalty" in on_critic.terms) == (kind == "wgan-gp")
    on_generator = g.loss(b)
    torch.testing.assert_close(
        on_generator.terms["adversarial"].detach(), LOSSES[kind][1](on_fake), atol=1e-5, rtol=1e-5)
    assert set(on_generator.terms) == {"adversarial"}


def test_fakes_and_reals_pass_the_critic_in_one_batch_fakes_first() -> None:
    gan = small_gan()
    seen = []

    class Spy(nn.Module):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            seen.append((images, labels))
            return images.mean((1, 2, 3))

    d, _ = AdversarialLoss("hinge").phases(gan.generator, Spy(), g_updates=("G",))
    b = batch(gan)
    d.loss(b)
    ((images, labels),) = seen
    assert torch.equal(labels, torch.cat([b.y, b.labels])) and torch.equal(images[3:], b.images)
    with torch.no_grad():
        assert torch.equal(images[:3], gan.generator(b.z, b.y))


def test_the_regulariser_is_added_to_the_generator_alone() -> None:
    gan = small_gan()
    terms = {"sparsity": torch.tensor(2.0), "residual": torch.tensor(3.0)}
    d, g = AdversarialLoss().phases(gan.generator, gan.discriminator, g_updates=("G",), regulariser=lambda: terms)
    b = batch(gan)
    assert set(d.loss(b).terms) == {"real", "fake"}
    assert set(g.loss(b).terms) == {"adversarial", "sparsity", "residual"} and g.loss(b).terms["residual"] == 3


def test_penalties_are_weighted() -> None:
    gan = small_gan()
    b = batch(gan)
    r1, _ = AdversarialLoss("non-saturating", r1_gamma=4.0).phases(gan.generator, gan.discriminator, g_updates=("G",))
    square = gradient_square_norm(gan.discriminator, b.images, b.labels).mean()
    torch.testing.assert_close(r1.loss(b).terms["r1"], 2 * square)  # gamma / 2
    lazy, _ = AdversarialLoss("non-saturating", r1_gamma=4.0, r1_every=8).phases(
        gan.generator, gan.discriminator, g_updates=("G",))
    torch.testing.assert_close(lazy.loss(b._replace(step=16)).terms["r1"], 16 * square)
    assert "r1" not in lazy.loss(b._replace(step=17)).terms
    for weight in (1.0, 7.0):
        gp, _ = AdversarialLoss("wgan-gp", gp_weight=weight).phases(
            gan.generator, gan.discriminator, g_updates=("G",))
        with torch.no_grad():
            fake = gan.generator(b.z, b.y)
        expected = weight * gradient_penalty(gan.discriminator, b.images, fake, b.labels, rng(1))
        torch.testing.assert_close(gp.loss(b._replace(rng=rng(1))).terms["gradient_penalty"], expected)


def test_augmentation_meets_fakes_and_reals() -> None:
    gan = small_gan()
    b = batch(gan)
    plain, g_plain = AdversarialLoss().phases(gan.generator, gan.discriminator, g_updates=("G",))
    some, g_some = AdversarialLoss(augment="cutout").phases(gan.generator, gan.discriminator, g_updates=("G",))
    for name in ("real", "fake"):
        assert plain.loss(b).terms[name] != some.loss(b).terms[name]
    assert g_plain.loss(b).terms["adversarial"] != g_some.loss(b).terms["adversarial"]
    grads = torch.autograd.grad(g_some.loss(b).terms["adversarial"], gan.generator.linear.weight)
    assert grads[0].abs().max() > 0  # differentiable through the augmentation


def test_an_unconditional_generator_needs_no_labels() -> None:
    gan = small_gan(num_classes=0)
    d, g = AdversarialLoss().phases(gan.generator, gan.discriminator, g_updates=("G",))
    b = batch(gan)
    assert torch.isfinite(sum(d.loss(b).terms.values())) and torch.isfinite(g.loss(b).terms["adversarial"])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(UsageError, match="loss 'hing' does not exist; did you mean 'hinge'"):
        AdversarialLoss("hing")
    with pytest.raises(UsageError, match="augmentation 'cutot'"):
        AdversarialLoss(augment="color,cutot")


def test_the_critic_sees_the_generators_own_images_where_that_goes_first() -> None:
    """As in the limited-data paper's code: fakes of the generator's phase, made before its update, wait for the critic
    in their order (with accumulation there are several); its own latents stay unused."""
    gan, seen = small_gan(), []

    class Spy(nn.Module):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            seen.append((images.detach(), labels))
            return images.mean((1, 2, 3))

    g, d = AdversarialLoss("non-saturating", order="generator").phases(gan.generator, Spy(), g_updates=("G",))
    assert (g.name, d.name) == ("G", "D")
    first, second, third = (batch(gan)._replace(z=latents(gan, 3, seed)) for seed in (1, 2, 3))
    with torch.no_grad():
        expected = [gan.generator(b.z, b.y) for b in (first, second)]
    g.loss(first)
    g.loss(second)
    with torch.no_grad():
        gan.generator.linear.weight.add_(1.0)
    for fake in expected:
        seen.clear()
        d.loss(third)
        assert torch.equal(seen[0][0][:3], fake)
    d.loss(third)  # none is left: it makes its own
    with torch.no_grad():
        assert torch.equal(seen[-1][0][:3], gan.generator(third.z, third.y))


def test_the_penalty_on_generated_images() -> None:
    """R2: gamma / 2 times the mean square norm of the gradient at the fakes."""
    gan = small_gan()
    b = batch(gan)
    terms = AdversarialLoss("non-saturating", r2_gamma=6.0).phases(
        gan.generator, gan.discriminator, g_updates=("G",))[0].loss(b).terms
    with torch.no_grad():
        fake = gan.generator(b.z, b.y)
    assert "r1" not in terms
    torch.testing.assert_close(terms["r2"], 3.0 * gradient_square_norm(gan.discriminator, fake, b.y).mean())
