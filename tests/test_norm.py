"""Class-conditional batch norm: the three forms of class affine, mixtures, routing by class, standing statistics."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small_gans import KINDS, disturb, latents, small_gan
from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.norm import (
    BatchNorm,
    ClassBatchNorm,
    ClassMixture,
    ClassTable,
    Condition,
    NoisyClassTable,
    SharedAffine,
    StandingStatistics,
    class_rows,
)

CHANNELS, CLASSES, SHARED, CHUNK = 6, 4, 5, 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def affine(form: str) -> nn.Module:
    if form == "table":
        return ClassTable(CLASSES, CHANNELS)
    if form == "noisy-table":
        return NoisyClassTable(CLASSES, CHANNELS, CHUNK)
    return SharedAffine(SHARED, CHUNK if form == "shared+noise" else 0, CHANNELS, 1e-6)


def class_norm(form: str, *, standing: bool = False, seed: int = 0) -> ClassBatchNorm:
    torch.manual_seed(seed)
    norm = ClassBatchNorm(CHANNELS, affine(form), affine(form), 1e-5, standing)
    disturb(norm, seed + 1)
    return norm.eval()


def condition(form: str, labels: Tensor, seed: int = 0) -> Condition:
    embedding = EMBEDDING[labels] if form.startswith("shared") else None
    noise = randn(len(labels), CHUNK, seed=seed) if form in ("shared+noise", "noisy-table") else None
    return Condition(labels, embedding, noise)


EMBEDDING = randn(CLASSES, SHARED, seed=9)
FORMS = ["table", "shared", "shared+noise", "noisy-table"]


def expected_affine(form: str, part: nn.Module, c: Condition) -> Tensor:
    """Offsets written out."""
    if form == "table":
        return part.weight[c.labels]
    if form == "noisy-table":
        return part.weight[c.labels] + c.noise @ part.noise.weight.t()
    row = c.embedding if c.noise is None else torch.cat([c.embedding, c.noise], 1)
    v = F.normalize(part.u0 @ part.weight)
    sigma = (v @ part.weight.t()).norm()
    return row @ (part.weight / sigma).t()


# ---- the three forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_class_norm_written_out(form: str, training: bool) -> None:
    norm = class_norm(form).train(training)
    labels = torch.tensor([3, 0, 3, 1, 2])
    c, x = condition(form, labels), randn(5, CHANNELS, 4, 4, seed=1) * 2 + 0.5
    mean, var = norm.stored_mean.clone(), norm.stored_var.clone()
    gain, bias = 1 + expected_affine(form, norm.gain, c), expected_affine(form, norm.bias, c)
    use_mean, use_var = (x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)) if training else (mean, var)
    centred = (x - use_mean[:, None, None]) / (use_var[:, None, None] + 1e-5).sqrt()
    with torch.no_grad():
        out = norm(x, c)
    torch.testing.assert_close(out, centred * gain[:, :, None, None] + bias[:, :, None, None], atol=1e-5, rtol=1e-5)
    if training:  # the plain flavour stores the unbiased variance
        torch.testing.assert_close(norm.stored_mean, 0.9 * mean + 0.1 * x.mean((0, 2, 3)))
        torch.testing.assert_close(norm.stored_var, 0.9 * var + 0.1 * x.var((0, 2, 3)))
    else:
        assert torch.equal(norm.stored_mean, mean) and torch.equal(norm.stored_var, var)


@pytest.mark.parametrize("form", FORMS)
def test_class_rows_are_the_effective_scales_and_shifts(form: str) -> None:
    norm = class_norm(form)
    labels = torch.arange(CLASSES)
    c = condition(form, labels)
    c = c._replace(noise=None if c.noise is None else torch.zeros_like(c.noise))
    before = copy.deepcopy(norm.state_dict())
    scales, shifts = class_rows(norm.train(), EMBEDDING)
    assert all(torch.equal(norm.state_dict()[k], v) for k, v in before.items())  # a read stores nothing
    assert all(part.training for part in norm.modules())
    assert not scales.requires_grad and not shifts.requires_grad
    for ours, part, one in ((scales, norm.gain, 1), (shifts, norm.bias, 0)):
        torch.testing.assert_close(ours, (one + expected_affine(form, part, c)).detach(), atol=1e-6, rtol=0)
    scales += 1
    shifts += 1  # the caller's own tensors
    assert all(torch.equal(norm.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("form", FORMS)
def test_noise_projection(form: str) -> None:
    norm = class_norm(form)
    projection = norm.gain.noise_projection()
    if form in ("table", "shared"):
        assert projection is None
        return
    c = condition(form, torch.tensor([1, 2]))
    without = c._replace(noise=torch.zeros_like(c.noise))
    with torch.no_grad():
        torch.testing.assert_close(norm.gain(c) - norm.gain(without), c.noise @ projection.t(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("form", "c"), [
    ("table", Condition(None, None, None)), ("shared", Condition(torch.tensor([0]), None, None)),
])
def test_a_missing_condition_is_named(form: str, c: Condition) -> None:
    with pytest.raises(ValueError, match="labels"):
        class_norm(form)(randn(1, CHANNELS, 2, 2), c)


# ---- mixtures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_class_mixtures(kind: str) -> None:
    gan = small_gan(kind)
    z, y = latents(gan, 4), torch.tensor([2, 0, 1, 3])
    one_hot = F.one_hot(y, 4).float()
    with torch.no_grad():
        torch.testing.assert_close(gan.generator(z, ClassMixture(one_hot)), gan.generator(z, y), atol=1e-6, rtol=0)
        half = gan.generator(z, ClassMixture(torch.full((4, 4), 0.25)))
        ends = [gan.generator(z, torch.full((4,), i)) for i in range(4)]
        assert all((half - end).abs().max() > 1e-3 for end in ends)
        near = ClassMixture(0.999 * one_hot + 0.00025)
        torch.testing.assert_close(gan.generator(z, near), gan.generator(z, y), atol=0.02, rtol=0)


def test_a_mixture_of_rows_is_the_row_of_the_mixture() -> None:
    norm = class_norm("table")
    x, weights = randn(3, CHANNELS, 2, 2), torch.softmax(randn(3, CLASSES), 1)
    with torch.no_grad():
        out = norm(x, Condition(weights, None, None))
        parts = torch.stack([norm(x, Condition(torch.full((3,), i), None, None)) for i in range(CLASSES)], 1)
    torch.testing.assert_close(out, (weights[:, :, None, None, None] * parts).sum(1), atol=1e-5, rtol=0)


def test_what_a_generator_takes_as_labels() -> None:
    table, shared = small_gan("table"), small_gan("shared")
    z = latents(table, 2)
    with pytest.raises(ModelError, match="4 classes: pass labels"):
        table.generator(z)
    with pytest.raises(ModelError, match="no label embedding"):
        table.generator(z, torch.zeros(2, 6))
    embedded = shared.generator.shared.weight[[1, 3]]
    with torch.no_grad():
        assert torch.equal(shared.generator(z, embedded), shared.generator(z, torch.tensor([1, 3])))
    with pytest.raises(ModelError, match="noise"):
        table.generator(z, torch.tensor([0, 1]), noise=[z])


# ---- standing statistics ---------------------------------------------------------------------------------


class NaiveMyBN:
    """facts 1.3, written out: biased variance by mean of squares, sums when accumulating."""

    def __init__(self, channels: int, eps: float) -> None:
        self.mean, self.var, self.count, self.eps = torch.zeros(channels), torch.ones(channels), 0.0, eps

    def train(self, x: Tensor, accumulate: bool) -> Tensor:
        m, v = x.mean((0, 2, 3)), (x**2).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2
        if accumulate:
            self.mean, self.var, self.count = self.mean + m, self.var + v, self.count + 1
        else:
            self.mean, self.var = 0.9 * self.mean + 0.1 * m, 0.9 * self.var + 0.1 * v
        return self.apply(x, m, v)

    def apply(self, x: Tensor, m: Tensor, v: Tensor) -> Tensor:
        return (x - m[:, None, None]) / (v[:, None, None] + self.eps).sqrt()

    def eval(self, x: Tensor, standing: bool) -> Tensor:
        return self.apply(x, self.mean / self.count, self.var / self.count) if standing else self.apply(
            x, self.mean, self.var)


def test_standing_statistics_against_a_naive_form() -> None:
    ours, naive = StandingStatistics(CHANNELS, 1e-4), NaiveMyBN(CHANNELS, 1e-4)
    batches = [randn(n, CHANNELS, 3, 3, seed=n) * n + 0.3 for n in (2, 3, 5)]
    for x in batches:
        torch.testing.assert_close(ours.train()(x), naive.train(x, False), atol=1e-5, rtol=1e-5)
    assert ours.accumulation_counter == 0
    torch.testing.assert_close(ours.stored_var, naive.var)
    torch.testing.assert_close(ours.eval()(batches[0]), naive.eval(batches[0], False), atol=1e-5, rtol=1e-5)
    ours.reset()
    naive.mean, naive.var, naive.count = torch.zeros(CHANNELS), torch.zeros(CHANNELS), 0.0
    ours.accumulating = True
    for x in batches:
        torch.testing.assert_close(ours.train()(x), naive.train(x, True), atol=1e-5, rtol=1e-5)
    ours.accumulating = False
    assert ours.accumulation_counter == 3
    torch.testing.assert_close(ours.stored_mean, naive.mean)
    torch.testing.assert_close(ours.stored_var, naive.var)
    ours.eval()
    # As published: the sums are used as they are until standing statistics are switched on.
    torch.testing.assert_close(ours(batches[0]), naive.eval(batches[0], False), atol=1e-5, rtol=1e-5)
    ours.standing = True
    torch.testing.assert_close(ours(batches[0]), naive.eval(batches[0], True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("standing", [True, False])
def test_both_flavours_train_in_other_precisions(standing: bool, dtype: torch.dtype) -> None:
    norm = BatchNorm(3, standing=standing).to(dtype)
    x = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    out = norm(x.to(dtype), Condition(None, None, None)).double()
    stored = norm.bn if standing else norm
    assert stored.stored_mean.dtype == dtype
    exact = dtype == torch.float64
    torch.testing.assert_close(stored.stored_mean.double(), 0.1 * x.mean((0, 2, 3)), atol=1e-12 if exact else 1e-2,
                               rtol=0)
    torch.testing.assert_close(out, (x - x.mean((0, 2, 3))[:, None, None])
                               / (x.var((0, 2, 3), unbiased=False)[:, None, None] + 1e-5).sqrt(),
                               atol=1e-12 if exact else 0.1, rtol=0)


def test_standing_statistics_take_gradients() -> None:
    ours = StandingStatistics(2, 1e-5).train()
    x = randn(3, 2, 2, 2).requires_grad_(True)
    plain = F.batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
    weights = randn(3, 2, 2, 2, seed=4)
    grads = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (ours(x), plain)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_training_under_bf16_autocast(kind: str) -> None:
    gan = small_gan(kind, g_attention=(8,), d_attention=(16,))
    z, y = latents(gan, 8), torch.arange(8) % 4
    images = []
    for enabled in (False, True):
        generator = copy.deepcopy(gan.generator).train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            images.append(generator(z, y).float())
            loss = gan.discriminator(images[-1], y).float().mean()
        grads = torch.autograd.grad(loss, list(generator.parameters()))
        assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in grads)
        assert all(b.dtype == torch.float32 and torch.isfinite(b).all() for b in generator.buffers())
    assert 0 < (images[0] - images[1]).abs().mean() < 0.05
