"""Where images lie: a folder, a zip archive (never extracted) or a Hugging Face data set, listed by class and split."""

from __future__ import annotations

import importlib
import json
import os
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from gantransfer import shipped
from gantransfer.errors import DataError, UsageError

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .avif".split()
)
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ABOUT = "dataset.json"
MAX_MEMBER = 256 << 20
MAX_TOTAL = 256 << 30
MAX_RATIO = 200  # unpacked to packed, for archives that unpack to more than 1 GiB


class Files(Protocol):
    """Names of images, relative and with forward slashes, and their bytes."""

    names: list[str]
    folders: list[str]  # all folders, those without images included
    ignored: int  # other files

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class Entry:
    """One image: its name for `Files.read`, its class ("" in a flat layout) and its split ("" without splits)."""

    name: str
    label: str
    split: str


@dataclass
class Listing:
    """All images of a data set by class and split.

    Attributes:
        labelled: False for a flat layout.
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


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


class FolderFiles:
    """Images below a folder; links to files and folders are followed, each folder once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names, self.folders, self.ignored = [], [], 0
        seen: set[str] = set()
        for here, below, files in os.walk(root, followlinks=True, onerror=self._refuse):
            if os.path.realpath(here) in seen:
                below.clear()
                continue
            seen.add(os.path.realpath(here))
            below[:] = sorted(name for name in below if not _hidden(name))
            folder = Path(here).relative_to(root)
            if folder.parts:
                self.folders.append(folder.as_posix())
            for name in files:
                if _is_image(name) and not _hidden(name):
                    self.names.append((folder / name).as_posix())
                elif not _hidden(name) and name != ABOUT:
                    self.ignored += 1
        self.names.sort()

    @staticmethod
    def _refuse(error: OSError) -> None:
        raise DataError(f"cannot list '{error.filename}' ({error.strerror}): check its permissions") from error

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def about(self) -> bytes | None:
        path = self.root / ABOUT
        return path.read_bytes() if path.is_file() else None


class ZipFiles:
    """Images in an archive, read member by member; nothing is ever written to disk.

    Raises:
        DataError: not an archive; members with absolute or climbing names, links, encrypted or duplicate members;
            sizes beyond the limits.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._archive, self._pid = path, None, -1
        infos = self._members()
        _check_members(path, infos)
        self.names, self.folders, self.ignored = [], [], 0
        folders = set()
        for info in infos:
            if _hidden(info.filename):
                continue
            if info.is_dir():
                folders.add(info.filename.rstrip("/"))
            elif _is_image(info.filename):
                self.names.append(info.filename)
                folders.update(str(parent) for parent in PurePosixPath(info.filename).parents if parent.parts)
            elif PurePosixPath(info.filename).name != ABOUT:
                self.ignored += 1
        self.names.sort()
        self.folders = sorted(folders)
        # A zip made from a folder wraps all in that folder: it is no class.
        tops = {PurePosixPath(name).parts[0] for name in self.names}
        deep = all(len(PurePosixPath(name).parts) > 2 for name in self.names)
        wrapped = len(tops) == 1 and deep and not tops & set(SPLIT_NAMES)
        self.prefix = f"{tops.pop()}/" if wrapped else ""
        self.names = [name.removeprefix(self.prefix) for name in self.names]
        self.folders = [name.removeprefix(self.prefix) for name in self.folders if name + "/" != self.prefix]

    def _members(self) -> list[zipfile.ZipInfo]:
        return self._open().infolist()

    def _open(self) -> zipfile.ZipFile:
        # Each process opens its own: a shared file position would mix the reads of forked workers.
        if self._archive is None or self._pid != os.getpid():
            try:
                self._archive, self._pid = zipfile.ZipFile(self.path), os.getpid()
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise DataError(
                    f"'{self.path}' cannot be read as a zip archive ({error}): pass a folder or a sound .zip"
                ) from error
        return self._archive

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}

    def read(self, name: str) -> bytes:
        return self._open().read(self.prefix + name)

    def about(self) -> bytes | None:
        names = self._open().NameToInfo
        name = next((name for name in (ABOUT, self.prefix + ABOUT) if name in names), None)
        return None if name is None else self._open().read(name)


def _check_members(path: Path, infos: Iterable[zipfile.ZipInfo]) -> None:
    """Refuse an archive with members that no honest data set has."""
    infos = list(infos)
    counts = Counter(info.filename for info in infos)
    refused = []
    for info in infos:
        name = info.filename
        if name.startswith("/") or "\\" in name or name[1:2] == ":":
            refused.append((name, "absolute name or backslashes"))
        elif ".." in PurePosixPath(name).parts:
            refused.append((name, "'..' in the name"))
        elif stat.S_ISLNK(info.external_attr >> 16):
            refused.append((name, "a link"))
        elif info.flag_bits & 1:
            refused.append((name, "encrypted"))
        elif counts[name] > 1:
            refused.append((name, "the name occurs more than once"))
        elif info.file_size > MAX_MEMBER:
            refused.append((name, f"unpacks to {info.file_size} bytes, more than {MAX_MEMBER}"))
    if refused:
        first = "; ".join(f"{name} ({reason})" for name, reason in refused[:3])
        raise DataError(
            f"zip '{path}' has {len(refused)} members that are not allowed, the first: {first}: "
            "make the archive anew from plain files"
        )
    total, packed = sum(info.file_size for info in infos), path.stat().st_size
    if total > MAX_TOTAL or (total > 1 << 30 and total > MAX_RATIO * packed):
        raise DataError(
            f"zip '{path}' unpacks from {packed} to {total} bytes, which looks like a decompression bomb: "
            f"allowed are {MAX_TOTAL} bytes and {MAX_RATIO} times its size; pass a folder instead"
        )


class HubFiles:
    """A Hugging Face `datasets` data set: split name -> rows with an image column and maybe a label column."""

    def __init__(self, spec: str) -> None:
        try:
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise DataError(
                f"'hf:{spec}' needs the extra 'hf' (the datasets package is not installed): "
                "run pip install 'gantransfer[hf]', or pass a folder or a zip"
            ) from error
        name, _, split = spec.partition(":")
        try:
            local = Path(name).is_dir() and any(Path(name).glob("**/dataset_info.json"))
            loaded = datasets.load_from_disk(name) if local else datasets.load_dataset(name)
        except Exception as error:  # the library raises its own, the network's and the file system's errors
            raise DataError(
                f"Hugging Face data set '{name}' cannot be loaded ({type(error).__name__}: {_first_line(error)}): "
                "check the name, or pass a folder or a zip"
            ) from error
        parts = dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
        if split and split not in parts:
            raise DataError(f"split '{split}' is not in '{name}': choose from {', '.join(parts)}")
        # A split that was asked for is the data; otherwise the usual names keep their roles.
        self._parts = {"": parts[split]} if split else {SPLIT_NAMES.get(k, k): v for k, v in parts.items()}
        self.names, self.folders, self.ignored, self.entries = [], [], 0, []
        self._image = {part: self._column(rows, "Image", name) for part, rows in self._parts.items()}
        for part, rows in self._parts.items():
            self._parts[part] = rows.cast_column(self._image[part], datasets.Image(decode=False))
            label = self._column(rows, "ClassLabel", None)
            values = rows[label] if label else [""] * len(rows)
            texts = getattr(rows.features[label], "names", None) if label else None
            for i, value in enumerate(values):
                label_name = texts[value] if texts and value is not None and value >= 0 else str(value)
                entry = Entry(f"{part}/{i:08d}" if part else f"{i:08d}", label_name, part)
                self.entries.append(entry)
        self.names = [entry.name for entry in self.entries]

    @staticmethod
    def _column(rows: Any, kind: str, name: str | None) -> str | None:
        """The first column whose feature type is `kind`; for labels, a column called 'label' as well."""
        for column, feature in rows.features.items():
            if type(feature).__name__ == kind or (kind == "ClassLabel" and column in ("label", "labels")):
                return column
        if name is None:
            return None
        raise DataError(f"Hugging Face data set '{name}' has no image column: its columns are {list(rows.features)}")

    def read(self, name: str) -> bytes:
        part, _, row = name.rpartition("/")
        cell = self._parts[part][int(row)][self._image[part]]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else ""


def list_images(path: str | os.PathLike[str]) -> Listing:
    """List the images of a folder, a zip, ``hf:NAME[:SPLIT]`` or a shipped name by class and split.

    Raises:
        DataError: missing, empty, unreadable, or laid out in a way that would give wrong labels.
    """
    text = os.fspath(path)
    if text.startswith("hf:"):
        files = HubFiles(text[3:])
        return Listing(files, files.entries, labelled=any(entry.label for entry in files.entries))
    if text in shipped.data_names():
        where = shipped.DATA / f"{text}.zip"
    else:
        where = Path(text).expanduser()
    if where.is_dir():
        files = FolderFiles(where)
    elif where.is_file():
        files = ZipFiles(where)
    else:
        have = ", ".join(shipped.data_names())
        raise DataError(
            f"data '{text}' does not exist: pass a folder, a .zip, hf:NAME or a shipped data set ({have})"
        )
    if not files.names:
        raise DataError(
            f"data '{text}' holds no image ({files.ignored} other files): put one folder per class with "
            "PNG, JPEG or WebP files inside"
        )
    listing = _by_folders(text, files)
    prefix = getattr(files, "prefix", "")
    if prefix:
        listing.notes.append(f"the archive's outer folder '{prefix}' is not taken as a class")
    _read_about(listing, files.about(), text)
    return listing


def _by_folders(path: str, files: Files) -> Listing:
    """Classes and splits from folder names; the three layouts and nothing else."""
    parts = {name: PurePosixPath(name).parts for name in files.names}
    depths = Counter(len(part) - 1 for part in parts.values())
    if len(depths) > 1:
        common = depths.most_common(1)[0][0]
        odd = next(name for name, part in parts.items() if len(part) - 1 != common)
        raise DataError(
            f"data '{path}' mixes {dict(sorted(depths.items()))} images by folder depth (for one, '{odd}'): put every "
            "image directly in its class folder"
        )
    depth = next(iter(depths))
    tops = {part[0] for part in parts.values()} if depth else set()
    split = bool(tops) and tops <= set(SPLIT_NAMES)
    if split and "train" not in tops:
        raise DataError(f"data '{path}' has {', '.join(sorted(tops))} but no 'train' folder: add or rename one")
    if depth - split > 1:
        top = PurePosixPath(*next(iter(parts.values()))[: depth - 1 - split])
        raise DataError(
            f"data '{path}' is nested too deep ('{files.names[0]}'): images must lie directly in class folders, or "
            f"all would get the outer folder's name; pass '{path}/{top}' if the classes are there"
        )
    entries = []
    for name, part in parts.items():
        label = unicodedata.normalize("NFC", part[-2]) if depth - split else ""
        entries.append(Entry(name, label, SPLIT_NAMES[part[0]] if split else ""))
    labels = {entry.label for entry in entries}
    empty = []
    if depth - split:
        at = [PurePosixPath(folder).parts for folder in files.folders]
        classes = {unicodedata.normalize("NFC", part[-1]) for part in at if len(part) == depth}
        empty = sorted(classes - labels)
    return Listing(files, entries, labelled=bool(depth - split), empty=empty)


def _read_about(listing: Listing, content: bytes | None, path: str) -> None:
    """Take class sets, and labels in StyleGAN's form if there are any, from dataset.json."""
    if content is None:
        return
    try:
        about = json.loads(content.decode("utf-8"))
        sets = about.get("class_sets") or {}
        listing.class_sets = {
            str(name): [unicodedata.normalize("NFC", str(c)) for c in classes] for name, classes in sets.items()
        }
        labels = about.get("labels")
        pairs = None if labels is None else {str(name): str(label) for name, label in labels}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{ABOUT} in '{path}' cannot be used ({_first_line(error)}): it must be a JSON object with "
            '"class_sets": {name: [classes]}'
        ) from error
    if pairs is None:
        return
    missing = [entry.name for entry in listing.entries if entry.name not in pairs]
    if missing or len(pairs) != len(listing.entries):
        raise DataError(
            f"{ABOUT} in '{path}' labels {len(pairs)} files, but {len(listing.entries)} images are there"
            f"{f' (no label for {missing[0]})' if missing else ''}: make both agree, or remove \"labels\""
        )
    listing.entries = [Entry(entry.name, pairs[entry.name], entry.split) for entry in listing.entries]
    listing.labelled, listing.empty = True, []
    listing.notes.append(f"labels taken from {ABOUT}, not from the folders")


def choose_classes(listing: Listing, classes: str | Iterable[str] | None) -> list[str]:
    """The classes wanted: all in sorted order, a class set's, or those named, in the order given.

    Raises:
        UsageError: unknown or repeated names.
    """
    from gantransfer.errors import did_you_mean

    have = sorted({entry.label for entry in listing.entries} | set(listing.empty))
    if classes is None:
        return have
    if isinstance(classes, str):
        listed = listing.class_sets.get(classes)
        names = listed if listed is not None else [name.strip() for name in classes.split(",") if name.strip()]
    else:
        names = [str(name) for name in classes]
    names = [unicodedata.normalize("NFC", name) for name in names]
    unknown = [name for name in names if name not in have]
    if unknown or not names or len(set(names)) < len(names):
        sets = f"; class sets: {', '.join(listing.class_sets)}" if listing.class_sets else ""
        what = f"class '{unknown[0]}' is not in the data" if unknown else f"classes {names} are empty or repeated"
        hint = did_you_mean(unknown[0], [*have, *listing.class_sets]) if unknown else ""
        shown = ", ".join(have[:20]) + (", ..." if len(have) > 20 else "")
        raise UsageError(f"{what}{hint}; have: {shown}{sets}")
    return names
