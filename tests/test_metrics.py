"""`evaluate`: the protocol, the reference, floor and training bound, and what it must leave alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import gantransfer.metrics as measuring
from gantransfer.errors import DataError, UsageError
from gantransfer.features import load_features
from gantransfer.metrics import collect, evaluate, metric
from gantransfer.registry import metrics as registry
from gantransfer.registry import register_metric


class Images:
    """As much of ImageData as measuring uses: noisy bars, horizontal for class 0 and vertical for class 1."""

    size, channels = 16, 1

    def __init__(self, counts: tuple[int, int], seed: int, classes: tuple[str, ...] = ("A", "plain")) -> None:
        self.classes = list(classes)
        self.labels = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
        self._images = bars(self.labels, seed)
        self.fingerprint = f"{counts}{seed}{classes}"

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        return self._images[indices]


def bars(labels: Tensor, seed: int, noise: float = 20) -> Tensor:
    """uint8 [k, 1, 16, 16]; independent of the global random state."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((len(labels), 1, 16, 16), 230.0)
    for i, label in enumerate(labels.tolist()):
        at = int(torch.randint(2, 13, (1,), generator=rng))
        rows = images[i, 0] if label == 0 else images[i, 0].T
        rows[at : at + 2] = 20
    return (images + noise * torch.randn(images.shape, generator=rng)).clamp(0, 255).to(torch.uint8)


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    collect.forget()
    yield
    collect.forget()


def test_result_and_protocol() -> None:
    reference, training = Images((40, 20), 1), Images((10, 10), 2)
    result = evaluate(bars, reference, training=training, n_fake=90, seed=5)
    identity = load_features("glyph-cnn").identity
    assert result["protocol"] == (
        f"features={identity} resize=32 n_real=60 n_fake=90 seed=5 reference=held-out"
    )
    assert (result["n_real"], result["n_fake"], result["seed"]) == (60, 90, 5)
    assert result["reference"] == "held-out" and result["features"] == identity
    assert {"frechet", "kid", "kmmd", "precision", "recall", "coverage", "per_class"} <= set(
        result["metrics"]
    )
    assert set(result["floor"]) == set(result["training_bound"]) == set(result["metrics"]) - {"per_class"}
    assert result["floor_protocol"] == "two disjoint halves of the reference, n=30 each"
    assert result["better"]["frechet"] == "lower" and result["better"]["recall"] == "higher"
    assert result["labels"]["frechet"] == "Frechet distance (glyph-cnn)"
    assert set(result["metrics"]["per_class"]) == {"A", "plain"}
    assert result["metrics"]["per_class"]["plain"]["n_fake"] == 30  # the reference's proportions
    json.dumps(result, allow_nan=False)


def test_only_inception_is_called_fid() -> None:
    label = registry["frechet"].label_for
    assert label("inception") == "FID"
    assert all(
        "FID" not in label(name) and "Frechet" in label(name) for name in ("glyph-cnn", "dinov2", "clip")
    )
    assert registry["inception_score"].label_for("glyph-cnn") == "Inception Score formula (glyph-cnn)"


def test_defaults() -> None:
    reference = Images((30, 10), 1)
    result = evaluate(bars, reference, metrics="frechet", floor=False)
    assert result["n_fake"] == 1000 and result["floor"] == {} and result["training_bound"] == {}
    assert result["reference"] == "given images" and list(result["metrics"]) == ["frechet"]


def test_same_distribution_is_near_the_floor_and_others_are_not() -> None:
    reference = Images((150, 150), 1)
    good = evaluate(bars, reference, n_fake=300)
    bad = evaluate(lambda y, s: bars(1 - y, s, noise=60), reference, n_fake=300)
    assert good["metrics"]["frechet"] < 2 * good["floor"]["frechet"]
    for name in ("frechet", "kid", "kmmd", "intra_frechet"):
        assert bad["metrics"][name] > 3 * abs(good["metrics"][name])
    for name in ("precision", "coverage"):  # noise widens the fakes, so their recall may rise
        assert bad["metrics"][name] < good["metrics"][name]


def test_same_seed_same_result_and_another_seed_another() -> None:
    reference = Images((30, 30), 1)
    first, again, other = (evaluate(bars, reference, n_fake=70, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first["metrics"]["frechet"] != other["metrics"]["frechet"]
    assert first["floor"] == other["floor"]  # the floor belongs to the reference alone


def test_batch_size_of_the_extractor_does_not_matter() -> None:
    reference = Images((30, 30), 1)
    extractor = load_features("glyph-cnn")
    results = []
    for size in (7, 128):
        collect.forget()
        extractor.batch_size = size
        results.append(evaluate(bars, reference, n_fake=70, features=extractor)["metrics"])
    for name, value in results[0].items():
        if name != "per_class":
            assert value == pytest.approx(results[1][name], rel=1e-4, abs=1e-6)


def test_global_random_states_and_gradients_are_left_alone() -> None:
    def careless(labels: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        np.random.seed(1)
        random.seed(1)
        assert not torch.is_grad_enabled()
        return bars(labels, seed)

    torch.manual_seed(11), np.random.seed(11), random.seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    evaluate(careless, Images((20, 20), 1), n_fake=40, metrics="kid")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]
    assert torch.is_grad_enabled()


def test_training_images_as_reference_are_called_so() -> None:
    training = Images((20, 20), 1)
    for reference in (None, training):
        result = evaluate(bars, reference, training=training, n_fake=40, metrics="frechet")
        assert result["reference"] == "training images" and result["training_bound"] == {}
        assert "reference=training-images" in result["protocol"]
        assert "copies its training images is rewarded" in result["warnings"][0]
    with pytest.raises(UsageError, match="nothing to compare"):
        evaluate(bars, None)


def test_overlap_is_found_by_pixels() -> None:
    training, reference = Images((20, 20), 1), Images((40, 40), 2)
    reference._images[:20] = training._images[:20]
    result = evaluate(bars, reference, training=training, n_fake=80, metrics="frechet")
    assert result["reference"] == "given images" and "20 of 40 training images" in result["warnings"][0]


def test_reference_features_are_computed_once() -> None:
    calls = 0

    class Counting(Images):
        def images(self, indices: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().images(indices)

    reference = Counting((20, 20), 1)
    for seed in range(3):
        evaluate(bars, reference, n_fake=40, seed=seed, metrics="frechet")
    assert calls == 1


def test_accuracy_goes_by_class_name() -> None:
    result = evaluate(bars, Images((20, 20), 1), n_fake=40, metrics=["accuracy", "per_class"])
    assert any("unknown to the classifier" in w and "plain" in w for w in result["warnings"])
    assert result["metrics"]["per_class"]["plain"]["accuracy"] is None
    assert result["metrics"]["per_class"]["A"]["accuracy"] == result["metrics"]["accuracy"]
    foreign = Images((20, 20), 1, classes=("bar", "pole"))
    assert "accuracy" not in evaluate(bars, foreign, n_fake=40)["metrics"]
    with pytest.raises(UsageError, match="accuracy.*knows none"):
        evaluate(bars, foreign, n_fake=40, metrics=["accuracy"])


def test_labels_follow_the_reference() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    fake = collect.proportional_labels(labels, 4, 25)
    assert torch.bincount(fake, minlength=4).tolist() == [
        15,
        8,
        2,
        0,
    ]  # 7.5 and 2.5: the tie goes to the lower
    assert torch.bincount(fake[:12], minlength=3).tolist() == [7, 4, 1]  # interleaved, not sorted
    assert torch.equal(fake, collect.proportional_labels(labels, 4, 25))


def test_halves_are_disjoint_and_balanced() -> None:
    labels = torch.tensor([0] * 11 + [1] * 4)
    first, second = collect.halves(labels)
    assert not set(first.tolist()) & set(second.tolist())
    assert torch.bincount(labels[first]).tolist() == torch.bincount(labels[second]).tolist() == [5, 2]


def test_small_sets() -> None:
    result = evaluate(bars, Images((4, 4), 1), n_fake=40, metrics="frechet,kid_subsets")
    assert result["floor"] == {} and any("too few to halve" in w for w in result["warnings"])
    assert any("biased upwards" in w for w in result["warnings"])
    assert any("cut from 1000 to 8" in w for w in result["warnings"])
    with pytest.raises(UsageError, match="n_fake=1"):
        evaluate(bars, Images((4, 4), 1), n_fake=1)
    with pytest.raises(DataError, match="at least"):
        evaluate(bars, Images((1, 0), 1), n_fake=40, metrics="frechet")


def test_wrong_names_and_wrong_sample_functions() -> None:
    reference = Images((10, 10), 1)
    with pytest.raises(UsageError, match="did you mean 'frechet'"):
        evaluate(bars, reference, metrics=["freche"])
    with pytest.raises(UsageError, match="uint8"):
        evaluate(lambda y, s: bars(y, s).float(), reference)
    with pytest.raises(UsageError, match="one per label"):
        evaluate(lambda y, s: bars(y, s)[:3], reference)
    other = Images((10, 10), 3, classes=("plain", "A"))
    with pytest.raises(DataError, match="same order"):
        evaluate(bars, reference, training=other, n_fake=40, metrics="frechet")


def test_adding_a_metric_is_one_registration() -> None:
    @register_metric("test-mean-gap")
    @metric(better="lower", label="Gap ({features})")
    def gap(comparison: measuring.Comparison) -> float:
        return float((comparison.real.features.mean(0) - comparison.fake.features.mean(0)).norm())

    try:
        result = evaluate(bars, Images((10, 10), 1), metrics=["test-mean-gap"], n_fake=40)
        assert (
            result["metrics"]["test-mean-gap"] > 0 and result["labels"]["test-mean-gap"] == "Gap (glyph-cnn)"
        )
    finally:
        registry._entries.pop("test-mean-gap")
    with pytest.raises(UsageError, match="better='small'"):
        metric(better="small", label="x")


def test_progress_is_reported() -> None:
    seen = []
    evaluate(bars, Images((10, 10), 1), n_fake=130, metrics="kid", progress=lambda *a: seen.append(a))
    assert seen == [
        ("real images", 20, 20),
        ("generated images", 64, 130),
        ("generated images", 128, 130),
        ("generated images", 130, 130),
    ]
