"""Minimal filtering against the direct convolution: values, derivatives of both orders, and where it runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_layers import randn
from torch import nn

from gantransfer import minimal
from gantransfer.layers import SNConv2d


def arguments(channels: int = 3, dtype: torch.dtype = torch.float64, side: int = 8) -> list[torch.Tensor]:
    args = [randn(2, channels, side, 5, dtype=dtype), randn(4, channels, 3, 3, dtype=dtype, seed=1),
            randn(4, dtype=dtype, seed=2)]
    return [t.requires_grad_(True) for t in args]


@pytest.mark.parametrize("chunk", [1, minimal.CHUNK])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_equals_the_direct_convolution(monkeypatch: pytest.MonkeyPatch, chunk: int, layout: torch.memory_format
                                          ) -> None:
    monkeypatch.setattr(minimal, "CHUNK", chunk)
    x, weight, bias = arguments()
    x = x.detach().contiguous(memory_format=layout).requires_grad_(True)
    ours, direct = minimal.convolve(x, weight, bias), F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(ours, direct, atol=1e-12, rtol=0)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    grad = randn(*direct.shape, seed=3)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight, bias), grad) for y in (ours, direct)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_derivatives_of_first_and_second_order() -> None:
    x, weight, bias = (t.detach()[:1, :2].requires_grad_(True) if t.dim() == 4 else t for t in arguments())
    weight, bias = weight.detach()[:2].requires_grad_(True), bias.detach()[:1].requires_grad_(True)
    x = x.detach()[:, :, :4, :2].contiguous().requires_grad_(True)
    assert torch.autograd.gradcheck(minimal.convolve, (x, weight, bias))
    assert torch.autograd.gradgradcheck(minimal.convolve, (x, weight, bias))


def test_rounding_stays_near_that_of_the_direct_sum() -> None:
    x, weight = randn(1, 96, 16, 16), randn(96, 96, 3, 3, seed=1) / 30
    exact = F.conv2d(x, weight, padding=1)
    error = (minimal.convolve(x.float(), weight.float()) - exact).abs().max()
    assert error <= 2e-5 * exact.abs().max()


def test_frozen_weights_and_frozen_inputs_cost_no_gradient() -> None:
    x, weight, _ = arguments()
    assert minimal.convolve(x, weight.detach()).sum().backward() is None and x.grad is not None
    minimal.convolve(x.detach(), weight).sum().backward()
    assert weight.grad is not None
    with torch.inference_mode():
        assert minimal.convolve(x, weight).shape == (2, 4, 8, 5)


def test_it_is_chosen_on_wide_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = torch.empty(minimal.LEAST_CHANNELS, minimal.LEAST_CHANNELS, 3, 3)
    assert minimal.pays(torch.empty(1, len(wide), 16, 16), wide)
    assert not minimal.pays(torch.empty(1, len(wide), 8, 8), wide)
    assert not minimal.pays(torch.empty(1, len(wide), 18, 18), wide)
    assert not minimal.pays(torch.empty(1, 16, 16, 16), wide[:, :16])
    with torch.autocast("cpu", torch.bfloat16):
        assert not minimal.pays(torch.empty(1, len(wide), 16, 16), wide)
    monkeypatch.setattr(minimal, "LEAST_CHANNELS", 3)
    torch.manual_seed(0)
    layer: nn.Module = SNConv2d(3, 4)
    x = randn(2, 3, 16, 16, dtype=torch.float32)
    expected = F.conv2d(x, layer.eval().normalized_weight(), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
