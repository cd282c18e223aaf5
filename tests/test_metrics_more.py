"""Inception Score, precision and recall, density and coverage, and the per-class table."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gantransfer.errors import DataError, UsageError
from gantransfer.metrics import Comparison, FeatureSet
from gantransfer.metrics.frechet import frechet_distance_from_features
from gantransfer.metrics.inception_score import inception_score
from gantransfer.metrics.per_class import accuracy, intra_frechet, per_class, spread
from gantransfer.metrics.precision_recall import (
    coverage_metric,
    density_coverage,
    density_metric,
    precision_metric,
    precision_recall,
    recall_metric,
    squared_radii,
)


def test_inception_score_official(shared) -> None:
    folder = shared / "fixtures/biggan/metrics"
    probabilities = load_file(folder / "features.safetensors")["probs"]
    mean, std = json.loads((folder / "values.json").read_text())["is_5_splits"]
    assert inception_score(probabilities, 5) == pytest.approx((mean, std), rel=1e-5)


def test_inception_score_bounds() -> None:
    certain = torch.eye(4).repeat(10, 1)  # sure and varied: the number of classes
    assert inception_score(certain, 1)[0] == pytest.approx(4)
    assert inception_score(certain[:1].repeat(8, 1), 2)[0] == pytest.approx(1)  # sure and always the same
    assert inception_score(torch.full((8, 4), 0.25), 1)[0] == pytest.approx(1)
    mixed = torch.softmax(torch.randn(53, 4, generator=torch.Generator().manual_seed(0)), 1)
    assert inception_score(mixed, 5) == inception_score(mixed[:50], 5)  # the published codes leave the rest out
    with pytest.raises(UsageError, match="splits=9"):
        inception_score(certain[:8], 9)
    with pytest.raises(DataError, match="softmax"):
        inception_score(torch.randn(8, 4), 1)


def brute_force(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    """All four values point by point."""
    real, fake = real.double(), fake.double()

    def radius(points: Tensor, i: int) -> float:
        others = [float((points[i] - p).norm()) for j, p in enumerate(points) if j != i]
        return sorted(others)[k - 1]

    def inside(point: Tensor, points: Tensor) -> list[bool]:
        return [float((point - c).norm()) <= radius(points, i) for i, c in enumerate(points)]

    fake_in_real = [inside(p, real) for p in fake]
    precision = sum(any(row) for row in fake_in_real) / len(fake)
    recall = sum(any(inside(p, fake)) for p in real) / len(real)
    density = sum(map(sum, fake_in_real)) / (k * len(fake))
    coverage = sum(any(column) for column in zip(*fake_in_real, strict=True)) / len(real)
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_coverage_point_by_point(k: int) -> None:
    rng = torch.Generator().manual_seed(k)
    real, fake = torch.randn(40, 3, generator=rng), 0.5 + 0.6 * torch.randn(30, 3, generator=rng)
    expected = brute_force(real, fake, k)
    assert (*precision_recall(real, fake, k), *density_coverage(real, fake, k)) == pytest.approx(expected)


def test_collapse_and_outliers_show_where_they_should() -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(300, 4, generator=rng)
    collapsed = real[:1] + 0.01 * torch.randn(300, 4, generator=rng)
    precision, recall = precision_recall(real, collapsed)
    assert precision > 0.9 and recall < 0.1
    assert density_coverage(real, collapsed)[1] < 0.1
    far = torch.cat([torch.randn(150, 4, generator=rng), 50 + torch.randn(150, 4, generator=rng)])
    precision, recall = precision_recall(real, far)
    assert precision < 0.6 and recall > 0.8


def test_radii_ignore_the_point_itself_and_blocks() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.cdist(x, x).sort(1).values[:, 3].square()
    for block in (1, 16, 1000):
        assert torch.allclose(squared_radii(x, 3, block), expected, rtol=1e-9)
    assert torch.equal(squared_radii(torch.ones(5, 2), 2), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(UsageError, match="k=0"):
        squared_radii(x, 0)
    with pytest.raises(DataError, match="at least 4"):
        precision_recall(x[:3], x)


def comparison(known: tuple[int, ...] = (0, 1)) -> Comparison:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    real = FeatureSet(torch.randn(60, 4, generator=rng) + 3 * labels[:, None], labels)
    fake_labels = torch.arange(50) % 2
    probabilities = torch.nn.functional.one_hot(fake_labels, 3).float()
    probabilities[:10] = torch.tensor([0.0, 0.0, 1.0])  # five images of each class taken for something else
    fake = FeatureSet(
        torch.randn(50, 4, generator=rng) + 3 * fake_labels[:, None], fake_labels, probabilities
    )
    return Comparison(real, fake, ("a", "b"), known)


def test_registered_forms_equal_the_functions() -> None:
    c = comparison()
    pair = c.real.features, c.fake.features
    assert (precision_metric.compute(c), recall_metric.compute(c)) == precision_recall(*pair)
    assert (density_metric.compute(c), coverage_metric.compute(c)) == density_coverage(*pair)


def test_per_class_table() -> None:
    c = comparison()
    table = per_class.compute(c)
    rows = (c.real.labels == 1, c.fake.labels == 1)
    expected = frechet_distance_from_features(c.real.features[rows[0]], c.fake.features[rows[1]])
    assert table["b"]["frechet"] == pytest.approx(expected, rel=1e-9)
    assert table["a"]["accuracy"] == pytest.approx(20 / 25) and table["b"]["n_fake"] == 25
    assert 0.7 < table["a"]["spread"] < 1.4
    assert intra_frechet.compute(c) == pytest.approx(sum(row["frechet"] for row in table.values()) / 2)
    assert accuracy.compute(c) == pytest.approx(0.8)


def test_swapped_classes_are_seen_by_class_only() -> None:
    c = comparison()
    swapped = Comparison(c.real, FeatureSet(c.fake.features, 1 - c.fake.labels), c.classes, (-1, -1))
    assert intra_frechet.compute(swapped) > 10 * intra_frechet.compute(c)


def test_unknown_and_missing_classes() -> None:
    c = comparison(known=(0, -1))
    table = per_class.compute(c)
    assert table["b"]["accuracy"] is None and table["a"]["accuracy"] is not None
    assert accuracy.compute(c) == pytest.approx(0.8)
    assert "unknown to the classifier (1 of" in c.warnings[0] and "b" in c.warnings[0]
    only = c.fake.subset((c.fake.labels == 0).nonzero().flatten())
    lost = Comparison(c.real, only, ("a", "b"), (0, 1))
    assert per_class.compute(lost)["b"] == {
        "frechet": None, "accuracy": None, "spread": None, "n_real": 30, "n_fake": 0
    }  # fmt: skip
    intra_frechet.compute(lost)
    assert "fewer than two images" in lost.warnings[0]


def test_spread_is_one_for_the_same_variety_and_falls_with_collapse() -> None:
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    assert spread(x + 7, x) == pytest.approx(1)
    assert spread(0.1 * x, x) == pytest.approx(0.1)
    assert spread(x, torch.ones(4, 5)) is None
