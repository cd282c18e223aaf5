"""Measuring: `evaluate` compares a generator with real images and says under which protocol.

Every number comes with features, resize, numbers of images, seed and the kind of reference; beside each
stands its floor (real against real) and what the training images themselves would score. Each file of this
folder that holds a metric registers it by being here.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Sequence
from typing import Any

import torch

from gantransfer.data import ImageData
from gantransfer.errors import DataError, UsageError
from gantransfer.features import Extractor, load_features
from gantransfer.metrics import collect
from gantransfer.metrics.base import Comparison, FeatureSet, Metric, metric
from gantransfer.nearest import calibrate, nearest
from gantransfer.registry import metrics as registry

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")

__all__ = ["DEFAULT_METRICS", "Comparison", "FeatureSet", "Metric", "evaluate", "metric"]

DEFAULT_METRICS = (
    "frechet",
    "kid",
    "kmmd",
    "mv",
    "precision",
    "recall",
    "coverage",
    "intra_frechet",
    "accuracy",
    "per_class",
)
CHANCE = 0.02  # share of training images that a held-out set may hold: fonts share letters, cameras see twice


def evaluate(
    sample: collect.Sample,
    reference: ImageData | None,
    *,
    metrics: Sequence[str] | str | None = None,
    features: str | Extractor = "glyph-cnn",
    n_fake: int | None = None,
    seed: int = 0,
    training: ImageData | None = None,
    floor: bool = True,
    copies: bool = False,
    device: str | torch.device = "cpu",
    progress: collect.Progress | None = None,
) -> dict[str, Any]:
    """Compare generated images with real ones.

    Args:
        sample: (labels int64 [k], seed) -> images uint8 [k, C, H, W]; called with at most 64 labels at a
            time. It puts its generator into eval mode itself.
        reference: real images to compare with, best those that were not trained on; None takes `training`.
        metrics: names from the registry, also as one comma-separated string; None: `DEFAULT_METRICS` as far
            as the extractor can compute them.
        features: extractor, or its name with an optional path, as `gantransfer.features.load_features` takes
            it.
        n_fake: number of generated images; None: as many as the reference has, at least 1000, at most 5000.
        seed: of the generated images; the same seed gives the same result.
        training: the images that were trained on, for `training_bound` and to notice an overlap.
        floor: also compute `floor`.
        copies: also compute `copy_rate`, the part of the generated images that count as copies of training images
            (see `gantransfer.nearest`); needs `training`.
        device: where an extractor given by name computes.
        progress: called with (what, done, total).

    Returns:
        JSON-ready dict: protocol, features, n_real, n_fake, seed, reference, metrics {name: value or table},
        better {name: direction}, labels {name: name for tables}, floor and training_bound {name: value},
        floor_protocol, warnings [sentence]. `reference` is "held-out", "training images", or "given images"
        where `training` is unknown or partly in the reference. The labels of the fakes have the reference's
        class proportions. `floor` compares two disjoint halves of the reference (so at half its size: slightly
        pessimistic), `training_bound` takes the training images as if they had been generated.

    Raises:
        UsageError: unknown metric or extractor, a metric that these features cannot give, a wrong sample
            function.
        DataError: no or too few real images.
        ModelError: broken weights of the extractor, non-finite features.
    """
    with collect.untouched_rng(), torch.no_grad():
        extractor = load_features(features, device)
        warnings: list[str] = []
        reference, kind = _reference(reference, training, extractor, warnings, progress)
        real = collect.features_of_data(reference, extractor, progress)
        known = collect.known_classes(reference.classes, extractor)
        chosen = _chosen(metrics, real.probabilities is not None, known)

        n = min(max(len(real), 1000), 5000) if n_fake is None else n_fake
        if n < 2:
            raise UsageError(f"n_fake={n} generated images cannot be measured; take at least 2, better 1000")
        labels = collect.proportional_labels(real.labels, len(reference.classes), n)
        fake = collect.features_of_samples(sample, labels, seed, extractor, progress)

        def compare(a: FeatureSet, b: FeatureSet, notes: list[str]) -> dict[str, Any]:
            comparison = Comparison(a, b, reference.classes, known, seed, notes)
            values = {}
            for name, m in chosen.items():
                try:
                    values[name] = _plain(name, m.compute(comparison))
                except DataError as error:
                    if metrics is not None:
                        raise
                    notes.append(f"{m.label_for(extractor.name)} was left out ({error})")
            return values

        result = {
            "protocol": protocol(extractor, len(real), len(fake), seed, kind),
            "features": extractor.identity,
            "n_real": len(real),
            "n_fake": len(fake),
            "seed": seed,
            "reference": kind,
            "metrics": compare(real, fake, warnings),
            "better": {name: m.better for name, m in chosen.items()},
            "labels": {name: m.label_for(extractor.name) for name, m in chosen.items()},
            "floor": {},
            "training_bound": {},
            "warnings": warnings,
        }
        if copies and training is not None:
            result["copy_rate"] = _copy_rate(fake, reference, real, kind, training, extractor)
        if floor:
            _add_floor(result, real, compare)
        if training is not None and kind != "training images":
            bound = collect.features_of_data(training, extractor, progress)
            result["training_bound"] = _bound(
                bound, real, compare, tuple(chosen), reference, training, warnings
            )
        return result


def protocol(extractor: Extractor, n_real: int, n_fake: int, seed: int, reference: str) -> str:
    """The line that must be equal before two numbers may be ranked against each other."""
    return (
        f"features={extractor.identity} resize={extractor.resize} n_real={n_real} n_fake={n_fake} "
        f"seed={seed} reference={reference.replace(' ', '-')}"
    )


def _reference(
    reference: ImageData | None,
    training: ImageData | None,
    extractor: Extractor,
    warnings: list[str],
    progress: collect.Progress | None,
) -> tuple[ImageData, str]:
    """The data to compare with and what to call it; says so where copying the training images is rewarded."""
    if reference is None and training is None:
        raise UsageError("there is nothing to compare with; give reference or training images")
    copies = (
        "a generator that copies its training images is rewarded; hold images out to measure generalisation"
    )
    if reference is None or (
        training is not None and collect.fingerprint(reference) == collect.fingerprint(training)
    ):
        warnings.append(f"the reference is the training images: {copies}")
        return training if reference is None else reference, "training images"
    if training is None:
        return reference, "given images"
    overlap = collect.shared_images(
        collect.features_of_data(training, extractor, progress),
        collect.features_of_data(reference, extractor, progress),
    )
    if overlap <= CHANCE * len(training):
        return reference, "held-out"
    warnings.append(f"{overlap} of {len(training)} training images are in the reference: {copies}")
    return reference, "given images"


def _chosen(names: Sequence[str] | str | None, has_classifier: bool, known: list[int]) -> dict[str, Metric]:
    """The metrics to compute; those of the default set that these features cannot give are left out."""
    if names is None:
        default = {name: registry[name] for name in DEFAULT_METRICS}
        return {name: m for name, m in default.items() if not m.missing(has_classifier, known)}
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    chosen = {name: registry[name] for name in names}
    if not chosen:
        raise UsageError(f"no metric named; have: {', '.join(registry)}")
    for name, m in chosen.items():
        if reason := m.missing(has_classifier, known):
            raise UsageError(f"metric '{name}' cannot be computed: {reason}")
    return chosen


def _plain(name: str, value: Any) -> Any:
    """A float that JSON can hold, or a metric's table as it is."""
    if isinstance(value, dict):
        return value
    if not math.isfinite(value):
        raise DataError(f"metric '{name}' is {value}; the images are too few or too uniform for it")
    return float(value)


def _copy_rate(fake: FeatureSet, reference: ImageData, real: FeatureSet, kind: str, training: ImageData,
               extractor: Extractor) -> float:
    """Calibrated on the reference where that is held out, else on the training images among themselves."""
    bank = collect.features_of_data(training, extractor)
    held_out = real.features if kind == "held-out" else None
    key = ("calibration", kind, collect.fingerprint(reference))
    calibration = bank.remember(key, lambda: calibrate(bank.features, held_out))
    return float(calibration.copies(nearest(fake.features, bank.features)[0]).float().mean())


def _add_floor(result: dict[str, Any], real: FeatureSet, compare: Any) -> None:
    """Real against real at half the size, remembered with the reference."""

    def compute() -> dict[str, Any] | None:
        first, second = collect.halves(real.labels)
        if min(len(first), len(second)) < 8:
            return None
        try:
            values = compare(real.subset(first), real.subset(second), [])
        except DataError:
            return None
        return {"n": len(first), "values": {k: v for k, v in values.items() if not isinstance(v, dict)}}

    floor = real.remember(("floor", tuple(result["metrics"])), compute)
    if floor is None:
        result["warnings"].append(f"no floor: {len(real)} reference images are too few to halve")
        return
    result["floor"] = dict(floor["values"])
    result["floor_protocol"] = f"two disjoint halves of the reference, n={floor['n']} each"


def _bound(
    training: FeatureSet,
    real: FeatureSet,
    compare: Any,
    names: tuple[str, ...],
    reference: ImageData,
    data: ImageData,
    warnings: list[str],
) -> dict[str, Any]:
    """What the training images score against the reference (TransferGAN's lower bound), remembered."""
    if list(data.classes) != list(reference.classes):
        raise DataError(
            f"training has the classes {list(data.classes)[:5]} and the reference "
            f"{list(reference.classes)[:5]}; give both in the same order"
        )

    def compute() -> dict[str, Any] | str:
        try:
            values = compare(real, training, [])
        except DataError as error:
            return str(error)
        return {k: v for k, v in values.items() if not isinstance(v, dict)}

    bound = real.remember(("training bound", collect.fingerprint(data), names), compute)
    if isinstance(bound, str):
        warnings.append(f"no training bound: {bound}")
        return {}
    return dict(bound)
