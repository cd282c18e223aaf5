"""MV, the mean variance of the outputs: how varied samples are, whatever they look like.

MineGAN's Table 1 sets it beside KMMD: KMMD says how near samples are to the target, MV how much they vary, larger being
more diverse. The paper's summary gives no formula. Here, in the features f(x) in R^d of the chosen extractor,

    MV = 1/d sum_j Var_i f_j(x_i),   variances unbiased, over all samples i:

the trace of the samples' covariance over d. A few images over and over can vary as much as many: recall and the
nearest training images tell that. Features have no common unit, so values compare only under one extractor;
beside each stands that of real images (the floor).
"""

from __future__ import annotations

from torch import Tensor

from gantransfer.metrics.base import Comparison, checked, metric
from gantransfer.registry import register_metric


def mean_variance(features: Tensor) -> float:
    """Mean over dimensions of the unbiased variance over rows of features [n, d], 2 rows or more; 0 or more."""
    return float(checked(features, "sample", 2).var(0, unbiased=True).mean())


@register_metric("mv")
@metric(better="higher", label="Mean variance ({features})")
def mean_variance_metric(comparison: Comparison) -> float:
    """MV of the generated images; the reference is not looked at."""
    return mean_variance(comparison.fake.features)
