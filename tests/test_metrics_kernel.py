"""KID and KMMD: explicit sums over all pairs, the official numbers, torchmetrics, and blocks of any size."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from gantransfer.errors import DataError, UsageError
from gantransfer.metrics.kernel import kid, kid_subsets, kmmd, mean_squared_distance, squared_distances


def sets(n: int = 70, m: int = 50, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=rng), 0.3 + 1.2 * torch.randn(m, d, generator=rng)


def test_kid_is_the_unbiased_estimate() -> None:
    x, y = (t.double() for t in sets())

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.stack([((p * q).sum() / 6 + 1) ** 3 for q in b]) for p in a])

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    n, m = len(x), len(y)
    expected = (
        (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()
    )
    for block in (1, 7, 50, 1000):
        assert kid(x, y, block) == pytest.approx(float(expected), rel=1e-10)


def test_kid_agrees_with_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image.kid")

    class Flatten(torch.nn.Module):
        num_features = 6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    x, y = sets(60, 60)
    oracle = image.KernelInceptionDistance(Flatten(), subsets=2, subset_size=60, normalize=True)
    oracle.update(x.view(-1, 6, 1, 1), real=True)
    oracle.update(y.view(-1, 6, 1, 1), real=False)
    mean, _ = oracle.compute()
    assert kid(x, y) == pytest.approx(float(mean), rel=1e-4)
    assert kid_subsets(x, y, subsets=2, subset_size=60)[0] == pytest.approx(float(mean), rel=1e-4)


def test_kid_subsets_are_clamped_and_repeatable() -> None:
    x, y = sets()
    mean, std, size = kid_subsets(x, y, subsets=5, subset_size=1000, seed=3)
    assert size == 50 and std >= 0
    assert kid_subsets(x, y, subsets=5, subset_size=1000, seed=3)[0] == mean
    small = kid_subsets(x, y, subsets=400, subset_size=20)
    assert small[2] == 20
    assert small[0] == pytest.approx(kid(x, y), abs=4 * small[1] / 400**0.5)  # unbiased: the same expectation
    with pytest.raises(UsageError, match="subset_size=1"):
        kid_subsets(x, y, subset_size=1)


def test_kid_of_one_distribution_is_about_zero_and_may_be_negative() -> None:
    rng = torch.Generator().manual_seed(1)
    values = [kid(*torch.randn(2, 40, 5, generator=rng).unbind()) for _ in range(60)]
    assert min(values) < 0 < max(values)
    assert abs(sum(values) / 60) < 3 * torch.tensor(values).std() / 60**0.5


def test_kmmd_gives_the_official_numbers(shared) -> None:
    folder = shared / "fixtures/biggan/metrics"
    tensors, values = (
        load_file(folder / "features.safetensors"),
        json.loads((folder / "values.json").read_text()),
    )
    x, y = tensors["X"], tensors["Y"]
    assert mean_squared_distance(x) == pytest.approx(values["mean_Mxx"], rel=1e-6)
    assert torch.allclose(squared_distances(x.double(), y.double()).float(), tensors["Mxy"], atol=1e-4)
    for sigma in (0.5, 1, 2):  # float32 sums in the original: 1e-5 relative
        assert kmmd(x, y, sigma) == pytest.approx(values[f"kmmd_real_X_fake_Y_sigma_{sigma}"], rel=1e-5)
    assert kmmd(y, x) == pytest.approx(values["kmmd_real_Y_fake_X_sigma_1"], rel=1e-5)


def test_kmmd_does_not_depend_on_blocks() -> None:
    x, y = sets()
    whole = kmmd(x, y)
    for block in (1, 13, 64):
        assert kmmd(x, y, block=block) == pytest.approx(whole, rel=1e-10)


def test_kmmd_of_equal_sets_is_zero_not_an_error() -> None:
    x, _ = sets()
    assert kmmd(x, x) == pytest.approx(0, abs=1e-6)


def test_kmmd_scale_is_the_mean_over_all_pairs_with_the_diagonal() -> None:
    x, _ = sets()
    assert mean_squared_distance(x) == pytest.approx(
        float(torch.cdist(x.double(), x.double()).square().mean()), rel=1e-9
    )


def test_errors() -> None:
    x, y = sets()
    with pytest.raises(DataError, match="equal features"):
        kmmd(torch.ones(5, 3), torch.zeros(5, 3))
    y[0, 0] = float("nan")
    for function in (kid, kmmd, kid_subsets):
        with pytest.raises(DataError, match="non-finite"):
            function(x, y)
        with pytest.raises(DataError, match="dimensions"):
            function(x, x[:, :2])
