"""What image files' names mean: classes and splits from folders, class sets and labels from dataset.json.

Three layouts and nothing else: ``<class>/<image>``, ``{train,val,test}/<class>/<image>``, images alone. Anything else
would give labels that are silently wrong, so it is an error that says what was found.
"""

from __future__ import annotations

import functools
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gantransfer import shipped
from gantransfer.errors import DataError, UsageError, did_you_mean, first_line
from gantransfer.imagefiles import ABOUT, SPLIT_NAMES, Files, FolderFiles, HubFiles, ZipFiles, in_unicode, parts_of


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: its name for `Files.read`, its class ("" in a flat layout) and split ("" without splits)."""

    name: str
    label: str
    split: str


@dataclass
class Listing:
    """All images of a data set by class and split.

    Attributes:
        labelled: False for images alone.
        empty: classes (folders) without any image.
        class_sets: named lists of classes, from dataset.json.
        notes: what was assumed, for the report.
    """

    files: Files
    entries: list[Entry]
    labelled: bool
    empty: list[str] = field(default_factory=list)
    class_sets: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _nfc(name: str) -> str:
    """One spelling of accented letters (some file systems store them decomposed), `in_unicode`."""
    return unicodedata.normalize("NFC", in_unicode(name))


def list_images(path: str | os.PathLike[str]) -> Listing:
    """List a folder, a zip, ``hf:NAME[:SPLIT]`` or a shipped data set by class and split.

    Raises:
        DataError: missing, empty, unreadable, or laid out in a way that would give wrong labels.
    """
    text = os.fspath(path)
    if text.startswith("hf:"):
        hub = HubFiles(text[3:])
        entries = [Entry(name, _nfc(label or ""), split) for name, label, split in hub.rows]
        if not entries:
            raise DataError(f"data '{text}' holds no labelled image: choose another split or set")
        return Listing(hub, entries, labelled=hub.has_labels)
    where = Path(text).expanduser()
    if text in shipped.data_names():
        where = shipped.DATA / f"{text}.zip"
    if not where.exists():
        names = shipped.data_names()
        raise DataError(
            f"data '{text}' does not exist{did_you_mean(text, names)}: pass a folder, a .zip, hf:NAME or a shipped "
            f"data set ({', '.join(names)})"
        )
    files = FolderFiles(where) if where.is_dir() else ZipFiles(where)
    if not files.names:
        raise DataError(
            f"data '{text}' holds no image ({files.ignored} other files): put one folder per class with PNG, JPEG or "
            "WebP files inside"
        )
    class_sets, labels = _read_about(files.about(), text)
    listing = _by_folders(text, files) if labels is None else _by_labels(text, files, labels)
    listing.class_sets = class_sets
    if getattr(files, "prefix", ""):
        listing.notes.append(f"the archive's outer folder '{files.prefix}' is not taken as a class")
    return listing


def _check_depths(path: str, files: Files) -> tuple[int, bool]:
    """(number of folders above every image, whether the topmost is a split); other layouts are refused."""
    depths = Counter(len(parts_of(name)) - 1 for name in files.names)
    if len(depths) > 1:
        rare = min(depths, key=lambda depth: (depths[depth], depth))
        odd = next(name for name in files.names if len(parts_of(name)) - 1 == rare)
        raise DataError(
            f"data '{path}' has images at {len(depths)} depths of folders (for one, '{odd}'): put every image "
            "directly in its class folder"
        )
    depth = next(iter(depths))
    tops = {parts_of(name)[0] for name in files.names} if depth else set()
    split = bool(tops) and tops <= set(SPLIT_NAMES)
    if split and "train" not in tops:
        raise DataError(f"data '{path}' has {', '.join(sorted(tops))} but no 'train' folder: add or rename one")
    if depth - split > 1:
        inner = "/".join(parts_of(files.names[0])[: depth - 1])
        way_out = f"pass '{path}/{inner}'" if len(tops) == 1 and not split else "move them up"
        raise DataError(
            f"data '{path}' has its images {depth} folders deep (for one, '{files.names[0]}'), where classes are "
            f"expected {1 + split} deep and every label would be wrong: {way_out}"
        )
    return depth, split


def _by_folders(path: str, files: Files) -> Listing:
    """Classes and splits from folder names."""
    depth, split = _check_depths(path, files)
    labelled = depth > split
    entries, spelt = [], functools.cache(_nfc)  # one string per class, not per image
    for name in files.names:
        part = parts_of(name)
        entries.append(Entry(name, spelt(part[-2]) if labelled else "", SPLIT_NAMES[part[0]] if split else ""))
    empty: list[str] = []
    if labelled:
        folders = [PurePosixPath(folder).parts for folder in files.folders]
        classes = {_nfc(part[-1]) for part in folders if len(part) == depth}
        empty = sorted(classes - {entry.label for entry in entries})
    return Listing(files, entries, labelled, empty)


def _by_labels(path: str, files: Files, labels: dict[str, str]) -> Listing:
    """Classes from dataset.json, as StyleGAN's data sets have them."""
    missing = [name for name in files.names if name not in labels]
    if missing or len(labels) != len(files.names):
        example = f" (no label for '{missing[0]}')" if missing else ""
        raise DataError(
            f"{ABOUT} in '{path}' labels {len(labels)} files, but there are {len(files.names)} images{example}: make "
            'both agree, or remove "labels"'
        )
    entries = [Entry(name, _nfc(labels[name]), "") for name in files.names]
    return Listing(files, entries, True, notes=[f"labels are taken from {ABOUT}, not from folders"])


def _read_about(content: bytes | None, path: str) -> tuple[dict[str, list[str]], dict[str, str] | None]:
    """(class sets, labels by file name or None) of dataset.json."""
    if content is None:
        return {}, None
    try:
        about = json.loads(content.decode("utf-8"))
        sets = about.get("class_sets") or {}
        class_sets = {str(name): [_nfc(str(label)) for label in labels] for name, labels in sets.items()}
        pairs = about.get("labels")
        return class_sets, None if pairs is None else {str(name): str(label) for name, label in pairs}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(
            f"{ABOUT} in '{path}' cannot be used ({first_line(error)}): it must be a JSON object with \"class_sets\": "
            "{name: [classes]}, or be removed"
        ) from error


def choose_classes(listing: Listing, classes: str | Iterable[str] | None) -> list[str]:
    """The classes wanted: all in sorted order, a class set's, or those named, in the order given.

    Raises:
        UsageError: unknown, repeated or no names.
    """
    have = sorted({entry.label for entry in listing.entries} | set(listing.empty))
    if classes is None:
        return have
    names: Sequence[str]
    if isinstance(classes, str):
        whole = [classes] if _nfc(classes) in have else None  # a class may have a comma in its name
        commas = [name.strip() for name in classes.split(",") if name.strip()]
        names = listing.class_sets.get(classes) or whole or commas
    else:
        names = [str(name) for name in classes]
    names = [_nfc(name) for name in names]
    unknown = [name for name in names if name not in have]
    if names and not unknown and len(set(names)) == len(names):
        return names
    shown = ", ".join(have[:20]) + (", ..." if len(have) > 20 else "")
    sets = f"; class sets: {', '.join(listing.class_sets)}" if listing.class_sets else ""
    if unknown:
        hint = did_you_mean(unknown[0], [*have, *listing.class_sets])
        raise UsageError(f"class '{unknown[0]}' is not in the data{hint}; have: {shown}{sets}")
    raise UsageError(f"classes '{','.join(names)}' are none or repeated: name each once; have: {shown}{sets}")
