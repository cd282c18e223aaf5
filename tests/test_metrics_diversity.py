"""MV, and KMMD at the size of published samples: the two measures of MineGAN's tables."""

from __future__ import annotations

import pytest
import torch

from gantransfer.errors import DataError
from gantransfer.metrics import DEFAULT_METRICS, Comparison, FeatureSet, kernel
from gantransfer.metrics.diversity import mean_variance, mean_variance_metric
from gantransfer.registry import metrics


def features(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_the_formula() -> None:
    x = features(40).double() * torch.tensor([1.0, 2.0, 3.0, 0.5, 0.0])
    expected = sum(float(((x[:, j] - x[:, j].mean()) ** 2).sum() / 39) for j in range(5)) / 5
    assert mean_variance(x) == pytest.approx(expected, rel=1e-12)
    assert mean_variance(x) == pytest.approx(float(torch.cov(x.T).trace()) / 5, rel=1e-12)
    assert mean_variance(3 * x + 7) == pytest.approx(9 * expected, rel=1e-12)


def test_larger_is_more_varied_and_a_repeated_image_has_none() -> None:
    x = features(100)
    assert mean_variance(x[:1].repeat(10, 1)) == 0
    half = torch.cat([x.mean(0, keepdim=True).repeat(50, 1), x[50:]])  # half of the samples are one, of the middle
    assert mean_variance(half) < mean_variance(x)
    with pytest.raises(DataError, match="at least 2"):
        mean_variance(x[:1])


def test_the_metric_looks_at_the_samples_alone() -> None:
    real, fake = (FeatureSet(features(20, seed=s), torch.zeros(20, dtype=torch.int64)) for s in (0, 1))
    assert mean_variance_metric.compute(Comparison(real, fake)) == mean_variance(fake.features)
    assert metrics["mv"].better == "higher" and {"mv", "kmmd"} <= set(DEFAULT_METRICS)
    assert metrics["mv"].label_for("glyph-cnn") == "Mean variance (glyph-cnn)"


def test_kmmd_of_many_samples_takes_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50,000 samples all pairs would be 20 GB; a block is 128 MB. Here a tenth of each."""
    assert kernel.rows_at_once(50_000) * 50_000 * 8 <= 128 * 2**20 < kernel.BLOCK * 50_000 * 8
    x, y, sizes = features(25, 2), features(5_000, 2, seed=1), []
    plain = kernel.squared_distances

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        sizes.append(len(a) * len(b))
        return plain(a, b)

    monkeypatch.setattr(kernel, "squared_distances", watched)
    value = kernel.kmmd(x, y, block=100)
    assert max(sizes) <= 100 * 5_000
    assert value == pytest.approx(kernel.kmmd(x, y, block=5_000), abs=1e-9) and 0 < value < 1
