"""From images to `FeatureSet`: the reference (remembered), the generated images, halves for the floor."""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from gantransfer.data import ImageData
from gantransfer.errors import DataError, UsageError
from gantransfer.features import Extractor, check_images
from gantransfer.metrics.base import FeatureSet

CHUNK = 64  # images per call of `sample`: part of the protocol, since each call has its own seed
READ = 512  # real images decoded at once
KEEP = 6  # reference sets remembered; 50,000 x 2048 features are 400 MB

Sample = Callable[[Tensor, int], Tensor]
Progress = Callable[[str, int, int], None]

_references: OrderedDict[tuple[str, str], FeatureSet] = OrderedDict()
_fingerprints: WeakKeyDictionary[ImageData, str] = WeakKeyDictionary()


def forget() -> None:
    """Drop all remembered reference features."""
    _references.clear()


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Give back torch's, NumPy's and Python's global random states as they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def fingerprint(data: ImageData) -> str:
    """`data.fingerprint`, which reads every image, once per object."""
    if data not in _fingerprints:
        _fingerprints[data] = data.fingerprint
    return _fingerprints[data]


def features_of_data(data: ImageData, extractor: Extractor, progress: Progress | None = None) -> FeatureSet:
    """Features of all images of `data`, remembered under (fingerprint, extractor identity)."""
    key = (fingerprint(data), extractor.identity)
    if key not in _references:
        parts = []
        for start in range(0, len(data), READ):
            stop = min(start + READ, len(data))
            images = data.images(torch.arange(start, stop))
            parts.append(_extract(images, data.labels[start:stop], extractor))
            if progress:
                progress("real images", stop, len(data))
        _references[key] = _join(parts)
        while len(_references) > KEEP:
            _references.popitem(last=False)
    _references.move_to_end(key)
    return _references[key]


def features_of_samples(
    sample: Sample, labels: Tensor, seed: int, extractor: Extractor, progress: Progress | None = None
) -> FeatureSet:
    """Features of generated images; chunk i of 64 labels is drawn with a seed made from (seed, i)."""
    parts = []
    for number, chunk in enumerate(labels.split(CHUNK)):
        images = sample(chunk, chunk_seed(seed, number))
        check_images(images)
        if len(images) != len(chunk):
            raise UsageError(
                f"sample gave {len(images)} images for {len(chunk)} labels; it must give one per label"
            )
        parts.append(_extract(images, chunk, extractor))
        if progress:
            progress("generated images", min((number + 1) * CHUNK, len(labels)), len(labels))
    return _join(parts)


def chunk_seed(seed: int, number: int) -> int:
    """A seed in [0, 2^31) for chunk `number` that differs between runs with neighbouring seeds."""
    return int(np.random.SeedSequence([seed & 0xFFFFFFFF, number]).generate_state(1)[0]) >> 1


def proportional_labels(labels: Tensor, classes: int, n: int) -> Tensor:
    """int64 [n]: the classes in the proportions of `labels`, evenly interleaved; a pure function.

    Shares are rounded by largest remainder, ties to the lower class.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    exact = counts / counts.sum() * n
    wanted = exact.floor().long()
    order = torch.argsort(exact - wanted, descending=True, stable=True)
    wanted[order[: n - int(wanted.sum())]] += 1
    out = torch.repeat_interleave(torch.arange(classes), wanted)
    place = torch.cat([(torch.arange(int(k)) + 0.5) / max(int(k), 1) for k in wanted])
    return out[torch.argsort(place, stable=True)]


def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of two disjoint halves with the same number of images of every class; a fixed random split."""
    rng = torch.Generator().manual_seed(0)
    first, second = [], []
    for c in labels.unique().tolist():
        rows = (labels == c).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=rng)]
        first.append(rows[: len(rows) // 2])
        second.append(rows[len(rows) // 2 : len(rows) // 2 * 2])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def shared_images(a: FeatureSet, b: FeatureSet) -> int:
    """How many images of `a` are in `b`, pixel by pixel."""
    there = set(b.digests)
    return sum(digest in there for digest in a.digests)


def known_classes(classes: Sequence[str], extractor: Extractor) -> list[int]:
    """For each class name its index in the extractor's classifier, -1 where it is unknown."""
    index = {name: i for i, name in enumerate(extractor.classes)}
    return [index.get(name, -1) for name in classes]


def _extract(images: Tensor, labels: Tensor, extractor: Extractor) -> FeatureSet:
    features, probabilities = extractor(images)
    # The metrics are computed on the CPU: in float64, the same numbers everywhere, and cheap beside the networks.
    features, probabilities = features.cpu(), None if probabilities is None else probabilities.cpu()
    digests = tuple(hashlib.blake2b(i.tobytes(), digest_size=16).digest() for i in images.cpu().numpy())
    return FeatureSet(features, labels.cpu().long(), probabilities, digests)


def _join(parts: list[FeatureSet]) -> FeatureSet:
    if not parts:
        raise DataError("there are no images to measure; give at least two")

    def together(name: str) -> Any:
        return torch.cat([getattr(p, name) for p in parts])

    probabilities = None if parts[0].probabilities is None else together("probabilities")
    digests = tuple(d for p in parts for d in p.digests)
    return FeatureSet(together("features"), together("labels"), probabilities, digests)
