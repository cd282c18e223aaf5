"""Class by class: distance, recognition and variety of the images generated for each class.

The intra-class Frechet distance follows Miyato and Koyama, cGANs with Projection Discriminator (2018),
section 4: one distance per class, then the mean. It sees confusions between classes that the overall distance
    cannot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantransfer.errors import DataError
from gantransfer.metrics.base import Comparison, FeatureSet, metric
from gantransfer.metrics.frechet import between_sets
from gantransfer.registry import register_metric


def spread(fake: Tensor, real: Tensor) -> float | None:
    """Root mean square distance between fakes over the same between reals, features [m, d] and [n, d].

    1 is as varied as the real images, near 0 one image repeated; None if the real images do not vary.
    """
    variances = [float(x.double().var(0, unbiased=True).sum()) for x in (fake, real)]
    return (variances[0] / variances[1]) ** 0.5 if variances[1] > 0 else None


def recognised(features: FeatureSet, known: list[int] | tuple[int, ...]) -> Tensor:
    """1 where the classifier's first choice is the image's class, 0 where not, NaN for unknown classes.

    Returns:
        float64 [n].
    """
    wanted = torch.tensor(list(known))[features.labels.cpu()]
    chosen = features.probabilities.argmax(1).cpu()
    return torch.where(wanted >= 0, (chosen == wanted).double(), torch.nan)


def _by_class(features: FeatureSet, count: int) -> list[FeatureSet]:
    def split() -> list[FeatureSet]:
        return [features.subset((features.labels == c).nonzero().flatten()) for c in range(count)]

    return features.remember(("by class", count), split)


def _class_distances(c: Comparison) -> list[float | None]:
    """Frechet distance of each class, None where a side has fewer than two images of it."""

    def compute() -> list[float | None]:
        pairs = zip(_by_class(c.real, len(c.classes)), _by_class(c.fake, len(c.classes)), strict=True)
        return [between_sets(r, f) if min(len(r), len(f)) >= 2 else None for r, f in pairs]

    return c.remember("class distances", compute)


@register_metric("intra_frechet")
@metric(
    better="lower",
    label="Intra-class Frechet distance ({features}), mean",
    label_inception="Intra-class FID, mean",
)
def intra_frechet(comparison: Comparison) -> float:
    """Mean of the classes' Frechet distances; classes without two images are left out and named."""
    distances = _class_distances(comparison)
    lost = [name for name, value in zip(comparison.classes, distances, strict=True) if value is None]
    if lost:
        comparison.warnings.append(
            f"intra_frechet: {len(lost)} classes have fewer than two images on one side and are left out: "
            + ", ".join(lost[:10])
        )
    kept = [value for value in distances if value is not None]
    if not kept:
        raise DataError("no class has two real and two generated images; intra_frechet needs one that has")
    return sum(kept) / len(kept)


@register_metric("accuracy")
@metric(better="higher", label="Recognised as their class ({features})", needs=("probabilities", "known"))
def accuracy(comparison: Comparison) -> float:
    """Share of fakes that the extractor's classifier puts into the class they were generated for."""
    unknown = [name for name, index in zip(comparison.classes, comparison.known, strict=True) if index < 0]
    if unknown:
        comparison.warnings.append(
            f"accuracy: left out, as unknown to the classifier ({len(unknown)} of {len(comparison.classes)} classes): "
            + ", ".join(unknown[:10])
        )
    return float(recognised(comparison.fake, comparison.known).nanmean())


@register_metric("per_class")
@metric(better="lower", label="Per class ({features})")
def per_class(comparison: Comparison) -> dict[str, dict[str, float | int | None]]:
    """For each class: frechet, accuracy (None if the classifier does not know it), spread, n_real, n_fake."""
    fakes = _by_class(comparison.fake, len(comparison.classes))
    reals = _by_class(comparison.real, len(comparison.classes))
    hits = None
    if comparison.fake.probabilities is not None:
        hits = recognised(comparison.fake, comparison.known)
    table = {}
    for c, (name, distance) in enumerate(zip(comparison.classes, _class_distances(comparison), strict=True)):
        rows = (comparison.fake.labels == c).cpu()
        judged = hits is not None and comparison.known[c] >= 0 and bool(rows.any())
        table[name] = {
            "frechet": distance,
            "accuracy": float(hits[rows].mean()) if judged else None,
            "spread": spread(fakes[c].features, reals[c].features) if distance is not None else None,
            "n_real": len(reals[c]),
            "n_fake": len(fakes[c]),
        }
    return table
