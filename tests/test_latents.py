"""Narrower distributions of latents, against their own definition."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import make_source

from gantransfer.errors import ModelError
from gantransfer.latents import given_latents, latent_prior


def test_truncation_cuts_the_normal_distribution() -> None:
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    for scale in (0.4, 1.0, 2.0):
        found = latent_prior(f"truncated:{scale}")(z)
        assert found.dtype == z.dtype and float(found.abs().max()) <= scale
        # The variance of a normal variable cut to [-s, s]: 1 - 2 s f(s) / (F(s) - F(-s)).
        density = math.exp(-scale**2 / 2) / math.sqrt(2 * math.pi)
        variance = 1 - 2 * scale * density / math.erf(scale / math.sqrt(2))
        assert float(found.var()) == pytest.approx(variance, rel=0.03)
        assert torch.equal(found[:, 0].argsort(), z[:, 0].argsort()) or scale < 1  # monotonous, up to rounding
    assert torch.equal(latent_prior("normal:0.5")(z), 0.5 * z) and latent_prior("")(z) is z


def test_extreme_latents_stay_finite() -> None:
    z = torch.tensor([-40.0, -8.0, 0.0, 8.0, 40.0])
    found = latent_prior("truncated:0.5")(z)
    assert torch.isfinite(found).all() and float(found[2]) == pytest.approx(0, abs=1e-6)
    assert found.tolist() == pytest.approx([-0.5, -0.5, 0, 0.5, 0.5], abs=1e-5)


@pytest.mark.parametrize("text", ["normal", "normal:-1", "truncated:nan", "uniform:1", "truncated:x"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="sampling prior .* does not exist; give normal:SCALE or truncated:SCALE"):
        latent_prior(text)


@pytest.mark.parametrize("network", ["tables", "gp_gan", "wgan_gp"])
def test_generators_draw_from_it_unless_latents_are_given(network: str) -> None:
    gan = make_source(network)
    z, y = torch.randn(3, gan.generator.z_dim), torch.arange(3)
    with torch.no_grad():
        half, whole = gan.generator(0.5 * z, y), gan.generator(z, y)
        gan.generator.set_sampling_prior("normal:0.5")
        assert torch.equal(gan.generator(z, y), half) and gan.config["sampling_prior"] == "normal:0.5"
        with given_latents(gan.generator):
            assert torch.equal(gan.generator(z, y), whole)
        assert torch.equal(gan.generator(z, y), half)
