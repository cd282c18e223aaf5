"""Feature matching against its closed forms, and the stage it makes in a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import make_source
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.matching import FeatureMatching
from gantransfer.plan import Batch, Target
from gantransfer.registry import methods


class Doubling(nn.Module):
    """A critic whose two blocks give the images and twice the images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def maps(self, images: Tensor) -> list[Tensor]:
        return [self.weight * images, 2 * self.weight * images]


def test_the_term_is_the_squared_difference_of_means_and_of_squares() -> None:
    matching = FeatureMatching(Doubling(), 1, 1, 1, squares=0.5)
    matching.see(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([0, 0]))
    mean, square, variance = 2.0, 5.0, 2.0  # two images: one degree of freedom
    fakes = [0.0, 1.0, 4.0]
    pairs = [(0.0, 1.0), (0.0, 4.0), (1.0, 4.0)]
    means = sum((a - mean) * (b - mean) for a, b in pairs) / 3
    squares = sum((a**2 - square) * (b**2 - square) for a, b in pairs) / 3
    one = means / variance + 0.5 * squares / square**2
    found = matching(torch.tensor(fakes).view(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64))
    # The second block's features are doubled, and so are the scales: the same value twice.
    assert found.item() == pytest.approx(2 * one, rel=1e-6)


def test_statistics_add_up_over_batches_and_classes() -> None:
    images, labels = torch.randn(12, 1, 2, 2), torch.arange(12) % 3
    whole, parts = (FeatureMatching(Doubling(), 4, 2, 1) for _ in range(2))
    whole.see(images, labels)
    for chunk in (slice(0, 5), slice(5, 12)):
        parts.see(images[chunk], labels[chunk])
    for name, value in whole.named_buffers():
        torch.testing.assert_close(parts.get_buffer(name), value)
    assert whole.count.tolist() == [4, 4, 4, 0]
    torch.testing.assert_close(whole.sum1[1] / 4, 2 * images[labels == 1].mean(0))


def test_expectation_is_zero_for_the_same_distribution_and_has_no_bias_from_few_samples() -> None:
    """A biased estimate would be half a variance here (two blocks); the mean over many draws is that of the formula."""
    torch.manual_seed(0)
    matching = FeatureMatching(Doubling(), 1, 1, 1, squares=0.0)
    matching.see(torch.randn(200_000, 1, 1, 1), torch.zeros(200_000, dtype=torch.int64))
    labels = torch.zeros(4, dtype=torch.int64)
    same = torch.stack([matching(torch.randn(4, 1, 1, 1), labels) for _ in range(4000)])
    moved = torch.stack([matching(torch.randn(4, 1, 1, 1) + 1, labels) for _ in range(4000)])
    assert abs(float(same.mean())) < 4 * float(same.std()) / 4000**0.5
    assert float(moved.mean()) == pytest.approx(2.0, abs=4 * float(moved.std()) / 4000**0.5)


def test_classes_are_compared_with_their_own_means() -> None:
    matching = FeatureMatching(Doubling(), 3, 1, 1, squares=0.0)
    matching.see(torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0, 10.0]).view(6, 1, 1, 1), torch.tensor([0, 0, 1, 1, 2, 2]))
    variance = 2.0  # pooled over three classes of means 1, 5 and 9
    fakes, kinds = torch.tensor([10.0, 12.0, 1.0, 1.0]).view(4, 1, 1, 1), torch.tensor([2, 2, 0, 0])
    own = ((10 - 9) * (12 - 9) + 0) / 2 / variance
    exchanged = ((10 - 1) * (12 - 1) + (1 - 9) ** 2) / 2 / variance
    assert matching(fakes, kinds).item() == pytest.approx(2 * own)
    assert matching(fakes, kinds.flip(0)).item() == pytest.approx(2 * exchanged)


@pytest.mark.parametrize("per_class", [2, 3, 4, 8])
def test_labels_come_in_equal_runs_of_classes_that_were_seen(per_class: int) -> None:
    matching = FeatureMatching(Doubling(), 5, 1, 1, per_class)
    matching.see(torch.zeros(3, 1, 1, 1), torch.tensor([0, 2, 4]))
    for size in (1, 2, 3, 4, 7, 8, 16, 32, 33):
        rng = torch.Generator().manual_seed(size)
        drawn = [matching.labels(size, rng) for _ in range(50)]
        assert {int(kind) for labels in drawn for kind in labels} == {0, 2, 4}
        for labels in drawn:
            kinds, lengths = labels.unique_consecutive(return_counts=True)
            assert len(set(kinds.tolist())) == len(kinds) and len(set(lengths.tolist())) == 1 and lengths[0] >= 2
            assert 3 / 4 * size <= len(labels) <= max(2, size)
            # One class alone has other batch statistics than the samples of all.
            assert len(kinds) >= min(2, size // 2) and (lengths[0] >= per_class or len(kinds) <= 2)


@pytest.mark.parametrize("classes", [1, 3])
def test_one_image_of_each_class_is_no_reason_to_explode(classes: int) -> None:
    images = torch.randn(classes, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    matching = FeatureMatching(Doubling(), classes, 2, 1)
    fakes = torch.randn(4 * classes, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(classes).repeat_interleave(4)
    for _ in range(3):  # shown again, an image adds to the degrees of freedom, and nothing to the variance
        matching.see(images, torch.arange(classes))
        assert float(matching(fakes, labels).abs()) < 200


def test_the_critic_moves_along_and_is_not_saved() -> None:
    matching = FeatureMatching(Doubling(), 2, 2, 1)
    assert not any(name.startswith("critic") for name in matching.state_dict())
    assert matching.double().critic.weight.dtype == torch.float64


def test_gradient_reaches_the_fakes_and_not_the_critic() -> None:
    gan = make_source()
    matching = FeatureMatching(gan.discriminator, 2, 32, 1)
    matching.train()
    assert not any(part.training for part in matching.critic.modules())
    matching.see(torch.rand(6, 1, 32, 32), torch.arange(6) % 2)
    fakes = torch.rand(8, 1, 32, 32, requires_grad=True)
    before = {k: v.clone() for k, v in {**matching.state_dict(), **matching.critic.state_dict()}.items()}
    matching(fakes, torch.arange(2).repeat_interleave(4)).backward()
    assert float(fakes.grad.abs().sum()) > 0 and all(p.grad is None for p in matching.critic.parameters())
    assert all(torch.equal(v, before[k]) for k, v in
               {**matching.state_dict(), **matching.critic.state_dict()}.items())


def test_the_stage_comes_first_and_the_rest_waits() -> None:
    gan, target = make_source(), Target(8, ("a", "b"), 32, 1)
    method = methods["cgantransfer"](match_nimg=64, match_weight=0.5, finetune_nimg=640)
    plan = method.plan(method.reshape([gan], target), [gan], target, AdversarialLoss())
    windows = {(phase.name, phase.start_nimg, phase.stop_nimg) for phase in plan.phases}
    assert windows == {("match", 0, 64), ("D", 64, None), ("G", 64, 640), ("G", 640, None)}
    shared = {id(p) for name in ("scores", "prior", "residual") for p in plan.groups[name].params}
    assert {id(p) for p in plan.groups["match"].params} == shared and "matching" in plan.extras


@pytest.mark.parametrize(("fields", "stage_fakes", "later_classes"), [
    ({}, 16, 4), ({"match_fakes": 36, "match_per_class": 8}, 36, 2),
])
def test_fakes_of_the_stage_and_of_a_class(fields: dict[str, int], stage_fakes: int, later_classes: int) -> None:
    gan, target = make_source(), Target(16, tuple("abcd"), 32, 1)
    method = methods["cgantransfer"](match_nimg=64, **fields)
    generator = method.reshape([gan], target)
    plan = method.plan(generator, [gan], target, AdversarialLoss())
    drawn: list[Tensor] = []
    generator.register_forward_hook(lambda module, arguments, images: drawn.append(arguments[1]))
    seen = Batch(torch.rand(16, 1, 32, 32), torch.arange(16) % 4, torch.arange(16), torch.randn(16, generator.z_dim),
                 torch.arange(16) % 4, torch.Generator().manual_seed(0))
    small = seen._replace(z=seen.z[:8])
    stage, later = (next(p for p in plan.phases if p.name == name) for name in ("match", "G"))
    assert "match" in stage.loss(small).terms and len(drawn[0]) == stage_fakes
    assert "match" in later.loss(seen).terms and len(drawn[2]) == 16
    assert len(drawn[2].unique()) == later_classes


@pytest.mark.parametrize(("method", "fields", "nimg"), [
    ("cgantransfer", {}, 3200), ("cgantransfer", {"match_steps": 7}, 224), ("cgantransfer", {"match_steps": 0}, 0),
    ("cgantransfer", {"match_nimg": 5}, 5), ("cgantransfer", {"parametrisation": "official-cifar"}, 0),
    ("bsa", {}, 0), ("bsa", {"match_steps": 7}, 224),
])
def test_the_stage_by_default_and_in_images(method: str, fields: dict[str, Any], nimg: int) -> None:
    assert methods[method](**fields).in_images(32).match_nimg == nimg


@pytest.mark.parametrize("method", ["bsa", "cgantransfer"])
def test_what_cannot_be_matched_is_refused(method: str) -> None:
    gan, target = make_source(), Target(8, ("a", "b"), 32, 1)

    def plan(source: object, **fields: float) -> None:
        chosen = methods[method](**fields)
        chosen.plan(chosen.reshape([gan], target), [source], target, AdversarialLoss())

    with pytest.raises(UsageError, match="give match_steps"):
        plan(gan, match_weight=1.0)
    for field in ("match_per_class", "match_fakes"):
        with pytest.raises(UsageError, match=f"{field} 1 has no two fakes"):
            plan(gan, match_nimg=32, **{field: 1})
    critic = gan.discriminator.with_classes(2, None)
    blind = nn.Module()
    blind.num_classes, blind.with_classes = 2, lambda classes, rows: critic
    source = SimpleNamespace(generator=gan.generator, discriminator=blind, classes=gan.classes, config=gan.config)
    plan(source)
    with pytest.raises(ModelError, match="shows its blocks' features"):
        plan(source, match_nimg=32)


def test_fine_tuning_cannot_begin_while_features_are_matched() -> None:
    with pytest.raises(UsageError, match="before the matching stage ends at 64"):
        methods["cgantransfer"](match_nimg=64, finetune_nimg=64)
