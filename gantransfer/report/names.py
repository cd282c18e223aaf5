"""Plain names and one-line explanations of the metrics; an unknown metric keeps its own name."""

from __future__ import annotations

from collections.abc import Iterable

METRICS = {
    "frechet": ("Fréchet distance", "distance of means and covariances of features"),
    "kid": ("KID", "unbiased kernel distance of features (cubic kernel); may fall below 0"),
    "kmmd": ("KMMD", "Gaussian kernel distance of features, sigma 1, as in the papers"),
    "mv": ("Mean variance", "of the samples' features: larger is more varied; the floor is real images'"),
    "inception_score": ("Inception Score", "confident and varied predictions of the classifier"),
    "kid_subsets": ("KID of subsets", "mean over random subsets, as published figures have it"),
    "intra_frechet": ("Fréchet distance within classes", "mean over classes; sees confusions between them"),
    "precision": ("Precision", "share of samples that lie among the real images"),
    "recall": ("Recall", "share of real images that lie among the samples"),
    "density": ("Density", "how densely real images surround the samples"),
    "coverage": ("Coverage", "share of real images with a sample nearby"),
    "accuracy": ("Recognised", "share of samples the classifier takes for their class"),
    "spread": ("Variety", "1 is as varied as the real images, near 0 one image repeated"),
    "n_real": ("Real images", ""),
    "n_fake": ("Samples", ""),
}


def metric_name(key: str, label: object = None) -> str:
    """``frechet`` -> ``Fréchet distance``. The recorded label counts for unknown metrics, and where it says FID:
    only the published Inception features earn that name."""
    if key in METRICS and "FID" not in str(label):
        return METRICS[key][0]
    return str(label or key)


def metric_note(key: str) -> str:
    """What the metric measures, or an empty string."""
    return METRICS.get(key, ("", ""))[1]


def metric_order(keys: Iterable[str]) -> list[str]:
    """Known metrics in the table's order, then the others by name."""
    known = list(METRICS)
    return sorted(keys, key=lambda k: (known.index(k) if k in known else len(known), str(k)))
