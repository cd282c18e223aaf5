"""ImageData: labelled images of one size, scanned before use, in an order that is a pure function of (seed, step).

Reading is in `imagefiles`, the meaning of names in `layout`, decoding in `decoding`, the scan in `scan`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantransfer.decoding import FITS
from gantransfer.errors import DataError, UsageError
from gantransfer.layout import Entry, choose_classes, list_images
from gantransfer.order import permutation, shuffled
from gantransfer.scan import Progress, Store, report, scan

LISTED = 20  # bad files in an error message
UNLABELLED = "all"  # the class name of images without classes


def to_float(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] to float32 in [-1, 1], what the networks take."""
    return images.to(torch.float32) / 127.5 - 1


class ImageData:
    """Images of one size with class labels, from a folder, a zip, a Hugging Face data set or a shipped name.

    Layouts: ``<class>/<image>``, ``{train,val,test}/<class>/<image>``, or images alone (flat). All images of the
    chosen classes are decoded once here, and every bad file is found at once.

    Args:
        path: folder, ``.zip``, ``hf:NAME[:SPLIT]`` or a shipped name (``cyrillic10``).
        size: pixels of the square result; None: the shortest side in the data.
        channels: 1 or 3; None: 1 if every image is grey.
        fit: "crop" | "pad" (with white) | "stretch" for images that are not square.
        per_class: keep so many of each class, the same ones for the same seed whatever other classes there are.
        classes: names in the order wanted, as a list or with commas, or a class set of dataset.json.
        seed: of the choice that `per_class` makes.
        split: "train", "val", "test" or "all"; without splits in the layout everything is "train".
        class_name: the class of a flat layout; None leaves it unlabelled (`labelled` False, classes ["all"]).
        on_bad: "error" lists the bad files and stops, "skip" leaves them out and counts them.
        allow_tiny: accept classes of one image.
        progress: called as progress(images scanned, images in all).

    Attributes:
        classes: names, in the order requested or sorted.
        labels: int64 [n], indices into `classes`.
        labelled: False for a flat layout without `class_name`.

    Raises:
        DataError: missing, empty, wrongly laid out, bad or too few images; once the scan is done, the error has
            the whole report as its attribute `report`.
        UsageError: an unknown class or an option out of range.
    """

    classes: list[str]
    labels: Tensor
    labelled: bool
    _with_labels: ImageData | None = None  # of an `unlabelled` view, what it is a view of

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: int | None = None,
        channels: int | None = None,
        fit: str = "crop",
        per_class: int | None = None,
        classes: str | Iterable[str] | None = None,
        seed: int = 0,
        split: str = "train",
        class_name: str | None = None,
        on_bad: str = "error",
        allow_tiny: bool = False,
        progress: Progress | None = None,
    ) -> None:
        _check_options(size, channels, fit, per_class, split, on_bad)
        listing = list_images(path)
        if class_name is not None and listing.labelled:
            raise UsageError(
                f"class name '{class_name}' is for images without class folders, and '{path}' has them: drop it"
            )
        if not listing.labelled:
            label = UNLABELLED if class_name is None else class_name
            listing.entries = [Entry(entry.name, label, entry.split) for entry in listing.entries]
        self.labelled = listing.labelled or class_name is not None
        self.classes = choose_classes(listing, classes)
        if split in ("val", "test") and not any(entry.split for entry in listing.entries):
            raise DataError(f"'{path}' has no split folders, so no '{split}' images: choose train or all")
        wanted = set(self.classes)
        entries = [entry for entry in listing.entries if entry.label in wanted]
        self._settings: dict[str, Any] = {
            "path": os.fspath(path),
            "fit": fit,
            "per_class": per_class,
            "seed": seed,
            "split": split,
            "on_bad": on_bad,
            "class_name": class_name,
            "allow_tiny": allow_tiny,
        }
        self._store: Store = scan(listing, entries, size, channels, fit, progress)
        self._choose(split, per_class, seed)
        self._refuse_bad()
        self._refuse_small(allow_tiny)

    def _choose(self, split: str, per_class: int | None, seed: int) -> None:
        """Set what of the store is used, and keep aside what `per_class` leaves over."""
        entries = self._store.entries
        of_class: dict[str, list[int]] = {name: [] for name in self.classes}
        for index, entry in enumerate(entries):
            if split == "all" or (entry.split or "train") == split:
                of_class[entry.label].append(index)
        used: list[int] = []
        left: list[int] = []
        for name, mine in of_class.items():
            if per_class is not None:
                mine = shuffled(mine, self._name, seed, name)
                left += mine[per_class:]
                mine = sorted(mine[:per_class])
            used += mine
        self._use(used, left)

    def _name(self, index: int) -> str:
        return self._store.entries[index].name

    def _use(self, indices: Sequence[int], left: Sequence[int]) -> None:
        rank = {name: label for label, name in enumerate(self.classes)}
        self._indices, self._left = list(indices), list(left)
        labels = [rank[self._store.entries[index].label] for index in indices]
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def _refuse_bad(self) -> None:
        bad, good = self._store.findings.bad, len(self._store.entries)
        if not bad or (good and self._settings["on_bad"] == "skip"):
            return
        first = "; ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:LISTED])
        more = f", the first {LISTED} ('gantransfer data check' lists all)" if len(bad) > LISTED else ""
        way_out = "repair or remove them, or skip them with --on-bad skip" if good else "no readable image is left"
        raise self._error(
            f"{len(bad)} of {len(bad) + good} images in '{self._settings['path']}' cannot be used{more}: {first}; "
            f"{way_out}"
        )

    def _refuse_small(self, allow_tiny: bool) -> None:
        counts, where = self.per_class_counts(), f"'{self._settings['path']}'"
        empty = [name for name in self.classes if counts[name] == 0]
        if empty:
            raise self._error(
                f"class '{empty[0]}' in {where} has no readable image ({len(empty)} such classes): add images, "
                "remove the folder, or choose other classes with --classes"
            )
        tiny = [name for name in self.classes if counts[name] == 1]
        if tiny and not allow_tiny:
            raise self._error(
                f"class '{tiny[0]}' in {where} has only one image ({len(tiny)} such classes), and nothing but a copy "
                "can be learnt from it: use 2 or more, or insist with --allow-tiny"
            )

    def _error(self, message: str) -> DataError:
        error = DataError(message)
        error.report = self.report  # type: ignore[attr-defined]
        return error

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make the same `ImageData` again."""
        if self._with_labels is not None:
            return self._with_labels.settings
        classes = self.classes if self.labelled and self._settings["class_name"] is None else None
        return {**self._settings, "classes": classes, "size": self.size, "channels": self.channels}

    @property
    def size(self) -> int:
        """Side of the square images in pixels."""
        return self._store.size

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self._store.channels

    @property
    def paths(self) -> list[str]:
        """Names of the images, relative to the data's root."""
        return [self._name(index) for index in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __repr__(self) -> str:
        shape = f"{self.channels} x {self.size} x {self.size}"
        path = self._settings["path"]
        return f"ImageData({path!r}: {len(self)} images of {shape}, {len(self.classes)} classes)"

    def images(self, indices: Iterable[int] | Tensor | None = None) -> Tensor:
        """uint8 [k, C, H, W] of the images at `indices` (None: all)."""
        if indices is None:
            return self._store.get(self._indices)
        if isinstance(indices, Tensor):
            indices = indices.tolist()
        return self._store.get([self._indices[int(index)] for index in indices])

    def batch(self, batch_number: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images of one step, a pure function of the arguments: nothing has to be stored to resume.

        Position p = batch_number * batch_size + i is image perm(seed, p // n)[p % n]: each epoch shows every
        image once, and a batch may be larger than the set.

        Returns:
            (images uint8 [B, C, H, W], labels int64 [B], indices int64 [B]).
        """
        picked: list[np.ndarray] = []
        position, end = batch_number * batch_size, (batch_number + 1) * batch_size
        while position < end:
            epoch, offset = divmod(position, len(self))
            picked.append(permutation(len(self), seed, epoch)[offset : offset + end - position])
            position += len(picked[-1])
        indices = torch.from_numpy(np.concatenate(picked))
        return self.images(indices), self.labels[indices], indices

    def _view(self, classes: Sequence[str], indices: list[int], left: Sequence[int], split: str) -> ImageData:
        """Other images or classes of the same store, ordered by class and then by name."""
        view = object.__new__(ImageData)
        view.__dict__.update(self.__dict__)
        view.classes, view._settings = list(classes), {**self._settings, "split": split}
        rank = {name: label for label, name in enumerate(classes)}
        view._use(sorted(indices, key=lambda i: (rank[self._store.entries[i].label], i)), left)
        return view

    def held_out(self, part: str) -> ImageData | None:
        """Images kept from training: "select" to choose a checkpoint by, "report" for the number reported.

        They are the layout's val and test splits; if it has one of them, that one halved; without them the images
        that `per_class` left over, halved. None when nothing is left, or when this is no training split.
        """
        if part not in ("select", "report"):
            raise UsageError(f"held-out part '{part}' is unknown: choose select or report")
        if self._with_labels is not None:
            found = self._with_labels.held_out(part)
            return None if found is None else found.unlabelled()
        if self._settings["split"] != "train":
            return None
        entries, wanted = self._store.entries, set(self.classes)
        mine = [index for index, entry in enumerate(entries) if entry.label in wanted]
        val = [index for index in mine if entries[index].split == "val"]
        test = [index for index in mine if entries[index].split == "test"]
        if val and test:
            chosen = val if part == "select" else test
        else:
            pool, chosen = val or test or self._left, []
            for name in self.classes:
                of_class = (index for index in pool if entries[index].label == name)
                # Another order than the one that chose the training images, so that the halves are alike.
                halves = shuffled(of_class, self._name, self._settings["seed"], f"held-out:{name}")
                chosen += halves[part == "report" :: 2]
        return self._view(self.classes, chosen, [], part) if chosen else None

    def unlabelled(self) -> ImageData:
        """The same images as one class, as in a flat layout; `settings` stay those of the labelled ones."""
        view = object.__new__(ImageData)
        view.__dict__.update(self.__dict__)
        view._with_labels, view.labelled, view.classes = self._with_labels or self, False, [UNLABELLED]
        view.labels = torch.zeros_like(self.labels)
        return view

    def class_subset(self, names: str | Sequence[str]) -> ImageData:
        """The same data with only the classes `names`, in that order; labels are numbered anew."""
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in self.classes]
        if unknown or not names or len(set(names)) < len(names):
            raise UsageError(
                f"classes {unknown or names} are not distinct classes of the data: choose from "
                f"{', '.join(self.classes)}"
            )
        entries = self._store.entries
        used, left = ([i for i in part if entries[i].label in names] for part in (self._indices, self._left))
        return self._view(names, used, left, self._settings["split"])

    def per_class_counts(self) -> dict[str, int]:
        """Number of images of each class."""
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    @property
    def report(self) -> dict[str, Any]:
        """What the scan found, JSON-serialisable; its keys are listed in `scan.report`."""
        return report(self._store, self.per_class_counts(), self._settings, self.labelled)

    @property
    def fingerprint(self) -> str:
        """sha256 over the decoded images, the labels and the class names."""
        digest = hashlib.sha256(repr((self.classes, self.channels, self.size)).encode())
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        for start in range(0, len(self), 256):
            digest.update(self.images(range(start, min(start + 256, len(self)))).numpy().tobytes())
        return digest.hexdigest()


def _check_options(
    size: int | None, channels: int | None, fit: str, per_class: int | None, split: str, on_bad: str
) -> None:
    """Refuse options outside their ranges."""
    checks = (
        ("size", size, size is None or 1 <= size <= 4096, "1 to 4096 pixels"),
        ("channels", channels, channels in (None, 1, 3), "1 or 3"),
        ("fit", fit, fit in FITS, ", ".join(FITS)),
        ("per-class", per_class, per_class is None or per_class >= 1, "1 or more"),
        ("split", split, split in ("train", "val", "test", "all"), "train, val, test or all"),
        ("on-bad", on_bad, on_bad in ("error", "skip"), "error or skip"),
    )
    for name, value, good, allowed in checks:
        if not good:
            raise UsageError(f"{name} '{value}' is not possible: choose {allowed}")
