"""What a metric is: a function of two sets of features, and which direction is better.

A metric is one file beside this one::

    @register_metric("name")
    @metric(better="lower", label="My distance ({features})")
    def my_metric(comparison: Comparison) -> float: ...

It gets real and fake features, labels and class probabilities, never images or networks, so every metric
works with every feature extractor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from gantransfer.errors import DataError, UsageError

T = TypeVar("T")
BETTER = ("lower", "higher")


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of one set of images.

    Attributes:
        features: float32 [n, d].
        labels: int64 [n], indices into the classes of the data set that was measured.
        probabilities: float32 [n, k] from the extractor's own classifier, or None where it has none.
        digests: one short hash per image (bytes), to see which images two sets share; empty when unknown.
    """

    features: Tensor
    labels: Tensor
    probabilities: Tensor | None = None
    digests: tuple[bytes, ...] = ()
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.features)

    def remember(self, key: Any, compute: Callable[[], T]) -> T:
        """`compute()` once per set and key: what depends on the reference alone is not computed twice."""
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]

    def subset(self, indices: Tensor) -> FeatureSet:
        """The images at `indices` (int64 [m]) as a set of their own."""
        indices = indices.cpu()
        rows = indices.to(self.features.device)
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        digests = tuple(self.digests[i] for i in indices.tolist()) if self.digests else ()
        return FeatureSet(self.features[rows], self.labels[indices], probabilities, digests)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a metric may look at.

    Attributes:
        real, fake: the two sets; the reference is `real`.
        classes: names of the labels.
        known: for each class its index in the extractor's classifier, or -1 if the classifier does not know
            it.
        seed: for metrics that draw subsets.
        warnings: a metric appends a sentence here when it had to deviate from what its name promises.
    """

    real: FeatureSet
    fake: FeatureSet
    classes: Sequence[str] = ("all",)
    known: Sequence[int] = (-1,)
    seed: int = 0
    warnings: list[str] = field(default_factory=list)
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    def remember(self, key: Any, compute: Callable[[], T]) -> T:
        """`compute()` once per comparison and key, for metrics that share a computation."""
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        compute: Comparison -> float, or a table {class: {name: float}}.
        better: ``"lower"`` or ``"higher"``.
        label: for tables; ``{features}`` stands for the extractor's name.
        label_inception: the label where the features are the published Inception-v3's, if it differs.
        needs: any of ``"probabilities"`` (the extractor must classify) and ``"known"`` (and must know at
            least one of the classes by name).
    """

    compute: Callable[[Comparison], Any]
    better: str
    label: str
    label_inception: str = ""
    needs: tuple[str, ...] = ()

    def label_for(self, extractor_name: str) -> str:
        """The metric's name in tables for an extractor: only Inception-v3 features make a distance an FID."""
        if extractor_name == "inception" and self.label_inception:
            return self.label_inception
        return self.label.format(features=extractor_name)

    def missing(self, has_classifier: bool, known: Sequence[int]) -> str:
        """Why this metric cannot be computed here, or an empty string."""
        if "probabilities" in self.needs and not has_classifier:
            return "these features have no classifier; features='glyph-cnn' and 'inception:PATH' have one"
        if "known" in self.needs and all(index < 0 for index in known):
            return "the classifier knows none of these classes by name"
        return ""


def metric(
    *, better: str, label: str, label_inception: str = "", needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Comparison], Any]], Metric]:
    """Decorator that turns a function of a `Comparison` into a `Metric`."""
    if better not in BETTER:
        raise UsageError(f"better={better!r} is not a direction; write one of {', '.join(BETTER)}")

    def wrap(compute: Callable[[Comparison], Any]) -> Metric:
        return Metric(compute, better, label, label_inception, needs)

    return wrap


def checked(features: Tensor, name: str, at_least: int = 2) -> Tensor:
    """`features` as float64 [n, d], after refusing other shapes, too few rows and non-finite values.

    Raises:
        DataError: not [n, d], fewer than `at_least` rows, NaN or infinite entries.
    """
    features = torch.as_tensor(features)
    if features.ndim != 2:
        raise DataError(f"{name} features have shape {list(features.shape)}; give [images, dimensions]")
    if len(features) < at_least:
        raise DataError(f"{name}: {len(features)} images are too few; this metric needs at least {at_least}")
    bad = int((~torch.isfinite(features)).sum())
    if bad:
        raise DataError(
            f"{name} features hold {bad} non-finite values in {len(features)} images; the images or the "
            "network that made the features are broken, so no distance is computed"
        )
    return features.to(torch.float64)


def checked_pair(real: Tensor, fake: Tensor, at_least: int = 2) -> tuple[Tensor, Tensor]:
    """Both feature sets through `checked`, with the same number of dimensions."""
    real, fake = checked(real, "real", at_least), checked(fake, "fake", at_least)
    if real.shape[1] != fake.shape[1]:
        raise DataError(
            f"real features have {real.shape[1]} dimensions and fake ones {fake.shape[1]}; take both from "
            "the same extractor"
        )
    return real, fake
