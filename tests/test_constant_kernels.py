"""The cached kernel of weights that take no gradient: never stale, never where a gradient is needed."""

from __future__ import annotations

import copy

import pytest
import torch
from test_layers import conv, inputs, layers, randn
from torch import nn
from torch.nn.utils import parametrize

from gantransfer.layers import SNConv2d


def uncached(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The layer's output from a computation that cannot use its cache."""
    fresh = copy.deepcopy(layer)
    fresh._constant = None
    with torch.no_grad():
        return fresh.eval()(x)


@pytest.mark.parametrize("index", range(6))
def test_the_constant_kernel_is_renewed_whenever_something_changed(index: int) -> None:
    layer = layers()[index].eval().requires_grad_(False)
    x = inputs(layer)
    first = layer(x)
    assert layer._constant is not None
    kernel = layer._constant[-1]
    layer(x)
    assert layer._constant[-1] is kernel  # reused while nothing changed
    other = layers()[index]
    with torch.no_grad():
        other.weight.normal_(generator=torch.Generator().manual_seed(3))

    def in_inference_mode() -> None:
        with torch.inference_mode():
            layer.weight.mul_(1.5)
            layer.weight[0] += 0.3

    def through_an_optimiser() -> None:
        layer.weight.requires_grad_(True)
        layer.weight.grad = torch.randn_like(layer.weight)
        torch.optim.Adam([layer.weight], lr=0.1).step()
        layer.weight.grad = None
        layer.weight.requires_grad_(False)

    changes = {
        "state dict": lambda: layer.load_state_dict(other.state_dict()),
        "in place": lambda: layer.weight[0].mul_(-2),
        "u0": lambda: layer.u0.copy_(torch.linspace(-1, 1, layer.u0.shape[1])[None]),
        "optimiser": through_an_optimiser,
        "inference mode": in_inference_mode,
        "data": lambda: setattr(layer.weight, "data", layer.weight.data * 0.7 + 0.1),
        "another parameter": lambda: setattr(layer, "weight", nn.Parameter(other.weight * 0.3, requires_grad=False)),
        "half and back": lambda: layer.half().float(),
        "training forward": lambda: layer.train()(x),
    }
    for name, change in changes.items():
        with torch.no_grad():
            change()
        layer.eval()
        now = layer(x)
        assert torch.equal(now, uncached(layer, x)), name
        assert not torch.equal(now, first), name
        first = now


def test_copies_do_not_share_the_constant_kernel() -> None:
    layer = conv(3, "up", torch.float32).eval().requires_grad_(False)
    x = randn(1, 5, 4, 4, dtype=torch.float32)
    before = layer(x)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight[0] *= -2
    assert torch.equal(layer(x), before)
    assert not torch.equal(twin(x), before) and torch.equal(twin(x), uncached(twin, x))


def test_the_constant_kernel_is_not_used_when_a_gradient_is_needed() -> None:
    layer = conv(3, "down", torch.float32).eval()
    x = randn(1, 5, 4, 4, dtype=torch.float32)
    with torch.no_grad():
        without = layer(x)
        layer.weight.data.mul_(3)  # the published code's moving average writes like this; no version is counted
        layer.weight.data[0].add_(1)
        assert not torch.equal(layer(x), without)
        without = layer(x)
    out = layer(x)
    assert out.grad_fn is not None and torch.equal(out.detach(), without)
    (grad,) = torch.autograd.grad(out.sum(), layer.weight)
    assert grad.abs().max() > 0
    layer.requires_grad_(False)
    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x)  # the input's gradient goes through a constant kernel
    assert grad.abs().max() > 0
    with torch.inference_mode():
        assert torch.equal(layer(x), without)
    assert torch.equal(layer(x), without)


def test_a_kernel_cached_under_autocast_is_full_precision() -> None:
    for layer in layers():
        layer.eval().requires_grad_(False)
        x = inputs(layer)
        expected = uncached(layer, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = layer(x).float()
        assert torch.equal(layer(x), expected)
        torch.testing.assert_close(rough, expected, atol=0.1, rtol=0.1)


def test_a_layer_made_in_inference_mode_works() -> None:
    with torch.inference_mode():
        layer = SNConv2d(3, 4, resample="up").eval()
        x = torch.ones(1, 3, 4, 4)
        assert torch.equal(layer(x), layer(x))


def test_a_parametrised_weight_is_never_stale() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(4, 1, 1, 1))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * self.factor

    layer = SNConv2d(3, 4, resample="up").eval()
    x = inputs(layer)
    plain = uncached(layer, x)
    scale = Scale()
    parametrize.register_parametrization(layer, "weight", scale)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain)
        scale.factor[0] = 5
        changed = layer(x)
    assert (changed - plain).abs().max() > 1e-3
    out = layer(x)
    torch.testing.assert_close(out.detach(), changed)
    assert torch.autograd.grad(out.square().sum(), scale.factor)[0].abs().max() > 0
