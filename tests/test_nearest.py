"""The memorisation check: copies are found, real images are not copies, duplicates in the data hide nothing."""

from __future__ import annotations

import pytest
import torch

from gantransfer.nearest import QUANTILE, calibrate, nearest


def _real(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))


def test_one_in_a_hundred_real_images_counts() -> None:
    training, held_out, fresh = _real(2000, 0), _real(1000, 1), _real(2000, 2)
    real = calibrate(training, held_out)
    assert real.kind == "held-out real images" and real.images == 1000 and real.threshold < real.median
    rate = float(real.copies(nearest(fresh, training)[0]).float().mean())
    assert rate == pytest.approx(QUANTILE, abs=0.01)


@pytest.mark.parametrize("held_out", [True, False])
def test_copies_and_near_copies_are_found(held_out: bool) -> None:
    training = _real(1000)
    real = calibrate(training, _real(500, 1) if held_out else None)
    copied = training[::7] + 1e-3 * _real(143, 2)
    distances, indices = nearest(copied, training)
    assert real.copies(distances).all() and indices.tolist() == list(range(0, 1000, 7))
    assert real.copies(nearest(training[:50], training)[0]).all()


@pytest.mark.parametrize("held_out", [True, False])
def test_duplicates_in_the_data_hide_nothing(held_out: bool) -> None:
    """With every third image there twice, the plain quantile would be zero."""
    training = torch.cat([_real(600), _real(600)[:200]])
    real = calibrate(training, torch.cat([_real(300, 1), training[:100]]) if held_out else None)
    assert real.threshold > 0.3 and real.copies(torch.zeros(1)).all()


@pytest.mark.parametrize("training", [_real(1), _real(1).expand(5, -1)], ids=["one image", "one image repeated"])
def test_nothing_to_calibrate_on(training: torch.Tensor) -> None:
    real = calibrate(training, None)
    assert (real.threshold, real.images) == (0.0, 0)
    assert real.copies(torch.tensor([0.0, 0.5])).tolist() == [True, False]


def test_distances_of_equal_images_are_zero() -> None:
    """Large numbers, where a matrix product would leave a rest."""
    bank = 1000 + _real(300)
    assert nearest(bank, bank)[0].max() == 0
    assert nearest(bank, bank, own=torch.arange(300))[0].min() > 0
