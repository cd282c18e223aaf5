"""Frechet distance: closed forms, the official numbers, torchmetrics, and both numerical routes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from gantransfer.errors import DataError
from gantransfer.metrics.frechet import (
    frechet_distance,
    frechet_distance_from_features,
    mean_and_covariance,
)


def gaussian(n: int, d: int, seed: int, rank: int | None = None) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or d, d, generator=rng)
    return torch.randn(n, rank or d, generator=rng) @ mix + torch.randn(d, generator=rng)


def test_commuting_covariances_have_a_closed_form() -> None:
    # Same eigenvectors Q: |mu1 - mu2|^2 + sum (sqrt(a) - sqrt(b))^2.
    rng = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(9, 9, generator=rng, dtype=torch.float64))
    a, b = (torch.rand(2, 9, generator=rng, dtype=torch.float64) * 5).unbind()
    a[:3] = 0  # singular covariances too
    mu1, mu2 = torch.randn(2, 9, generator=rng, dtype=torch.float64).unbind()
    expected = (mu1 - mu2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    value = frechet_distance(mu1, q @ a.diag() @ q.T, mu2, q @ b.diag() @ q.T)
    assert value == pytest.approx(float(expected), rel=1e-7)


def test_two_dimensional_general_covariances() -> None:
    # Tr((C1 C2)^(1/2)) = sqrt(Tr(C1 C2) + 2 sqrt(det C1 C2)) in two dimensions.
    c1 = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    c2 = torch.tensor([[0.5, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    product = c1 @ c2
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = float(c1.trace() + c2.trace() - 2 * root)
    assert frechet_distance(zero, c1, zero, c2) == pytest.approx(expected, rel=1e-12)


def test_official_number(shared) -> None:
    folder = shared / "fixtures/biggan/metrics"
    tensors, values = (
        load_file(folder / "features.safetensors"),
        json.loads((folder / "values.json").read_text()),
    )
    value = frechet_distance_from_features(tensors["X"], tensors["Y"])
    assert value == pytest.approx(values["fid_numpy"], rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(300, 250), (20, 300), (300, 20), (20, 15), (24, 25), (25, 24)])
def test_routes_agree_with_each_other_and_with_the_covariances(n: int, m: int) -> None:
    x, y = gaussian(n, 24, 1), gaussian(m, 24, 2)
    direct = frechet_distance_from_features(x, y)
    assert direct == pytest.approx(
        frechet_distance(*mean_and_covariance(x), *mean_and_covariance(y)), rel=1e-6
    )
    assert direct == pytest.approx(frechet_distance_from_features(y, x), rel=1e-7)


def test_torchmetrics_agrees() -> None:
    image = pytest.importorskip("torchmetrics.image.fid")

    class Flatten(torch.nn.Module):
        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    x, y = gaussian(200, 12, 3), gaussian(150, 12, 4)
    oracle = image.FrechetInceptionDistance(Flatten(), normalize=True, input_img_size=(3, 2, 2))
    oracle.set_dtype(torch.float64)
    oracle.update(x.double().view(-1, 3, 2, 2), real=True)
    oracle.update(y.double().view(-1, 3, 2, 2), real=False)
    assert frechet_distance_from_features(x, y) == pytest.approx(float(oracle.compute()), rel=1e-5)


def test_equal_sets_give_zero_and_rank_deficient_ones_a_real_number() -> None:
    x = gaussian(50, 30, 5)
    assert frechet_distance_from_features(x, x) == pytest.approx(0, abs=1e-6)
    flat = gaussian(200, 30, 6, rank=4)  # a collapsed generator: general roots turn complex here
    value = frechet_distance_from_features(flat, torch.zeros(40, 30))
    expected = flat.double().mean(0).square().sum() + flat.double().var(0).sum()
    assert value == pytest.approx(float(expected), rel=1e-9)


def test_known_shift_of_the_mean() -> None:
    x = gaussian(100, 8, 7).double()
    assert frechet_distance_from_features(x, x + 2) == pytest.approx(8 * 4, rel=1e-7)


def test_broken_features_are_an_error() -> None:
    x = gaussian(40, 8, 8)
    for bad in (float("nan"), float("inf")):
        broken = x.clone()
        broken[3, 2] = bad
        for pair in ((broken, x), (x, broken), (broken[:6], x), (x, broken[:6])):
            with pytest.raises(DataError, match="non-finite"):
                frechet_distance_from_features(*pair)
    with pytest.raises(DataError, match="non-finite"):
        frechet_distance(broken[0], torch.eye(8), x[0], torch.eye(8) / 0)
    with pytest.raises(DataError, match="dimensions"):
        frechet_distance_from_features(x, x[:, :4])
    with pytest.raises(DataError, match="at least 2"):
        frechet_distance_from_features(x, x[:1])
    with pytest.raises(DataError, match="shape"):
        frechet_distance_from_features(x[0], x)
    with pytest.raises(DataError, match="shapes"):
        frechet_distance(x[0], torch.eye(8), x[0], torch.eye(7))
