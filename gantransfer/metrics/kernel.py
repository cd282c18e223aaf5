"""Kernel distances: KID (unbiased, polynomial kernel) and KMMD (the cGANTransfer papers' Gaussian kernel).

KID: Binkowski et al., Demystifying MMD GANs (2018), section 4: k(x, y) = (x.y / d + 1)^3, unbiased estimate
    of MMD^2.
KMMD: as in the published cGANTransfer evaluation (identical to the GAN-Metrics code with squared distances):

    scale = mean over all pairs of real images of |x - x'|^2, the zero diagonal included
    k(x, y) = exp(-|x - y|^2 / (2 sigma^2 scale)),  value = sqrt(mean Kxx + mean Kyy - 2 mean Kxy)

It is biased (diagonals are kept) and not symmetric in real and fake. Sums run over blocks of rows, so memory
is bounded: 50,000 images fit. Differs from the original: a slightly negative number under the root
counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gantransfer.errors import DataError, UsageError
from gantransfer.metrics.base import Comparison, checked, checked_pair, metric
from gantransfer.registry import register_metric

BLOCK = 1024  # rows at once
ENTRIES = 1 << 24  # of a table of kernel values at most: 128 MB as float64, whatever the number of images

Kernel = Callable[[Tensor, Tensor], Tensor]


def rows_at_once(n: int, block: int = BLOCK) -> int:
    """How many rows of a table with n columns are computed at once: `block`, fewer where it would exceed `ENTRIES`."""
    return max(1, min(block, ENTRIES // max(n, 1)))


def kernel_sum(kernel: Kernel, x: Tensor, y: Tensor, block: int = BLOCK) -> float:
    """Sum of kernel(x_i, y_j) over all pairs; x [n, d], y [m, d] float64; `block` rows of x at once."""
    block = rows_at_once(len(y), block)
    return sum(float(kernel(x[i : i + block], y).sum()) for i in range(0, len(x), block))


def kernel_sum_self(kernel: Kernel, x: Tensor, block: int = BLOCK) -> tuple[float, float]:
    """(sum over ordered pairs i != j, sum over i = j) of kernel(x_i, x_j), using the kernel's symmetry."""
    off, diagonal = 0.0, 0.0
    block = rows_at_once(len(x), block)
    for i in range(0, len(x), block):
        rows = x[i : i + block]
        own = kernel(rows, rows)
        diagonal += float(own.diagonal().sum())
        off += float(own.sum() - own.diagonal().sum())
        if i + block < len(x):
            off += 2 * float(kernel(rows, x[i + block :]).sum())
    return off, diagonal


def polynomial(degree: int = 3, coef: float = 1.0) -> Kernel:
    """k(x, y) = (x.y / d + coef)^degree."""
    return lambda x, y: (x @ y.T).div_(x.shape[1]).add_(coef).pow_(degree)


def gaussian(scale: float, sigma: float = 1.0) -> Kernel:
    """k(x, y) = exp(-|x - y|^2 / (2 sigma^2 scale))."""
    factor = -1.0 / (2 * sigma**2 * scale)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return squared_distances(x, y).mul_(factor).exp_()

    return kernel


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, [n, m] float64, never negative."""
    norms = x.square().sum(1)[:, None], y.square().sum(1)[None]
    return (x @ y.T).mul_(-2).add_(norms[0]).add_(norms[1]).clamp_(min=0)


def kid(x: Tensor, y: Tensor, block: int = BLOCK) -> float:
    """Unbiased MMD^2 with the degree-3 polynomial kernel over *all* pairs: no subsets, no random draw.

    Args:
        x, y: features [n, d], [m, d], at least 2 rows each.

    Returns:
        The estimate; it may be slightly negative for equal distributions.
    """
    x, y = checked_pair(x, y)
    return _kid(kernel_sum_self(polynomial(), x, block)[0], x, y, block)


def _kid(off_diagonal_x: float, x: Tensor, y: Tensor, block: int = BLOCK) -> float:
    n, m = len(x), len(y)
    within_y = kernel_sum_self(polynomial(), y, block)[0] / (m * (m - 1))
    return off_diagonal_x / (n * (n - 1)) + within_y - 2 * kernel_sum(polynomial(), x, y, block) / (n * m)


def kid_subsets(
    x: Tensor, y: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float, int]:
    """The published protocol of KID: mean and standard deviation over random subsets without replacement.

    Returns:
        (mean, standard deviation, subset size used): the size is cut to min(n, m).
    """
    if subsets < 1 or subset_size < 2:
        raise UsageError(f"subsets={subsets}, subset_size={subset_size}; take at least 1 and 2")
    x, y = checked_pair(x, y)
    size = min(subset_size, len(x), len(y))
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        rows_x = torch.randperm(len(x), generator=generator)[:size].to(x.device)
        rows_y = torch.randperm(len(y), generator=generator)[:size].to(y.device)
        values.append(kid(x[rows_x], y[rows_y]))
    values = torch.tensor(values, dtype=torch.float64)
    return float(values.mean()), float(values.std(unbiased=False)), size


def mean_squared_distance(x: Tensor) -> float:
    """Mean of |x_i - x_j|^2 over all ordered pairs, the zero diagonal included: twice the biased variance."""
    x = checked(x, "real", 1)
    return 2 * float((x - x.mean(0)).square().sum()) / len(x)


def kmmd(real: Tensor, fake: Tensor, sigma: float = 1.0, block: int = BLOCK) -> float:
    """Kernel MMD of the cGANTransfer papers; see the file's docstring.

    Args:
        real, fake: features [n, d], [m, d]; the kernel's scale comes from `real` alone.
        sigma: width in units of that scale.

    Returns:
        Value in [0, sqrt(2)].

    Raises:
        DataError: non-finite features, or real images that all have the same features (no scale).
    """
    real, fake = checked_pair(real, fake, 1)
    scale = _scale(real)
    return _kmmd(sum(kernel_sum_self(gaussian(scale, sigma), real, block)), scale, real, fake, sigma, block)


def _scale(real: Tensor) -> float:
    scale = mean_squared_distance(real)
    if scale <= 0:
        raise DataError(
            f"all {len(real)} real images have equal features; KMMD takes its scale from their spread"
        )
    return scale


def _kmmd(
    within_real: float, scale: float, real: Tensor, fake: Tensor, sigma: float = 1.0, block: int = BLOCK
) -> float:
    kernel, n, m = gaussian(scale, sigma), len(real), len(fake)
    within_fake = sum(kernel_sum_self(kernel, fake, block)) / m**2
    between = kernel_sum(kernel, real, fake, block) / (n * m)
    return max(0.0, within_real / n**2 + within_fake - 2 * between) ** 0.5


@register_metric("kid")
@metric(better="lower", label="KID ({features})")
def kid_metric(comparison: Comparison) -> float:
    """Unbiased KID over all pairs."""
    x, y = checked_pair(comparison.real.features, comparison.fake.features)
    return _kid(comparison.real.remember("kid", lambda: kernel_sum_self(polynomial(), x)[0]), x, y)


@register_metric("kid_subsets")
@metric(better="lower", label="KID, 100 subsets of 1000 ({features})")
def kid_subsets_metric(comparison: Comparison) -> float:
    """KID as published: mean over 100 random subsets of 1000, fewer where there are fewer images."""
    value, _, size = kid_subsets(comparison.real.features, comparison.fake.features, seed=comparison.seed)
    if size < 1000:
        comparison.warnings.append(
            f"kid_subsets: subset size cut from 1000 to {size}, the number of images of the smaller side"
        )
    return value


@register_metric("kmmd")
@metric(better="lower", label="KMMD ({features})")
def kmmd_metric(comparison: Comparison) -> float:
    """KMMD with sigma 1."""
    real, fake = checked_pair(comparison.real.features, comparison.fake.features, 1)

    def within() -> tuple[float, float]:
        scale = _scale(real)
        return sum(kernel_sum_self(gaussian(scale), real)), scale

    return _kmmd(*comparison.real.remember("kmmd", within), real, fake)
