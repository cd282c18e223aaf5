"""Spectral norm, folded resampling convolutions, the cached kernel, attention; all against the plain form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.attention import SelfAttention, attend
from gantransfer.layers import (
    SNConv2d,
    SNEmbedding,
    SNLinear,
    batch_norm,
    fold_pooling,
    fold_upsampling,
    initialise,
)

# (kernel size, resampling) -> the plain form on (x, weight, bias)
PLAIN = {
    (3, None): lambda x, w, b: F.conv2d(x, w, b, padding=1),
    (3, "up"): lambda x, w, b: F.conv2d(F.interpolate(x, scale_factor=2), w, b, padding=1),
    (3, "down"): lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b, padding=1), 2),
    (1, None): F.conv2d,
    (1, "up"): lambda x, w, b: F.conv2d(F.interpolate(x, scale_factor=2), w, b),
    (1, "down"): lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b), 2),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def conv(kernel: int, resample: str | None, dtype: torch.dtype, channels: tuple[int, int] = (5, 7)) -> SNConv2d:
    torch.manual_seed(0)
    layer = SNConv2d(*channels, kernel, resample=resample).to(dtype)
    with torch.no_grad():
        layer.weight.mul_(3)  # away from sigma 1, which would hide a missing division
    return layer


def plain_sigma(layer: nn.Module) -> torch.Tensor:
    """One power iteration from u0, written out."""
    w = layer.weight.reshape(layer.weight.shape[0], -1)
    with torch.no_grad():
        v = layer.u0 @ w
        v = v / v.norm()
        u = v @ w.t()
        u = u / u.norm()
    return v @ w.t() @ u.t()


# ---- folding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [(6, 6), (4, 10), (2, 2)])
def test_folded_kernels_equal_the_plain_form(dtype: torch.dtype, size: tuple[int, int]) -> None:
    x, w = randn(2, 5, *size, dtype=dtype), randn(7, 5, 3, 3, dtype=dtype, seed=1)
    up = F.conv_transpose2d(x, fold_upsampling(w), stride=2, padding=1)
    down = F.conv2d(x, fold_pooling(w), stride=2, padding=1)
    # float32 sums of 45 products of size 1 round by more than 1e-5 in either form: compare relative to the largest
    for folded, plain in ((up, PLAIN[3, "up"](x, w, None)), (down, PLAIN[3, "down"](x, w, None))):
        assert folded.shape == plain.shape
        assert (folded - plain).abs().max() <= TOLERANCE[dtype] * max(1.0, float(plain.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kernel", "resample"), list(PLAIN))
def test_convolution_equals_the_plain_form(
    kernel: int, resample: str | None, training: bool, dtype: torch.dtype
) -> None:
    layer = conv(kernel, resample, dtype).train(training)
    x = randn(3, 5, 6, 4, dtype=dtype).requires_grad_(True)
    expected = PLAIN[kernel, resample](x, layer.weight / plain_sigma(layer), layer.bias)
    ours = layer(x)
    assert ours.shape == expected.shape
    weights = torch.randn_like(expected)
    names = (x, layer.weight, layer.bias)
    grads = torch.autograd.grad((ours * weights).sum(), names)
    plain_grads = torch.autograd.grad((expected * weights).sum(), names)
    for a, b in zip((ours.detach(), *grads), (expected.detach(), *plain_grads), strict=True):
        assert (a - b).abs().max() <= TOLERANCE[dtype] * max(1.0, float(b.abs().max()))


def test_resampling_needs_a_known_kernel() -> None:
    with pytest.raises(ValueError, match="5"):
        SNConv2d(3, 3, 5, resample="up")


# ---- spectral norm ---------------------------------------------------------------------------------------


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [SNLinear(6, 4), SNEmbedding(5, 3), SNConv2d(3, 4), SNConv2d(3, 4, resample="up"),
            SNConv2d(3, 4, resample="down"), SNConv2d(3, 4, 1, resample="down")]


def inputs(layer: nn.Module) -> torch.Tensor:
    if isinstance(layer, SNEmbedding):
        return torch.tensor([0, 4, 2])
    return randn(2, 6, dtype=torch.float32) if isinstance(layer, SNLinear) else randn(2, 3, 4, 4, dtype=torch.float32)


def test_training_stores_the_vectors_and_evaluation_does_not() -> None:
    for layer in layers():
        u0, sv0 = layer.u0.clone(), layer.sv0.clone()
        layer.eval()(inputs(layer))
        with torch.no_grad():
            layer(inputs(layer))
        assert torch.equal(layer.u0, u0) and torch.equal(layer.sv0, sv0)
        for _ in range(3):  # every forward moves them, with or without gradient
            sigma, before = plain_sigma(layer).detach(), layer.u0.clone()
            with torch.no_grad():
                layer.train()(inputs(layer))
            assert not torch.equal(layer.u0, before)
            assert layer.u0.norm() == pytest.approx(1, abs=1e-5)
            assert float(layer.sv0) == pytest.approx(float(sigma), rel=1e-5)


def test_sigma_converges_to_the_largest_singular_value() -> None:
    for layer in layers():
        layer.train()
        for _ in range(300):
            layer.normalized_weight()
        largest = torch.linalg.svdvals(layer.weight.detach().reshape(len(layer.weight), -1))[0]
        assert float(layer.sv0) == pytest.approx(float(largest), rel=1e-4)
        normalised = layer.eval().normalized_weight().detach().reshape(len(layer.weight), -1)
        assert float(torch.linalg.svdvals(normalised)[0]) == pytest.approx(1, abs=1e-4)


def test_gradient_flows_through_sigma() -> None:
    """Against finite differences of the function autograd sees: u and v are constants, sigma is not."""
    layer = SNLinear(4, 3).double().eval()
    matrix = layer.weight.detach()
    v = F.normalize(layer.u0 @ matrix, eps=layer.sn_eps)
    u = F.normalize(v @ matrix.t(), eps=layer.sn_eps)

    def normalised(weight: torch.Tensor) -> torch.Tensor:
        return weight / (v @ weight.t() @ u.t())

    weight = matrix.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(normalised, (weight,))
    g = randn(3, 4)
    (ours,) = torch.autograd.grad((layer.normalized_weight() * g).sum(), layer.weight)
    (expected,) = torch.autograd.grad((normalised(weight) * g).sum(), weight)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)
    detached = g / (v @ matrix.t() @ u.t())
    assert (ours - detached).abs().max() > 1e-3  # a sigma without gradient would be noticed


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_gradcheck_at_converged_vectors(resample: str | None) -> None:
    """At the singular vectors sigma's derivative is u^T dW v exactly, so the whole layer passes gradcheck."""
    layer = SNConv2d(2, 3, resample=resample).double().train()
    for _ in range(2000):
        layer.normalized_weight()
    layer.eval()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()

    def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,))

    args = [t.requires_grad_(True) for t in (randn(1, 2, 4, 4), weight, bias)]
    assert torch.autograd.gradcheck(forward, args)
    assert torch.autograd.gradgradcheck(forward, [args[0], weight.detach(), bias.detach()])


# ---- attention -------------------------------------------------------------------------------------------


def naive_attention(block: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """Position by position, in plain loops."""
    def project(layer: SNConv2d, value: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oi,nihw->nohw", layer.normalized_weight()[:, :, 0, 0], value)

    n, c, h, w = x.shape
    theta, phi, g = (project(layer, x) for layer in (block.theta, block.phi, block.g))
    phi, g = (F.max_pool2d(t, 2) for t in (phi, g))
    out = torch.zeros(n, c // 2, h, w, dtype=x.dtype)
    for image in range(n):
        for i in range(h):
            for j in range(w):
                keys = phi[image].reshape(c // 8, -1)
                scores = torch.stack([theta[image, :, i, j] @ keys[:, k] for k in range(keys.shape[1])])
                out[image, :, i, j] = g[image].reshape(c // 2, -1) @ torch.softmax(scores, 0)
    return block.gamma * project(block.o, out) + x


def test_attention_equals_a_naive_one() -> None:
    torch.manual_seed(0)
    block = SelfAttention(16).double().eval()
    x = randn(2, 16, 4, 6)
    assert torch.equal(block(x), x)  # gamma starts at 0
    with torch.no_grad():
        block.gamma.fill_(0.7)
        for name in ("theta", "phi", "g", "o"):
            getattr(block, name).weight.mul_(3)
        torch.testing.assert_close(block(x), naive_attention(block, x), atol=1e-12, rtol=0)
    assert all(getattr(block, name).bias is None for name in ("theta", "phi", "g", "o"))


# ---- batch norm with its affine --------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [3, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_is_more_exact_than_the_kernel_it_replaces(layout: torch.memory_format, rows: int) -> None:
    x = (2 * randn(3, 4, 8, 6) + 3).float().contiguous(memory_format=layout)
    gain, bias, g = (randn(*shape, seed=s).float() for s, shape in enumerate(((rows, 4), (rows, 4), (3, 4, 8, 6)), 1))

    def plain(x: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        normal = F.batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
        return normal * gain[:, :, None, None] + bias[:, :, None, None]

    def run(function, dtype: torch.dtype) -> list[torch.Tensor]:
        args = [t.to(dtype).requires_grad_(True) for t in (x, gain, bias)]
        out = function(*args)
        return [out.detach(), *torch.autograd.grad((out * g.to(dtype)).sum(), args)]

    ours = run(lambda *args: batch_norm(*args, 1e-5)[0], torch.float64)
    for a, b in zip(ours, run(plain, torch.float64), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    single = run(lambda *args: batch_norm(*args, 1e-5)[0], torch.float32)
    assert single[0].is_contiguous(memory_format=layout)
    for a, b in zip(single, ours, strict=True):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max()
    out, mean, var = batch_norm(x, gain.requires_grad_(True), bias, 1e-5)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(var, x.var((0, 2, 3), unbiased=False))
    assert out.requires_grad and not mean.requires_grad and not var.requires_grad
    assert batch_norm(x.bfloat16(), gain, bias, 1e-5)[0].dtype == torch.float32


def test_batch_norm_derivatives() -> None:
    args = [randn(2, 3, 2, 2), 1 + randn(2, 3, seed=1), randn(2, 3, seed=2)]
    args = [t.requires_grad_(True) for t in args]

    def function(*args: torch.Tensor) -> torch.Tensor:
        return batch_norm(*args, 1e-3)[0]

    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


def test_attention_equals_the_products_written_out_and_so_do_its_derivatives() -> None:
    def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.transpose(1, 2), -1) @ v

    args = [randn(2, 12, 3, seed=i).requires_grad_(True) for i in range(2)] + [randn(2, 12, 5).requires_grad_(True)]
    assert torch.autograd.gradcheck(attend, args) and torch.autograd.gradgradcheck(attend, args)
    single = [t.detach().float().requires_grad_(True) for t in args]
    ours, expected = attend(*single), written_out(*args)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=0)
    grads = torch.autograd.grad(ours.square().sum(), single)
    for a, b in zip(grads, torch.autograd.grad(expected.square().sum(), args), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


# ---- second derivatives, initialisation ------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_double_backward_through_a_critic_with_attention(training: bool) -> None:
    from gantransfer.networks.biggan import BigGAN, build_discriminator

    torch.manual_seed(0)
    critic = build_discriminator(BigGAN.tiny(d_attention=(16,), d_widths=(8, 8, 8, 8))).double()
    with torch.no_grad():
        for block in critic.blocks:
            block[1].gamma.fill_(0.5)
    images = randn(2, 1, 32, 32).requires_grad_(True)
    labels = torch.tensor([0, 3])

    def penalty() -> torch.Tensor:
        (slope,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
        return slope.square().sum((1, 2, 3)).sqrt().sub(1).square().mean()

    critic.train(training)
    grads = torch.autograd.grad(penalty(), list(critic.parameters()), allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in grads)
    if training:
        return
    # Finite differences in a direction that leaves sigma alone: a bias, and gamma.
    for param in (critic.blocks[0][0].conv1.bias, critic.blocks[1][1].gamma):
        grad = next(g for g, p in zip(grads, critic.parameters(), strict=True) if p is param)
        direction, step = randn(*param.shape, seed=5), 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                param.add_(sign * step * direction)
            values.append(penalty().item())
            with torch.no_grad():
                param.sub_(sign * step * direction)
        expected = (values[0] - values[1]) / (2 * step)
        assert float((grad * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("scheme", "check"), [
    ("ortho", lambda w: torch.allclose(w @ w.t(), torch.eye(len(w)), atol=1e-5)),
    ("N02", lambda w: 0.015 < w.std() < 0.025),
    ("xavier", lambda w: w.abs().max() <= (6 / sum(w.shape)) ** 0.5),
])
def test_initialisation(scheme: str, check) -> None:
    torch.manual_seed(0)
    net = nn.ModuleList([SNLinear(40, 16), SNConv2d(10, 8, 1), SNEmbedding(12, 30)])
    bias = net[0].bias.clone()
    initialise(net, scheme)
    assert all(check(layer.weight.detach().flatten(1)) for layer in net)
    assert torch.equal(net[0].bias, bias)
    with pytest.raises(ValueError, match="'kaiming' is unknown"):
        initialise(net, "kaiming")
