"""Frechet distance between two Gaussians fitted to features; called FID only with Inception-v3 features.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (2017), eq.
6:

    d^2 = |mu_1 - mu_2|^2 + Tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

The trace of the matrix root is computed without one. With C_1 = A^T A and C_2 = B^T B it is the nuclear norm
(sum of singular values) of A B^T, which is real by construction. For n <= d images A is the centred features
themselves, so the matrix is n x n instead of d x d. Otherwise A is a Cholesky factor (of scaled eigenvectors where a
covariance is singular), and the singular values are the roots of the eigenvalues of the symmetric A C_2 A^T: no
eigenvectors are computed, and of a covariance one half. Everything is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantransfer.errors import DataError
from gantransfer.kept_memory import kept_memory
from gantransfer.metrics.base import Comparison, FeatureSet, checked, checked_pair, metric
from gantransfer.registry import register_metric

ROWS = 1024  # rows converted to float64 at once: 16 MiB at d = 2048
BLOCK = 256  # rows of a symmetric matrix computed at once, from the diagonal on


def frechet_distance(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians.

    Args:
        mu1, mu2: means, [d].
        cov1, cov2: covariances, [d, d], symmetric and positive semi-definite up to rounding.

    Returns:
        The distance, never negative (rounding below zero is cut off).

    Raises:
        DataError: shapes that do not fit or non-finite entries.
    """
    mu1, mu2 = _finite(mu1, "mu1"), _finite(mu2, "mu2")
    cov1, cov2 = _finite(cov1, "cov1"), _finite(cov2, "cov2")
    d = mu1.numel()
    if mu1.shape != (d,) or mu2.shape != (d,) or cov1.shape != (d, d) or cov2.shape != (d, d):
        shapes = ", ".join(str(list(t.shape)) for t in (mu1, cov1, mu2, cov2))
        raise DataError(f"mu1, cov1, mu2, cov2 have shapes {shapes}; give [d], [d, d], [d], [d, d]")
    root1 = _factor_of_covariance(cov1)
    cross = _trace_of_root(root1, cov2)
    return _assemble(mu1, mu2, float(cov1.trace()), float(cov2.trace()), cross)


@kept_memory()
def frechet_distance_from_features(x: Tensor, y: Tensor) -> float:
    """Squared Frechet distance of two feature sets with unbiased covariances (division by n - 1).

    Args:
        x, y: features, [n, d] and [m, d], n and m at least 2.

    Raises:
        DataError: fewer than two rows, different d, non-finite entries.
    """
    for features, name in ((x, "real"), (y, "fake")):
        checked(features[:0], name, 0)  # shape only; values are checked in blocks below
    if x.shape[1] != y.shape[1]:
        checked_pair(x, y)
    return _between(_summary(x, "real"), _summary(y, "fake"))


def mean_and_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d, d] of features [n, d], float64, in blocks of rows."""
    x = torch.as_tensor(x).detach()
    checked(x[:2], "the", 2)
    mean = x.sum(0, dtype=torch.float64) / len(x)
    if not bool(torch.isfinite(mean).all()):  # one number that is not finite suffices for that
        checked(x, "the", 2)
    cov = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    held = cov.new_empty(min(ROWS, len(x)), len(cov))
    for rows in x.split(ROWS):
        centred = torch.sub(rows, mean, out=held[: len(rows)])
        for i in range(0, len(cov), BLOCK):
            cov[i : i + BLOCK, i:].addmm_(centred[:, i : i + BLOCK].T, centred[:, i:])
    cov /= len(x) - 1
    return mean, cov.triu() + cov.triu(1).T


class _Summary:
    """Mean, trace of the covariance C, and either a factor A with C = A^T A (n <= d) or C and its root."""

    def __init__(self, mean: Tensor, trace: float, rows: Tensor | None, cov: Tensor | None) -> None:
        self.mean, self.trace, self.rows, self.cov = mean, trace, rows, cov
        self._root: Tensor | None = None

    @property
    def root(self) -> Tensor:
        if self._root is None:
            self._root = self.rows if self.cov is None else _factor_of_covariance(self.cov)
        return self._root


def _summary(x: Tensor, name: str) -> _Summary:
    if len(x) <= x.shape[1]:
        x = checked(x, name)
        mean = x.mean(0)
        rows = (x - mean) / (len(x) - 1) ** 0.5
        return _Summary(mean, float(rows.square().sum()), rows, None)
    mean, cov = mean_and_covariance(x)
    return _Summary(mean, float(cov.trace()), None, cov)


def _between(a: _Summary, b: _Summary) -> float:
    if a.cov is not None and b.cov is not None:
        cross = _trace_of_root(a.root, b.cov)
    elif a.cov is None and b.cov is None:
        cross = float(torch.linalg.svdvals(a.root @ b.root.T).sum())
    else:  # the side with few rows gives a thin matrix whose Gram matrix is small
        rows, cov = (a.rows, b.cov) if a.cov is None else (b.rows, a.cov)
        cross = _trace_of_root(rows, cov)
    return _assemble(a.mean, b.mean, a.trace, b.trace, cross)


def _factor_of_covariance(cov: Tensor) -> Tensor:
    """A with cov = A^T A, upper triangular but for a singular covariance, of which rounding below zero is cut off."""
    upper, failed = torch.linalg.cholesky_ex(cov, upper=True)
    if not failed:
        return upper
    values, vectors = torch.linalg.eigh(cov, UPLO="U")
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def _trace_of_root(factor: Tensor, cov: Tensor) -> float:
    """Tr((A^T A C)^(1/2)): the roots of the symmetric matrix A C A^T, [rows of A, rows of A]. Zeros of a triangular A
    and the lower half of the product are left out."""
    half, inner = cov.new_empty(len(cov), len(factor)), cov.new_zeros(len(factor), len(factor))
    upper = not bool(factor.tril(-1).any())
    blocks = [(slice(i, i + BLOCK), slice(i if upper else 0, None)) for i in range(0, len(factor), BLOCK)]
    for rows, filled in blocks:
        half[:, rows] = cov[:, filled] @ factor[rows, filled].T
    for rows, filled in blocks:
        inner[rows, rows.start :] = factor[rows, filled] @ half[filled, rows.start :]
    return float(torch.linalg.eigvalsh(inner, UPLO="U").clamp(min=0).sqrt().sum())


def _assemble(mu1: Tensor, mu2: Tensor, trace1: float, trace2: float, cross: float) -> float:
    return max(0.0, float((mu1 - mu2).square().sum()) + trace1 + trace2 - 2 * cross)


def _finite(value: Tensor, name: str) -> Tensor:
    value = torch.as_tensor(value).to(torch.float64)
    if not bool(torch.isfinite(value).all()):
        raise DataError(f"{name} holds non-finite values; no distance is computed")
    return value


@kept_memory()
def between_sets(real: FeatureSet, fake: FeatureSet) -> float:
    """As `frechet_distance_from_features`, keeping the reference's moments and root for the next call."""
    summaries = [
        one.remember("moments", lambda one=one, name=name: _summary(one.features, name))
        for one, name in ((real, "real"), (fake, "fake"))
    ]
    return _between(*summaries)


@register_metric("frechet")
@metric(better="lower", label="Frechet distance ({features})", label_inception="FID")
def frechet(comparison: Comparison) -> float:
    """Squared Frechet distance between reference and fake features."""
    n, d = min(len(comparison.real), len(comparison.fake)), comparison.real.features.shape[1]
    if n <= d:
        comparison.warnings.append(
            f"frechet: {n} images for {d} feature dimensions; the distance is biased upwards, so compare it "
            "only with values at the same n (KID has no such bias)"
        )
    return between_sets(comparison.real, comparison.fake)
