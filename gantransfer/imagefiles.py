"""Where image files lie and how to read one: a folder, a zip archive (never extracted), a Hugging Face data set.

What their names mean is `layout`'s business.
"""

from __future__ import annotations

import importlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from gantransfer.errors import DataError, first_line

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .avif".split()
)
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ABOUT = "dataset.json"
MAX_FILE = 256 << 20  # bytes of one file or unpacked member
MAX_TOTAL = 256 << 30  # bytes of a whole archive, unpacked
MAX_RATIO = 200  # unpacked to packed, where an archive unpacks to more than FREE_TOTAL
FREE_TOTAL = 1 << 30


class Files(Protocol):
    """Sorted names of image files, relative and with forward slashes, and their bytes."""

    names: list[str]
    folders: list[str]  # all of them, those without images included
    ignored: int  # files that are no images

    def read(self, name: str) -> bytes:
        """The bytes of one file; any error means that this file is bad."""
        ...

    def about(self) -> bytes | None:
        """The bytes of dataset.json, if there is one."""
        ...


def parts_of(name: str) -> list[str]:
    """Folders and file name; what `PurePosixPath` says, a tenth of its time (a set may have a million names)."""
    return [part for part in name.split("/") if part not in ("", ".")]


def _hidden(name: str) -> bool:
    return any(part[0] == "." or part == "__MACOSX" for part in parts_of(name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def in_unicode(name: str) -> str:
    """`name` as every file and terminal takes it: bytes that are no UTF-8 as backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class FolderFiles:
    """Files below a folder; links to files and folders are followed, each folder once. Names are `in_unicode`.

    Raises:
        DataError: a folder cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.names, self.folders, self.ignored = [], [], 0
        self._places: dict[str, str] = {}  # of names that are not the files' own
        seen: set[str] = set()
        for here, below, files in os.walk(self.root, followlinks=True, onerror=self._refuse):
            real = os.path.realpath(here)
            if real in seen:  # a link back up
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if not _hidden(name))
            folder = Path(here).relative_to(self.root)
            if folder.parts:
                self.folders.append(in_unicode(folder.as_posix()))
            for name in (name for name in files if not _hidden(name)):
                if _is_image(name):
                    place = (folder / name).as_posix()
                    self.names.append(in_unicode(place))
                    if self.names[-1] != place:
                        self._places[self.names[-1]] = place
                else:
                    self.ignored += name != ABOUT
        self.names.sort()

    @staticmethod
    def _refuse(error: OSError) -> None:
        raise DataError(
            f"folder '{error.filename}' cannot be listed ({error.strerror}): check its permissions"
        ) from error

    def read(self, name: str) -> bytes:
        path = self.root / self._places.get(name, name)
        if not path.is_file():  # a pipe would block, a broken link is nothing
            raise OSError("not a regular file")
        if path.stat().st_size > MAX_FILE:
            raise OSError(f"more than {MAX_FILE} bytes")
        return path.read_bytes()

    def about(self) -> bytes | None:
        return (self.root / ABOUT).read_bytes() if (self.root / ABOUT).is_file() else None


class ZipFiles:
    """Files in an archive, read member by member; nothing is written to disk.

    Attributes:
        prefix: the outer folder that wraps everything where an archive was made from a folder, else "".

    Raises:
        DataError: not an archive; members with absolute or climbing names, links, encrypted or duplicate
            members; sizes beyond the limits.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._archive, self._pid = path.absolute(), None, -1
        infos = self._open().infolist()
        _check_members(path, infos)
        plain = [info.filename for info in infos if not _hidden(info.filename)]
        names = sorted(name for name in plain if not name.endswith("/") and _is_image(name))
        folders = {name.rstrip("/") for name in plain if name.endswith("/")}
        inner = {name.rpartition("/")[0] for name in names}
        folders |= {str(up) for name in inner for up in (PurePosixPath(name), *PurePosixPath(name).parents) if up.parts}
        others = [name for name in plain if not name.endswith("/") and not _is_image(name)]
        self.ignored = sum(PurePosixPath(name).name != ABOUT for name in others)
        tops = {parts_of(name)[0] for name in names}
        deep = all(len(parts_of(name)) > 2 for name in names)
        wrapped = len(tops) == 1 and deep and not tops & set(SPLIT_NAMES)
        self.prefix = f"{tops.pop()}/" if wrapped else ""
        self.names = [name.removeprefix(self.prefix) for name in names]
        self.folders = sorted(name.removeprefix(self.prefix) for name in folders if f"{name}/" != self.prefix)

    def _open(self) -> zipfile.ZipFile:
        # Each process opens its own: a shared file position would mix up the reads of forked workers.
        if self._archive is None or self._pid != os.getpid():
            try:
                self._archive, self._pid = zipfile.ZipFile(self.path), os.getpid()
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise DataError(
                    f"'{self.path}' cannot be read as a zip archive ({first_line(error)}): pass a folder or a "
                    "sound .zip"
                ) from error
        return self._archive

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}

    def read(self, name: str) -> bytes:
        return self._open().read(self.prefix + name)

    def about(self) -> bytes | None:
        names = self._open().NameToInfo
        name = next((name for name in (self.prefix + ABOUT, ABOUT) if name in names), None)
        return None if name is None else self._open().read(name)


def _refusal(info: zipfile.ZipInfo, occurrences: int) -> str | None:
    """Why a member has no place in an honest archive of images; None if it has."""
    # Python's reader turns other separators into '/' in filename: the name as stored is what counts.
    name = info.orig_filename
    if name.startswith("/") or "\\" in name or name[1:2] == ":":
        return "absolute name or backslashes"
    if ".." in name.split("/"):
        return "'..' in the name"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link"
    if info.flag_bits & 1:
        return "encrypted"
    if occurrences > 1:
        return "the name occurs more than once"
    if info.file_size > MAX_FILE:
        return f"unpacks to {info.file_size} bytes, more than {MAX_FILE}"
    return None


def _check_members(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive with members that no honest data set has, or that unpacks to too much."""
    counts = Counter(info.filename for info in infos)
    reasons = [(info.filename, _refusal(info, counts[info.filename])) for info in infos]
    refused = [f"{name} ({reason})" for name, reason in reasons if reason]
    if refused:
        raise DataError(
            f"zip '{path}' has {len(refused)} members that are not allowed, the first: {'; '.join(refused[:3])}: "
            "make the archive anew from plain files"
        )
    total, packed = sum(info.file_size for info in infos), path.stat().st_size
    if total > MAX_TOTAL or (total > FREE_TOTAL and total > MAX_RATIO * packed):
        raise DataError(
            f"zip '{path}' unpacks from {packed} to {total} bytes, more than {MAX_RATIO} times its size or "
            f"{MAX_TOTAL} bytes: it looks like a decompression bomb; pass a folder instead"
        )


class HubFiles:
    """Rows of a Hugging Face data set with an image column and, maybe, a label column.

    Attributes:
        rows: (name, label or None, split) of each image; the split is "" where one was chosen by name.
        has_labels: whether there is a label column; rows without a label are then left out.

    Raises:
        DataError: the extra is not installed; the set or split does not exist; no image column.
    """

    def __init__(self, spec: str) -> None:
        try:
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise DataError(
                f"'hf:{spec}' needs the extra 'hf' (package datasets is not installed): run "
                "pip install 'gantransfer[hf]', or pass a folder or a zip"
            ) from error
        name, _, split = spec.partition(":")
        parts = self._load(datasets, name)
        if split and split not in parts:
            raise DataError(f"split '{split}' is not in 'hf:{name}': choose from {', '.join(parts)}")
        # A split asked for by name is the data; otherwise the usual names keep their roles.
        parts = {"": parts[split]} if split else {SPLIT_NAMES.get(key, key): part for key, part in parts.items()}
        self._parts, self._column, self.rows = {}, {}, []
        self.has_labels = False
        for key, part in parts.items():
            column = _column(part, "Image")
            if column is None:
                raise DataError(f"'hf:{name}' has no image column, only {list(part.features)}: pass another set")
            self._column[key] = column
            self._parts[key] = part.cast_column(column, datasets.Image(decode=False))
            self._add_rows(key, part)
        self.names = [row[0] for row in self.rows]
        self.folders: list[str] = []
        self.ignored = sum(len(part) for part in self._parts.values()) - len(self.rows)

    @staticmethod
    def _load(datasets: Any, name: str) -> dict[str, Any]:
        """Split name -> rows, from the hub or from a folder written by ``save_to_disk``."""
        saved = any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json"))
        try:
            loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
        except Exception as error:  # the library passes on its own, the network's and the disk's errors
            raise DataError(
                f"'hf:{name}' cannot be loaded ({type(error).__name__}: {first_line(error)}): check the name, or "
                "pass a folder or a zip"
            ) from error
        return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}

    def _add_rows(self, key: str, part: Any) -> None:
        label = _column(part, "ClassLabel") or next((c for c in ("label", "labels") if c in part.features), None)
        self.has_labels |= label is not None
        texts = getattr(part.features[label], "names", None) if label else None
        for i, value in enumerate(part[label] if label else [None] * len(part)):
            if label and (value is None or value == -1):  # how the hub marks hidden labels
                continue
            text = texts[value] if texts else None if value is None else str(value)
            self.rows.append((f"{key}/{i:08d}" if key else f"{i:08d}", text, key))

    def read(self, name: str) -> bytes:
        key, _, row = name.rpartition("/")
        cell = self._parts[key][int(row)][self._column[key]]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    def about(self) -> bytes | None:
        return None


def _column(part: Any, kind: str) -> str | None:
    """The first column whose feature type is called `kind`."""
    return next((name for name, feature in part.features.items() if type(feature).__name__ == kind), None)
