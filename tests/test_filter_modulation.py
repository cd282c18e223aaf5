"""Modulations of filters: identity at the start, closed forms, spectral norm with frozen sigma, folding, analysis."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tiny import latents, make_source

from gantransfer.errors import ModelError, UsageError
from gantransfer.filter_analysis import box, compare, record
from gantransfer.filter_modulation import KINDS, filter_modulations, filters, modulate
from gantransfer.layers import SNConv2d
from gantransfer.modulation import fold, is_plain
from gantransfer.sources import GAN


def disturbed(module: torch.nn.Module, seed: int = 0) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, _, modulation in filter_modulations(module):
            for param in modulation.parameters():
                param.add_(0.3 * torch.randn(param.shape, generator=rng))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", ["gp_gan", "hierarchical"])
def test_identity_at_the_start_and_nothing_lost_by_folding(kind: str, network: str, tmp_path: Path) -> None:
    gan = make_source(network)
    z, y = latents(gan, 4)
    generator = copy.deepcopy(gan.generator)
    count = 0
    for block in generator.blocks:
        for _, convolution in filters(block):
            modulate(convolution, kind)
            count += 1
    assert len(filter_modulations(generator)) == count > 3 and not is_plain(generator)
    with torch.no_grad():
        expected = gan.generator(z, y)
        torch.testing.assert_close(generator(z, y), expected, atol=1e-6, rtol=0)
        disturbed(generator)
        expected = generator(z, y)
        assert (expected - gan.generator(z, y)).abs().max() > 1e-4
        folded = fold(copy.deepcopy(generator))
        torch.testing.assert_close(folded(z, y), expected, atol=1e-6, rtol=0)
    assert is_plain(folded)
    saved = GAN(folded, arch=gan.arch).save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(GAN.from_pretrained(saved).generator(z, y), folded(z, y))


def test_a_frozen_norm_stays_while_the_modulation_trains() -> None:
    """W / sigma is modulated, sigma is that of the frozen weight, and no pass in training mode moves u0."""
    torch.manual_seed(0)
    layer = SNConv2d(5, 7)
    layer.train()
    x = torch.randn(2, 5, 8, 8)
    for _ in range(5):
        layer(x)
    layer.eval()
    sigma_free = layer.normalized_weight().detach()
    modulation = modulate(layer, "adafm")
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.requires_grad_(False)
    modulation.requires_grad_(True)
    layer.train()
    with torch.no_grad():
        modulation.gamma.mul_(1.7)
        modulation.beta.add_(0.2)
    torch.testing.assert_close(layer.normalized_weight(), 1.7 * sigma_free + 0.2)
    layer(x).square().sum().backward()
    assert layer.weight.grad is None and modulation.gamma.grad.abs().min() > 0
    assert all(torch.equal(layer.state_dict()[k], state[k]) for k in ("weight", "u0", "sv0"))


def test_demodulation_keeps_every_filters_norm() -> None:
    """Equation 3 with squares: eta_i |s W_i| is the same for every s."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(6, 4, 3)
    before = convolution.weight.detach().clone()
    modulation = modulate(convolution, "demodulation")
    with torch.no_grad():
        modulation.style.copy_(torch.rand(1, 6, 1, 1) + 0.5)
    after = convolution.weight.detach()
    torch.testing.assert_close(after.flatten(1).norm(dim=1), before.flatten(1).norm(dim=1), atol=1e-5, rtol=0)
    gamma, beta = modulation.scale_and_shift(before)
    torch.testing.assert_close(gamma[:, :, None, None] * before, after)
    assert torch.linalg.matrix_rank(gamma.detach().double(), rtol=1e-5) == 1 and not beta.any()


def test_filter_selection_is_one_number_per_filter() -> None:
    convolution = torch.nn.Conv2d(6, 4, 3)
    before = convolution.weight.detach().clone()
    modulation = modulate(convolution, "fs")
    with torch.no_grad():
        modulation.gamma[2], modulation.beta[2] = 0, 3  # this filter is not selected
    assert torch.equal(convolution.weight[[0, 1, 3]], before[[0, 1, 3]]) and (convolution.weight[2] == 3).all()


def test_boxes() -> None:
    values = torch.tensor([-100.0, *range(1, 100), 500.0])
    assert box(values) == {"low": 1, "first": 25, "median": 50, "third": 75, "high": 99, "min": -100, "max": 500}
    assert set(box(torch.ones(5)).values()) == {1.0}


def modulated_run(folder: Path, seed: int) -> Path:
    generator = make_source("gp_gan").generator
    for block in generator.blocks[3:]:
        for _, convolution in filters(block):
            modulate(convolution, "adafm")
    disturbed(generator, seed)
    assert record(generator, folder)
    return folder


def test_the_sorted_comparison_of_appendix_e(tmp_path: Path) -> None:
    runs = [modulated_run(tmp_path / name, seed) for seed, name in enumerate("abc")]
    said = json.loads((runs[0] / "analysis" / "modulation.json").read_text())
    assert [row["group"] for row in said["groups"]] == [2, 3, 4] and said["kind"] == "adafm"
    assert said["groups"][0]["convolutions"][-1] == "resnet_5_1.conv_1"
    found = compare(runs[0], runs[1:])
    assert found["runs"] == ["a", "b", "c"] and [len(row) for row in found["rows"]] == 3 * [sum(found["columns"])]
    start = 0
    for i, count in enumerate(found["columns"]):
        mine = found["rows"][i][start : start + count]
        assert mine == sorted(mine)
        for k, row in enumerate(found["rows"]):
            assert k == i or all(a - b > 0.029 for a, b in zip(mine, row[start : start + count], strict=True))
        start += count
    assert json.loads((runs[0] / "analysis" / "modulation.json").read_text())["compared"] == found
    other = make_source("gp_gan", g_width=3).generator
    for _, convolution in filters(other.blocks[-1]):
        modulate(convolution, "adafm")
    record(other, tmp_path / "d")
    with pytest.raises(UsageError, match="compare runs of one source"):
        compare(runs[0], [tmp_path / "d"])
    with pytest.raises(ModelError, match="no modulated filters to compare"):
        compare(runs[0], [tmp_path])
    assert not record(make_source().generator, tmp_path / "e")
