"""Wrong inputs to ImageData: layouts, options and archives, each with its sentence."""

from __future__ import annotations

import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from picture_files import letters, packed, png, tree

from gantransfer import imagefiles
from gantransfer.data import ImageData
from gantransfer.errors import DataError, UsageError


def deep(root: Path) -> Path:
    return tree(root, letters({"a": 2, "b": 2}, "images/"))


def deep_in_classes(root: Path) -> Path:
    return tree(root, {"a/x/1.png": png(1), "b/x/1.png": png(2)})


def with_empty_class(root: Path) -> Path:
    tree(root, letters({"a": 2}))
    (root / "b").mkdir()
    return root


def only_text(root: Path) -> Path:
    return tree(root, {"a/readme.txt": b"x"})


WRONG_LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda root: root / "nowhere", "does not exist"),
    "empty": (lambda root: tree(root, {}), "holds no image"),
    "text": (only_text, r"holds no image \(1 other files\)"),
    "mixed": (lambda root: tree(root, letters({"a": 2}) | {"logo.png": png(1)}), "2 depths of folders .*logo.png"),
    "deep": (deep, "2 folders deep .*pass '.*/images'"),
    "deep in classes": (deep_in_classes, "2 folders deep .*move them up"),
    "deep in splits": (lambda root: tree(root, letters({"a": 2}, "train/x/")), "classes are expected 2 deep"),
    "no train": (lambda root: tree(root, letters({"a": 2}, "val/")), "no 'train' folder"),
    "empty class": (with_empty_class, "class 'b' .* has no readable image"),
    "one image": (lambda root: tree(root, letters({"a": 2, "b": 1})), "class 'b' .* only one image .*--allow-tiny"),
    "a picture": (lambda root: tree(root, {"x.png": png(1)}) / "x.png", "cannot be read as a zip archive"),
}


@pytest.mark.parametrize("name", WRONG_LAYOUTS)
def test_wrong_layouts(tmp_path: Path, name: str) -> None:
    make, words = WRONG_LAYOUTS[name]
    root = tmp_path / "d"
    root.mkdir()
    with pytest.raises(DataError, match=words) as info:
        ImageData(make(root))
    assert info.value.exit_code == 3 and "\n" not in str(info.value)


def test_allow_tiny_and_choosing_around_an_empty_class(tmp_path: Path) -> None:
    assert len(ImageData(tree(tmp_path / "t", letters({"a": 1})), allow_tiny=True)) == 1
    assert ImageData(with_empty_class(tmp_path / "e"), classes="a").classes == ["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": "a,bb"}, "class 'bb' is not in the data; did you mean 'b'"),
        ({"classes": "a,a"}, "none or repeated"),
        ({"classes": []}, "none or repeated"),
        ({"size": 0}, "size '0' is not possible: choose 1 to 4096"),
        ({"channels": 2}, "channels '2'"),
        ({"fit": "zoom"}, "fit 'zoom' is not possible: choose crop, pad, stretch"),
        ({"per_class": 0}, "per-class '0'"),
        ({"split": "dev"}, "split 'dev'"),
        ({"on_bad": "ignore"}, "on-bad 'ignore'"),
        ({"class_name": "x"}, "class name 'x' is for images without class folders"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict, words: str) -> None:
    tree(tmp_path, letters({"a": 2, "b": 2}))
    with pytest.raises(UsageError, match=words) as info:
        ImageData(tmp_path, **options)
    assert info.value.exit_code == 2


def test_split_of_a_layout_without_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split folders"):
        ImageData(tree(tmp_path, letters({"a": 2})), split="val")


def symlink_member(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("a/link.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "../../etc/passwd")


def duplicate_member(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("a/00.png", png(1))


NASTY_MEMBERS: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "absolute": (lambda archive: archive.writestr("/etc/x.png", b"x"), "absolute name"),
    "climbing": (lambda archive: archive.writestr("a/../../x.png", b"x"), r"'\.\.' in the name"),
    "backslash": (lambda archive: archive.writestr("a\\x.png", b"x"), "backslashes"),
    "drive": (lambda archive: archive.writestr("C:x.png", b"x"), "absolute name"),
    "link": (symlink_member, "a link"),
    "duplicate": (duplicate_member, "more than once"),
    "not an image": (lambda archive: archive.writestr("../notes.txt", b"x"), r"'\.\.' in the name"),
}


@pytest.mark.parametrize("name", NASTY_MEMBERS)
def test_nasty_archives_are_refused(tmp_path: Path, name: str) -> None:
    add, words = NASTY_MEMBERS[name]
    path = packed(tmp_path / "d.zip", letters({"a": 3}))
    with zipfile.ZipFile(path, "a") as archive:
        add(archive)
    before = sorted(tmp_path.rglob("*"))
    for on_bad in ("error", "skip"):
        with pytest.raises(DataError, match=f"not allowed, the first: .*{words}"):
            ImageData(path, on_bad=on_bad)
    assert sorted(tmp_path.rglob("*")) == before


def test_encrypted_and_oversized_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "d.zip", letters({"a": 3}))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(bytes(content))
    with pytest.raises(DataError, match="encrypted"):
        ImageData(tmp_path / "e.zip")
    with monkeypatch.context() as patch:
        patch.setattr(imagefiles, "MAX_FILE", 50)
        with pytest.raises(DataError, match="more than 50"):
            ImageData(path)
    monkeypatch.setattr(imagefiles, "FREE_TOTAL", 1000)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.bmp", bytes(10_000_000))
    with pytest.raises(DataError, match="decompression bomb"):
        ImageData(tmp_path / "b.zip")
