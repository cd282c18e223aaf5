"""Layers that keep fewer maps: PyTorch's own values, first and second derivatives, and less kept."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gantransfer.saved_maps import AveragePool, leaky_relu

PAIRS = {
    "leaky ReLU": (lambda x: leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "average pool": (AveragePool(), lambda x: F.avg_pool2d(x, 3, stride=2, padding=1)),
}
pytestmark = pytest.mark.parametrize("name", PAIRS)


def maps(side: int = 5) -> Tensor:
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_layout_and_derivatives_are_pytorchs(name: str, layout: torch.memory_format) -> None:
    ours, theirs = PAIRS[name]
    x = maps(6).contiguous(memory_format=layout)
    assert torch.equal(ours(x), theirs(x)) and ours(x).stride() == theirs(x).stride()
    x.requires_grad_(True)
    torch.autograd.gradcheck(ours, (x,))
    torch.autograd.gradgradcheck(ours, (x,))
    found = [penalty(form, x) for form in (ours, theirs)]
    for mine, his in zip(*found, strict=True):
        torch.testing.assert_close(mine, his)
        assert mine.stride() == his.stride()


def penalty(form: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A gradient, and the gradient of its square as R1 has it."""
    rng = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 3, 3, 3, dtype=torch.float64, generator=rng).requires_grad_(True)
    (slope,) = torch.autograd.grad(form(F.conv2d(form(x), weight, padding=1)).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), weight)
    return slope.detach(), second


def test_the_input_is_not_kept(name: str) -> None:
    x = maps().requires_grad_(True)
    inner = x * 1.0
    place, kept = inner.data_ptr(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        PAIRS[name][0](inner)
        assert place not in kept
        PAIRS[name][1](inner)
    assert place in kept
