"""The scan before training: every image decoded once, every bad file found at once, the pixels kept if they fit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gantransfer.decoding import BadImage, decode, fit_image, probe
from gantransfer.errors import DataError, first_line
from gantransfer.layout import Entry, Listing

MEMORY_LIMIT = 1 << 30  # bytes of uint8 pixels held in memory; larger sets are decoded when asked for
Progress = Callable[[int, int], None]


@dataclass
class Findings:
    """What the scan saw, for the report."""

    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    first: dict[bytes, str] = field(default_factory=dict)  # by hash of the decoded content, the name that had it first
    again: dict[bytes, list[str]] = field(default_factory=dict)  # and those that had it later
    bad: dict[str, str] = field(default_factory=dict)  # reason by name
    said: list[str] = field(default_factory=list)

    def duplicates(self) -> list[list[str]]:
        """Groups of names with equal content."""
        return sorted(sorted((self.first[content], *names)) for content, names in self.again.items())

    def note_content(self, content: bytes, name: str) -> None:
        """Remember whose content this is; short hashes, since a set may have a million images."""
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if self.first.setdefault(digest, name) != name:
            self.again.setdefault(digest, []).append(name)

    def conversions(self, total: int) -> list[str]:
        """Sentences on what was done to how many of `total` images."""
        return self.said + [f"{count} of {total} images: {note}" for note, count in sorted(self.notes.items())]


@dataclass
class Store:
    """All readable images of the chosen classes and all splits; `ImageData` objects are views of one.

    Attributes:
        pixels: uint8 [n, C, H, W], or None when they exceed `MEMORY_LIMIT`.
    """

    listing: Listing
    entries: list[Entry]
    size: int
    channels: int
    fit: str
    pixels: Tensor | None
    findings: Findings

    def get(self, indices: Sequence[int]) -> Tensor:
        """uint8 [k, C, H, W] of the entries at `indices`.

        Raises:
            DataError: a file that the scan could read is gone or changed.
        """
        if self.pixels is not None:
            return self.pixels[torch.as_tensor(indices, dtype=torch.int64)]
        out = torch.empty(len(indices), self.channels, self.size, self.size, dtype=torch.uint8)
        for row, index in enumerate(indices):
            name = self.entries[index].name
            try:
                image, _, _ = decode(_read(self.listing, name))
            except BadImage as error:
                raise DataError(
                    f"image '{name}' was readable at the scan and is not now ({error}): do not change data in use"
                ) from error
            out[row] = torch.tensor(fit_image(image, self.size, self.fit, self.channels))
        return out


def _read(listing: Listing, name: str) -> bytes:
    try:
        return listing.files.read(name)
    except Exception as error:  # broken archives raise zlib's, zipfile's and the system's errors
        raise BadImage(f"cannot be read ({first_line(error)})") from error


def _guess_shape(
    listing: Listing, entries: Sequence[Entry], size: int | None, channels: int | None, found: Findings
) -> tuple[int, int]:
    """Size and channels where they were not given, from the headers: the shortest side; 1 if all are grey."""
    if size is not None and channels is not None:
        return size, channels
    heads: Counter[tuple[int, int, bool]] = Counter()
    for entry in entries:
        try:
            heads[probe(_read(listing, entry.name))] += 1
        except BadImage as error:
            found.bad[entry.name] = str(error)
    if channels is None:
        channels = 1 if heads and all(grey for _, _, grey in heads) else 3
    if size is None:
        size = min((min(width, height) for width, height, _ in heads), default=1)
        if any((width, height) != (size, size) for width, height, _ in heads):
            found.said.append(f"no size was given: {size} px, the shortest side of any image, is taken")
    return size, channels


def scan(
    listing: Listing,
    entries: Sequence[Entry],
    size: int | None,
    channels: int | None,
    fit: str,
    progress: Progress | None = None,
) -> Store:
    """Decode every image of `entries` once; bad ones are left out and listed in the findings."""
    found = Findings()
    size, channels = _guess_shape(listing, entries, size, channels, found)
    resident = len(entries) * channels * size * size <= MEMORY_LIMIT
    pixels = torch.empty(len(entries) if resident else 0, channels, size, size, dtype=torch.uint8)
    held = pixels.numpy()  # the same memory
    kept: list[Entry] = []
    for done, entry in enumerate(entries, 1):
        try:
            if entry.name in found.bad:
                continue
            image, mode, how = decode(_read(listing, entry.name))
        except BadImage as error:
            found.bad[entry.name] = str(error)
            continue
        finally:
            if progress:
                progress(done, len(entries))
        if resident:
            held[len(kept)] = fit_image(image, size, fit, channels)
        kept.append(entry)
        if image.size != (size, size):
            how.append(f"resized to {size} x {size} ({fit})")
        if channels == 3 and image.mode == "L":
            how.append("grey repeated in 3 channels")
        if channels == 1 and image.mode == "RGB":
            how.append("colour converted to grey")
        found.sizes[f"{image.width}x{image.height}"] += 1
        found.modes[mode] += 1
        found.notes.update(how)
        found.note_content(f"{image.mode} {image.size}".encode() + image.tobytes(), entry.name)
    return Store(listing, kept, size, channels, fit, pixels[: len(kept)] if resident else None, found)


def report(store: Store, counts: dict[str, int], settings: dict[str, Any], labelled: bool) -> dict[str, Any]:
    """What the scan found and what a view of `counts` images per class uses of it; JSON-serialisable.

    Keys: those of `settings` (path, fit, per_class, seed, split, on_bad), n, classes, counts, labelled, splits
    {split: {class: n}}, class_sets, size, channels, sizes {"WxH": n}, modes {mode: n}, duplicates [[paths]],
    bad [{path, reason}], ignored (files that are no images), conversions and warnings [sentences], in_memory.
    """
    found = store.findings
    splits: dict[str, dict[str, int]] = {}
    for entry in store.entries:
        in_split = splits.setdefault(entry.split or "train", {})
        in_split[entry.label] = in_split.get(entry.label, 0) + 1
    return {
        **settings,
        "n": sum(counts.values()),
        "classes": list(counts),
        "counts": counts,
        "labelled": labelled,
        "splits": splits,
        "class_sets": store.listing.class_sets,
        "size": store.size,
        "channels": store.channels,
        "sizes": dict(found.sizes.most_common()),
        "modes": dict(found.modes.most_common()),
        "duplicates": found.duplicates(),
        "bad": [{"path": name, "reason": found.bad[name]} for name in sorted(found.bad)],
        "ignored": store.listing.files.ignored,
        "conversions": found.conversions(len(store.entries)),
        "warnings": list(store.listing.notes) + _warnings(store, counts, settings, labelled),
        "in_memory": store.pixels is not None,
    }


def _warnings(store: Store, counts: dict[str, int], settings: dict[str, Any], labelled: bool) -> list[str]:
    """Sentences on what is legal and probably not meant."""
    said = []
    if labelled and len(counts) == 1:
        said.append(f"all images are in one class, '{next(iter(counts))}'")
    per_class = settings["per_class"]
    short = [name for name, count in counts.items() if per_class and count < per_class]
    if short and settings["split"] == "train":
        said.append(
            f"{len(short)} classes have fewer than the {per_class} images asked for, the first: '{short[0]}' with "
            f"{counts[short[0]]}"
        )
    present = [count for count in counts.values() if count]
    if present and max(present) > 10 * min(present):
        said.append(f"classes are unbalanced: from {min(present)} to {max(present)} images")
    if store.findings.bad and settings["on_bad"] == "skip":
        said.append(f"{len(store.findings.bad)} bad files are skipped")
    groups = store.findings.duplicates()
    if groups:
        said.append(f"{len(groups)} groups of images have equal content (none is removed)")
    place = {entry.name: (entry.label, entry.split) for entry in store.entries}
    crossing = [group for group in groups if len({place[name] for name in group}) > 1]
    if crossing:
        first = " = ".join(crossing[0][:2])
        said.append(f"{len(crossing)} groups of equal images cross classes or splits, the first: {first}")
    return said
