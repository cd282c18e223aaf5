"""ImageData: labelled images of one size, scanned before use, in an order that is a pure function of (seed, step).

Reading and layouts are in `imagefiles`, decoding in `decoding`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantransfer.decoding import FITS, BadImage, decode, fit_image, probe
from gantransfer.errors import DataError, UsageError
from gantransfer.imagefiles import Entry, Listing, choose_classes, list_images

MEMORY_LIMIT = 1 << 30  # bytes of uint8 pixels held in memory; larger sets are decoded when asked for
UNLABELLED = "all"


def to_float(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] to float32 in [-1, 1], what the networks take."""
    return images.to(torch.float32) / 127.5 - 1


@dataclass
class _Store:
    """All readable images of the chosen classes and all splits, shared by the views of them."""

    listing: Listing
    entries: list[Entry]
    size: int
    channels: int
    fit: str
    pixels: Tensor | None  # uint8 [n, C, H, W], None when too large
    scan: dict[str, Any]

    def get(self, indices: Sequence[int]) -> Tensor:
        """uint8 [k, C, H, W] of the entries at `indices`."""
        if self.pixels is not None:
            return self.pixels[torch.as_tensor(indices, dtype=torch.int64)]
        out = torch.empty(len(indices), self.channels, self.size, self.size, dtype=torch.uint8)
        for row, index in enumerate(indices):
            name = self.entries[index].name
            try:
                image, _, _ = decode(self.listing.files.read(name))
            except (BadImage, OSError) as error:
                raise DataError(f"image '{name}' could be read at the scan and cannot now ({error})") from error
            out[row] = torch.tensor(fit_image(image, self.size, self.fit, self.channels))
        return out


def _scan(
    listing: Listing,
    entries: list[Entry],
    size: int | None,
    channels: int | None,
    fit: str,
    progress: Callable[[int, int], None] | None,
) -> _Store:
    """Decode every image once: find the bad ones, count modes and sizes, keep the pixels if they fit."""
    bad: dict[str, str] = {}

    def read(name: str) -> bytes:
        try:
            return listing.files.read(name)
        except Exception as error:  # broken archives raise zlib's, zipfile's and the system's errors
            raise BadImage(f"cannot be read ({error})") from error

    said = []
    if size is None or channels is None:
        heads = []
        for entry in entries:
            try:
                heads.append(probe(read(entry.name)))
            except BadImage as error:
                bad[entry.name] = str(error)
        if channels is None:
            channels = 1 if heads and all(grey for _, _, grey in heads) else 3
        if size is None:
            size = min((min(w, h) for w, h, _ in heads), default=1)
            if {(w, h) for w, h, _ in heads} - {(size, size)}:
                said.append(f"no size was given: {size} px, the shortest side there is")
    sizes, modes, notes = Counter[str](), Counter[str](), Counter[str]()
    fits_memory = len(entries) * channels * size * size <= MEMORY_LIMIT
    pixels = torch.empty(len(entries) if fits_memory else 0, channels, size, size, dtype=torch.uint8)
    kept: list[Entry] = []
    same: dict[bytes, list[str]] = {}
    for done, entry in enumerate(entries, 1):
        if entry.name not in bad:
            try:
                image, mode, how = decode(read(entry.name))
                fitted = fit_image(image, size, fit, channels)
            except BadImage as error:
                bad[entry.name] = str(error)
            else:
                if fits_memory:
                    pixels[len(kept)] = torch.tensor(fitted)
                kept.append(entry)
                sizes[f"{image.width}x{image.height}"] += 1
                modes[mode] += 1
                notes.update(how)
                notes[f"resized to {size} x {size} ({fit})"] += image.size != (size, size)
                notes["grey repeated in 3 channels"] += channels == 3 and image.mode == "L"
                notes["colour converted to grey"] += channels == 1 and image.mode == "RGB"
                content = hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).digest()
                same.setdefault(content, []).append(entry.name)
        if progress:
            progress(done, len(entries))
    said += [f"{count} of {len(kept)} images: {note}" for note, count in sorted(notes.items()) if count]
    scan = {
        "sizes": dict(sizes.most_common()),
        "modes": dict(modes.most_common()),
        "duplicates": sorted(sorted(names) for names in same.values() if len(names) > 1),
        "bad": [{"path": name, "reason": bad[name]} for name in sorted(bad)],
        "conversions": said,
    }
    pixels = pixels[: len(kept)] if fits_memory else None
    return _Store(listing, kept, size, channels, fit, pixels, scan)


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n images in one epoch. Philox is counter-based: its raw output is fixed by its definition."""
    key = int.from_bytes(hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()[:16], "little")
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def _shuffled(entries: Sequence[Entry], indices: Iterable[int], seed: int, label: str) -> list[int]:
    """`indices` of one class in the order of a hash of (seed, class, file name): no generator to drift."""

    def key(index: int) -> str:
        name = entries[index].name.rpartition("/")[2]
        return hashlib.sha256(f"{seed}:{label}:{name}".encode()).hexdigest()

    return sorted(indices, key=key)


class ImageData:
    """Images of one size with class labels, from a folder, a zip, a Hugging Face data set or a shipped name.

    Layouts: ``<class>/<image>``, ``{train,val,test}/<class>/<image>``, or images alone (flat). All images of the
    chosen classes are decoded once here; every bad file is found at once.

    Args:
        path: folder, ``.zip``, ``hf:NAME[:SPLIT]`` or a shipped name (``cyrillic10``).
        size: pixels of the square result; None: the shortest side in the data.
        channels: 1 or 3; None: 1 if every image is grey.
        fit: "crop" | "pad" (with white) | "stretch" for images that are not square.
        per_class: keep only so many of each class, the same ones for the same seed, whatever other classes are there.
        classes: names in the order wanted, as a list or with commas, or the name of a class set of dataset.json.
        seed: of the choice made by `per_class`.
        split: "train", "val", "test" or "all"; without splits in the layout everything is "train".
        class_name: the class of a flat layout; None leaves it unlabelled (`labelled` False, classes ``["all"]``).
        on_bad: "error" lists the bad files and stops, "skip" leaves them out and counts them.
        allow_tiny: accept classes of one image.
        progress: called as progress(images scanned, images in all).

    Attributes:
        classes: names, in the order requested or sorted. labels: int64 [n]. paths: names of the images.
        size, channels: of the images. labelled: False for a flat layout without `class_name`.

    Raises:
        DataError: missing, empty, wrongly laid out or bad images; its `report` attribute is the report, if it got
            that far. UsageError: unknown class, split, fit.
    """

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
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        _check_options(size, channels, fit, per_class, split, on_bad)
        listing = list_images(path)
        self.labelled = listing.labelled or class_name is not None
        if class_name is not None and listing.labelled:
            raise UsageError(f"class name '{class_name}' was given, but '{path}' has class folders: leave it out")
        if not listing.labelled:
            label = UNLABELLED if class_name is None else class_name
            listing.entries = [Entry(entry.name, label, entry.split) for entry in listing.entries]
        self.classes = choose_classes(listing, classes)
        wanted = set(self.classes)
        entries = [entry for entry in listing.entries if entry.label in wanted]
        self._settings = {"path": os.fspath(path), "fit": fit, "per_class": per_class, "seed": seed, "split": split}
        self._on_bad = on_bad
        self._store = _scan(listing, entries, size, channels, fit, progress)
        self._left: list[int] = []
        self._choose(split, per_class, seed)
        self._refuse_bad(on_bad)
        self._refuse_small(allow_tiny)

    def _choose(self, split: str, per_class: int | None, seed: int) -> None:
        """Fill `_indices` (into the store) and `labels`, and `_left` with what `per_class` leaves over."""
        entries = self._store.entries
        splits = {entry.split for entry in entries}
        if split not in ("train", "all") and splits <= {""}:
            raise DataError(f"split '{split}' was asked for, but '{self._settings['path']}' has no split folders")
        of_class: dict[str, list[int]] = {name: [] for name in self.classes}
        for index, entry in enumerate(entries):
            if split == "all" or (entry.split or "train") == split:
                of_class[entry.label].append(index)
        chosen, labels = [], []
        for label, name in enumerate(self.classes):
            mine = of_class[name]
            if per_class is not None:
                mine = _shuffled(entries, mine, seed, name)
                self._left += mine[per_class:]
                mine = sorted(mine[:per_class])
            chosen += mine
            labels += [label] * len(mine)
        self._indices, self.labels = chosen, torch.tensor(labels, dtype=torch.int64)

    def _refuse_bad(self, on_bad: str) -> None:
        bad = self._store.scan["bad"]
        if bad and (on_bad == "error" or not self._store.entries):
            first = "; ".join(f"{item['path']} ({item['reason']})" for item in bad[:3])
            whole = len(bad) + len(self._store.entries)
            way_out = "repair or remove them, or skip them with --on-bad skip" if self._store.entries else (
                "no readable image is left"
            )
            more = ", the first" if len(bad) > 3 else ""
            raise self._error(
                f"{len(bad)} of {whole} images in '{self._settings['path']}' cannot be used{more}: {first}: {way_out}"
            )

    def _refuse_small(self, allow_tiny: bool) -> None:
        where = f"'{self._settings['path']}'"
        counts = self.per_class_counts()
        empty = [name for name in self.classes if counts[name] == 0]
        if empty:
            raise self._error(
                f"class '{empty[0]}' in {where} has no image ({len(empty)} such classes): add images, remove the "
                "folder, or choose others with --classes"
            )
        tiny = [name for name in self.classes if counts[name] == 1]
        if tiny and not allow_tiny:
            raise self._error(
                f"class '{tiny[0]}' in {where} has one image ({len(tiny)} such classes): at least 2 are needed to "
                "learn more than a copy; add images, or insist with --allow-tiny"
            )

    def _error(self, message: str) -> DataError:
        error = DataError(message)
        error.report = self.report
        return error

    # ------------------------------------------------------------------------------------------ images

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
        return [self._store.entries[index].name for index in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __repr__(self) -> str:
        where, shape = self._settings["path"], f"{self.channels} x {self.size} x {self.size}"
        return f"ImageData({where!r}: {len(self)} images of {shape}, {len(self.classes)} classes)"

    def images(self, indices: Iterable[int] | Tensor | None = None) -> Tensor:
        """uint8 [k, C, H, W] of the images at `indices` (None: all)."""
        if indices is None:
            return self._store.get(self._indices)
        if isinstance(indices, Tensor):
            indices = indices.tolist()
        return self._store.get([self._indices[int(index)] for index in indices])

    def batch(self, batch_number: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images of one step, a pure function of its arguments: nothing has to be stored to resume.

        Position p = batch_number * batch_size + i is image perm(seed, p // n)[p % n], so each epoch shows every image
        once, and a batch may be larger than the set.

        Returns:
            (images uint8 [B, C, H, W], labels int64 [B], indices int64 [B]).
        """
        n = len(self)
        first = batch_number * batch_size
        picked = np.empty(batch_size, dtype=np.int64)
        done = 0
        while done < batch_size:
            epoch, offset = divmod(first + done, n)
            part = _permutation(n, seed, epoch)[offset : offset + batch_size - done]
            picked[done : done + len(part)] = part
            done += len(part)
        indices = torch.from_numpy(picked)
        return self.images(indices), self.labels[indices], indices

    # ------------------------------------------------------------------------------------------ views

    def _view(self, indices: Sequence[int], classes: Sequence[str], **settings: Any) -> ImageData:
        view = object.__new__(ImageData)
        view.__dict__.update(self.__dict__)
        rank = {name: i for i, name in enumerate(classes)}
        view.classes, view._indices, view._left = list(classes), list(indices), []
        view.labels = torch.tensor([rank[self._store.entries[i].label] for i in indices], dtype=torch.int64)
        view._settings = {**self._settings, **settings}
        return view

    def held_out(self, part: str) -> ImageData | None:
        """Images not used for training, for choosing a checkpoint ("select") or for the reported number ("report").

        The layout's val and test splits; if it has only one of them, that one halved; without them the images that
        `per_class` left over, halved. None when nothing is left. The halves are the same for the same seed.
        """
        if part not in ("select", "report"):
            raise UsageError(f"held-out part '{part}' is unknown: choose select or report")
        entries, wanted = self._store.entries, set(self.classes)
        if self._settings["split"] not in ("train",):
            return None
        by_split = {
            split: [i for i, entry in enumerate(entries) if entry.split == split and entry.label in wanted]
            for split in ("val", "test")
        }
        if by_split["val"] and by_split["test"]:
            chosen = by_split["val" if part == "select" else "test"]
        else:
            pool = by_split["val"] or by_split["test"] or [i for i in self._left if entries[i].label in wanted]
            chosen = []
            for name in self.classes:
                mine = [i for i in pool if entries[i].label == name]
                mine = _shuffled(entries, mine, self._settings["seed"] + 1, name)
                chosen += mine[0::2] if part == "select" else mine[1::2]
        chosen = sorted(chosen, key=lambda i: (self.classes.index(entries[i].label), i))
        return self._view(chosen, self.classes, split=part) if chosen else None

    def class_subset(self, names: str | Sequence[str]) -> ImageData:
        """The same data with only the classes `names`, in that order; labels count from 0 anew."""
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in self.classes]
        if unknown or not names:
            raise UsageError(f"classes {unknown or names} are not in the data: choose from {', '.join(self.classes)}")
        rank = {name: i for i, name in enumerate(names)}
        label = [self._store.entries[i].label for i in self._indices]
        chosen = [i for i, name in zip(self._indices, label, strict=True) if name in rank]
        chosen.sort(key=lambda i: (rank[self._store.entries[i].label], i))
        view = self._view(chosen, names)
        view._left = [i for i in self._left if self._store.entries[i].label in rank]
        return view

    # ------------------------------------------------------------------------------------------ facts

    def per_class_counts(self) -> dict[str, int]:
        """Images of each class."""
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    @property
    def report(self) -> dict[str, Any]:
        """What the scan found, JSON-serialisable; see `_report`."""
        return _report(self)

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
            raise UsageError(f"{name} {value!r} is not possible: choose {allowed}")


def _report(data: ImageData) -> dict[str, Any]:
    """The report of the scan: whole store first, then what this view uses of it.

    Keys: path, n, classes, counts, labelled, splits {split: {class: n}}, size, channels, fit, per_class, seed,
    sizes {"WxH": n}, modes {mode: n}, duplicates [[paths]], bad [{path, reason}], skipped, ignored (files that are no
    images), conversions [sentences], warnings [sentences], in_memory.
    """
    store, settings = data._store, data._settings
    counts = data.per_class_counts()
    splits: dict[str, dict[str, int]] = {}
    for entry in store.entries:
        in_split = splits.setdefault(entry.split or "train", {})
        in_split[entry.label] = in_split.get(entry.label, 0) + 1
    warnings = list(store.listing.notes)
    per_class = settings["per_class"]
    short = [name for name, count in counts.items() if per_class and count < per_class]
    if short and settings["split"] == "train":
        warnings.append(
            f"{len(short)} classes have fewer than the {per_class} images asked for, the first: '{short[0]}' with "
            f"{counts[short[0]]}"
        )
    present = [count for count in counts.values() if count]
    if len(present) > 1 and max(present) > 10 * min(present):
        warnings.append(f"classes are unbalanced: from {min(present)} to {max(present)} images")
    where = {entry.name: entry for entry in store.entries}
    groups = store.scan["duplicates"]
    crossing = [group for group in groups if len({(where[n].label, where[n].split) for n in group}) > 1]
    if groups:
        warnings.append(f"{len(groups)} groups of images have equal content (they are kept)")
    if crossing:
        first = " = ".join(crossing[0][:2])
        warnings.append(f"{len(crossing)} of them cross classes or splits, the first: {first}")
    return {
        **settings,
        "n": len(data),
        "classes": list(data.classes),
        "counts": counts,
        "labelled": data.labelled,
        "splits": splits,
        "size": store.size,
        "channels": store.channels,
        **store.scan,
        "skipped": len(store.scan["bad"]) if data._on_bad == "skip" else 0,
        "ignored": store.listing.files.ignored,
        "warnings": warnings,
        "in_memory": store.pixels is not None,
    }
