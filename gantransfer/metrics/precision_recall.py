"""Precision, recall, density and coverage: is a sample plausible, and is everything covered?

Improved precision and recall: Kynkaanniemi et al., Improved Precision and Recall Metric for Assessing
    Generative
Models (2019), eq. 1 and 2, k = 3. Density and coverage: Naeem et al., Reliable Fidelity and Diversity Metrics
for Generative Models (2020), section 3.2, k = 5. A ball around a point reaches to its k-th nearest other
point of the same set; a point on the surface counts as inside. Computed in blocks of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantransfer.errors import UsageError
from gantransfer.metrics.base import Comparison, FeatureSet, checked, checked_pair, metric
from gantransfer.metrics.kernel import rows_at_once, squared_distances
from gantransfer.registry import register_metric

BLOCK = 1024
K_PRECISION, K_DENSITY = 3, 5


def squared_radii(x: Tensor, k: int, block: int = BLOCK) -> Tensor:
    """Squared distance of each row of x [n, d] to its k-th nearest *other* row, float64 [n]."""
    if k < 1:
        raise UsageError(f"k={k} neighbours; take at least 1")
    x = checked(x, "the", k + 1)
    radii = []
    block = rows_at_once(len(x), block)
    for start in range(0, len(x), block):
        distances = squared_distances(x[start : start + block], x)
        rows = torch.arange(len(distances), device=x.device)
        distances[rows, start + rows] = -1.0  # the point itself sorts first, whatever rounding does
        radii.append(distances.kthvalue(k + 1, dim=1).values)
    return torch.cat(radii)


def precision_recall(real: Tensor, fake: Tensor, k: int = K_PRECISION) -> tuple[float, float]:
    """Share of fakes inside the real manifold, and of reals inside the fake one; features [n, d], [m, d]."""
    real, fake = checked_pair(real, fake, k + 1)
    return (
        _inside_any(fake, real, squared_radii(real, k)),
        _inside_any(real, fake, squared_radii(fake, k)),
    )


def density_coverage(real: Tensor, fake: Tensor, k: int = K_DENSITY) -> tuple[float, float]:
    """Mean number of real balls around a fake, over k; and the share of real balls that hold a fake."""
    real, fake = checked_pair(real, fake, k + 1)
    return _density_coverage(real, fake, squared_radii(real, k), k)


def _inside_any(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = 0
    block = rows_at_once(len(centres), BLOCK)
    for start in range(0, len(points), block):
        distances = squared_distances(points[start : start + block], centres)
        inside += int((distances <= radii).any(1).sum())
    return inside / len(points)


def _density_coverage(real: Tensor, fake: Tensor, radii: Tensor, k: int) -> tuple[float, float]:
    balls, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    block = rows_at_once(len(real), BLOCK)
    for start in range(0, len(fake), block):
        inside = squared_distances(fake[start : start + block], real) <= radii
        balls += int(inside.sum())
        covered |= inside.any(0)
    return balls / (k * len(fake)), float(covered.double().mean())


def _radii(features: FeatureSet, k: int) -> Tensor:
    return features.remember(("radii", k), lambda: squared_radii(features.features, k))


def _density_coverage_of(c: Comparison) -> tuple[float, float]:
    real, fake = checked_pair(c.real.features, c.fake.features, K_DENSITY + 1)
    return c.remember(
        "density_coverage", lambda: _density_coverage(real, fake, _radii(c.real, K_DENSITY), K_DENSITY)
    )


@register_metric("precision")
@metric(better="higher", label="Precision ({features})")
def precision_metric(comparison: Comparison) -> float:
    """Share of fakes that look real, k = 3."""
    real, fake = checked_pair(comparison.real.features, comparison.fake.features, K_PRECISION + 1)
    return _inside_any(fake, real, _radii(comparison.real, K_PRECISION))


@register_metric("recall")
@metric(better="higher", label="Recall ({features})")
def recall_metric(comparison: Comparison) -> float:
    """Share of reals that the fakes reach, k = 3."""
    real, fake = checked_pair(comparison.real.features, comparison.fake.features, K_PRECISION + 1)
    return _inside_any(real, fake, _radii(comparison.fake, K_PRECISION))


@register_metric("density")
@metric(better="higher", label="Density ({features})")
def density_metric(comparison: Comparison) -> float:
    """Number of real neighbourhoods around a fake, relative to what a real image has; may exceed 1; k = 5."""
    return _density_coverage_of(comparison)[0]


@register_metric("coverage")
@metric(better="higher", label="Coverage ({features})")
def coverage_metric(comparison: Comparison) -> float:
    """Share of real neighbourhoods that hold a fake, k = 5."""
    return _density_coverage_of(comparison)[1]
