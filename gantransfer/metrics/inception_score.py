"""Inception Score: sharp and varied predictions of a classifier.

Salimans et al., Improved Techniques for Training GANs (2016), section 4: exp(E_x KL(p(y|x) || p(y))), with
p(y) the mean prediction. As published it is taken over splits of the images in order and averaged. The name
is only right for the published Inception-v3; with another classifier the same formula is labelled with that
classifier's name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantransfer.errors import DataError, UsageError
from gantransfer.metrics.base import Comparison, checked, metric
from gantransfer.registry import register_metric


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """Mean and (population) standard deviation of the score over `splits` consecutive parts.

    Args:
        probabilities: [n, k], rows sum to 1; zeros are allowed (0 log 0 = 0).
        splits: number of parts of n // splits images; the n mod splits last images are left out, as in the
            published codes.

    Returns:
        (mean, std), the mean in [1, k].

    Raises:
        UsageError: fewer images than splits.
        DataError: rows that are not probabilities.
    """
    p = checked(probabilities, "probability", 1)
    if not 1 <= splits <= len(p):
        raise UsageError(f"splits={splits} for {len(p)} images; take between 1 and the number of images")
    if bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones_like(p[:, 0]), atol=1e-3):
        raise DataError("probabilities must be non-negative and sum to 1 per row; apply a softmax first")
    size = len(p) // splits
    scores = torch.stack([_score(p[i * size : (i + 1) * size]) for i in range(splits)])
    return float(scores.mean()), float(scores.std(unbiased=False))


def _score(p: Tensor) -> Tensor:
    divergence = torch.xlogy(p, p) - torch.xlogy(p, p.mean(0, keepdim=True))
    return divergence.sum(1).mean().exp()


@register_metric("inception_score")
@metric(
    better="higher",
    label="Inception Score formula ({features})",
    label_inception="Inception Score",
    needs=("probabilities",),
)
def inception_score_metric(comparison: Comparison) -> float:
    """Mean over 10 splits of the fake images; the reference is not looked at."""
    probabilities = comparison.fake.probabilities
    splits = min(10, len(probabilities))
    if splits < 10:
        comparison.warnings.append(f"inception_score: {splits} splits instead of 10 for {splits} images")
    return inception_score(probabilities, splits)[0]
