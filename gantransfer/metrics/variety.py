"""Variety within the classes, as a part of the real images': the figure by which a collapse of diversity is noticed.

In the features f(x) of the chosen extractor, with each image's distance to the mean of its class,

    variety = sqrt( mean_i |f(g_i) - m_g(y_i)|^2 / mean_i |f(x_i) - m(y_i)|^2 ),   means unbiased, pooled over classes.

1 is as varied as the real images, near 0 one image per class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantransfer.errors import DataError
from gantransfer.metrics.base import Comparison, FeatureSet, checked, metric
from gantransfer.registry import register_metric


def within_classes(features: Tensor, labels: Tensor) -> float:
    """The pooled variance of features [n, d] around the means of their classes, labels int64 [n], summed over
    dimensions; DataError where no class has two images."""
    features = checked(features, "class", 2)
    classes, rows = labels.unique(return_inverse=True)
    if len(features) == len(classes):
        raise DataError("no class has two images, so their variety is not known")
    counts = torch.bincount(rows).double()
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64).index_add_(0, rows, features)
    rest = features - (sums / counts[:, None])[rows]
    return float(rest.square().sum() / (len(features) - len(classes)))


@register_metric("variety")
@metric(better="higher", label="Variety within classes ({features}), real images 1")
def variety(comparison: Comparison) -> float:
    """See the head of this file; 1 where the real images of each class are all alike, which leaves nothing to lose."""
    real: FeatureSet = comparison.real
    whole = real.remember("within classes", lambda: within_classes(real.features, real.labels))
    if whole <= 0:
        return 1.0
    return (within_classes(comparison.fake.features, comparison.fake.labels) / whole) ** 0.5
