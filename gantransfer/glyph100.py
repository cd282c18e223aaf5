"""Glyph-100: 100 letters x 600 font faces of 32 x 32 pixels, built from installed font packages.

One image is one real font face drawing one letter, dark ink on a white page. The set has CIFAR-100's shape and
is split by script: 80 source classes (Latin, digits, Greek) and 20 target classes (Cyrillic).

``python -m gantransfer.glyph100 OUT.zip`` builds it; with ``--shipped-target`` it rebuilds the target set and the
list of licences that the package carries.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL
from PIL import features

from gantransfer import shipped
from gantransfer.errors import OutputError, UsageError, did_you_mean
from gantransfer.fontfaces import (
    CELL_PX,
    DRAW_PX,
    FONT_DIRS,
    INK_PX,
    draw_face,
    face_list,
    face_name,
    find_faces,
    package_list,
)

SOURCE = "ABCDEFGHJKLMNOPQRSTUVWXYZabdefghijkmnqrtyß1234567890ΓΔΘΛΞΠΣΦΨΩαβγδεηθλμξπςστφχψω"
TARGET = "БДЖЗИЙЛЦЧШЩЪЫЬЭЮЯбдф"
LETTERS = SOURCE + TARGET
# The control of the split by script: every fifth letter through all scripts, so that both sides are alike.
_CONTROL = LETTERS[2::5]
# A draw without regard to script, the protocol of CIFAR-100's 80 + 20: the first 20 letters by hash, in alphabet order.
_DRAWN = sorted(LETTERS, key=lambda letter: hashlib.sha256(f"split:{letter}".encode()).hexdigest())[:20]
_RANDOM = [letter for letter in LETTERS if letter in _DRAWN]
CLASS_SETS: dict[str, list[str]] = {
    "source80": list(SOURCE),
    "target20": list(TARGET),
    "target10": list(TARGET[::2]),
    "interleaved_source80": [letter for letter in LETTERS if letter not in _CONTROL],
    "interleaved_target20": list(_CONTROL),
    "random_source80": [letter for letter in LETTERS if letter not in _RANDOM],
    "random_target20": _RANDOM,
    "random_target10": _RANDOM[::2],
}
SHIPPED_SPLITS = {"train": 100, "val": 225, "test": 226}


def _choose_letters(classes: str | Sequence[str] | None) -> list[str]:
    """The letters that `classes` means, in the order given."""
    if classes is None:
        return list(LETTERS)
    if isinstance(classes, str) and classes in CLASS_SETS:
        return CLASS_SETS[classes]
    names = [name.strip() for name in classes.split(",")] if isinstance(classes, str) else list(classes)
    unknown = [name for name in names if len(name) != 1 or name not in LETTERS]
    if unknown or not names or len(set(names)) < len(names):
        given = ",".join(names) or "(none)"
        raise UsageError(
            f"classes {given} are not distinct letters or a class set of Glyph-100"
            f"{did_you_mean(given, CLASS_SETS)}; class sets: {', '.join(CLASS_SETS)}; letters: {LETTERS}"
        )
    return names


def assign_splits(faces: Sequence[Mapping[str, Any]], splits: Mapping[str, int], seed: int = 0) -> list[str]:
    """The split of each face, the same for every class; "" for faces left over.

    Faces in order of sha256("seed:package/file") are cut in turn: sorting by a hash needs no random generator,
    whose stream might change with a version.
    """
    wanted = sum(splits.values())
    if wanted > len(faces) or min(splits.values()) < 1:
        raise UsageError(f"splits {dict(splits)} need {wanted} of {len(faces)} faces: choose at least 1 each")

    def key(i: int) -> str:
        return hashlib.sha256(f"{seed}:{faces[i]['package']}/{faces[i]['file']}".encode()).hexdigest()

    order = iter(sorted(range(len(faces)), key=key))
    assigned = [""] * len(faces)
    for split, count in splits.items():
        for _ in range(count):
            assigned[next(order)] = split
    return assigned


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> str:
    """Write an archive that depends on its members alone (fixed times); returns its sha256.

    The archive appears under its name only when it is complete.

    Raises:
        OutputError: cannot write.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members:
                if name in archive.NameToInfo:
                    raise AssertionError(f"two members named {name}")
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o100644 << 16
                if not name.endswith(".png"):  # pictures are compressed already
                    info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        with part.open("rb") as written:
            digest = hashlib.sha256()
            while block := written.read(1 << 20):
                digest.update(block)
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write '{path}' ({reason}): choose another place") from error
    finally:
        with contextlib.suppress(OSError):  # nothing was made where the folder itself failed
            part.unlink()
    return digest.hexdigest()


def build_glyph100(
    out: Path | str,
    *,
    faces: str = "all",
    classes: str | Sequence[str] | None = None,
    size: int = CELL_PX,
    colour: bool = False,
    splits: Mapping[str, int] | None = None,
    name: str = "glyph100",
    limit: int | None = None,
    font_dirs: Iterable[Path] = FONT_DIRS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw the benchmark into a zip: ``<class>/<package>--<font file>.png`` and ``dataset.json``.

    The same fonts, Pillow and FreeType give the same bytes.

    Args:
        out: the zip file to write; an existing one is replaced.
        faces: "all" (600) or "open" (551, without GPL and AGPL fonts).
        classes: letters, or the name of a class set (source80, target20, target10, ...); None: all 100.
        size: pixels of the square images.
        colour: RGB colour pairs instead of grey, a function of face and letter.
        splits: e.g. {"train": 100, "val": 225, "test": 226}: the layout becomes ``<split>/<class>/...``,
            and a face goes to the same split for all classes: held-out faces are so for every letter.
        name: what dataset.json calls the set.
        limit: only the first so many faces of the list.
        font_dirs: where to look for the font files.
        progress: called as progress(faces done, faces in all).

    Returns:
        {"path", "images", "classes", "faces", "size", "channels", "bytes", "sha256", "seconds", "warnings"}.

    Raises:
        DataError: fonts are missing (names the packages). UsageError: bad options. OutputError: cannot write.
    """
    if faces not in ("all", "open"):
        raise UsageError(f"faces '{faces}' is unknown: choose all or open")
    if not 8 <= size <= 1024:
        raise UsageError(f"size {size} is out of range: choose 8 to 1024 pixels")
    started, out = time.monotonic(), Path(out)
    letters = _choose_letters(classes)
    wanted = [face for face in face_list() if faces == "all" or face["open"]][:limit]
    found, notes = find_faces(wanted, font_dirs)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    assigned = assign_splits(found, splits) if splits else [""] * len(found)
    drawn = []
    for done, face in enumerate(found, 1):
        drawn.append(draw_face(face, letters, size, colour))
        if progress:
            progress(done, len(found))
    members = []
    for split in splits or [""]:
        for i, letter in enumerate(letters):
            folder = f"{split}/{letter}" if split else letter
            for face, where, pictures in zip(found, assigned, drawn, strict=True):
                if where == split:
                    members.append((f"{folder}/{face_name(face)}.png", pictures[i]))
    about = _manifest(name, letters, found, assigned, size, colour, splits)
    text = json.dumps(about, ensure_ascii=False, indent=1)
    sha256 = write_zip(out, [*members, ("dataset.json", text.encode())])
    return {
        "path": str(out),
        "images": len(members),
        "classes": letters,
        "faces": len(found),
        "size": size,
        "channels": 3 if colour else 1,
        "bytes": out.stat().st_size,
        "sha256": sha256,
        "seconds": round(time.monotonic() - started, 1),
        "warnings": notes,
    }


def _manifest(
    name: str,
    letters: Sequence[str],
    faces: Sequence[Mapping[str, Any]],
    assigned: Sequence[str],
    size: int,
    colour: bool,
    splits: Mapping[str, int] | None,
) -> dict[str, Any]:
    """What dataset.json says: the class sets the archive can serve, faces with licences, how it was drawn."""
    keep = ("package", "version", "file", "family", "style", "licence", "sha256", "open")
    rows = [{key: face[key] for key in keep} for face in faces]
    draw_px, ink_px = round(DRAW_PX * size / CELL_PX), round(INK_PX * size / CELL_PX)
    recipe: dict[str, Any] = {
        "builder": "gantransfer.glyph100",
        "drawing": f"drawn at {draw_px} px (FreeType, basic layout), cropped to the ink, long side to {ink_px} px "
        f"(Lanczos), centred on {size} x {size}",
        "colours": "RGB pair per image, from face and letter" if colour else "black ink (0) on white (255)",
        "versions": {"pillow": PIL.__version__, "freetype": features.version("freetype2")},
    }
    if splits:
        rows = [{**row, "split": split} for row, split in zip(rows, assigned, strict=True)]
        recipe["splits"] = dict(splits)
        recipe["split_rule"] = (
            "faces in order of sha256('0:<package>/<file>'), cut in turn; the same faces for every class, so that "
            "held-out faces are so for every letter (other weights or widths of a family may be in training)"
        )
    return {
        "name": name,
        "classes": list(letters),
        "class_sets": {key: value for key, value in CLASS_SETS.items() if set(letters).issuperset(value)},
        "size": size,
        "channels": 3 if colour else 1,
        "faces": rows,
        "recipe": recipe,
    }


def build_shipped_target(folder: Path = shipped.DATA, **options: Any) -> dict[str, Any]:
    """Rebuild ``cyrillic10.zip`` (10 letters x 551 open faces, 100 for training) and ``LICENCES.md``.

    `folder` receives both; `options` go to `build_glyph100`, whose summary is returned.
    """
    options = {"splits": SHIPPED_SPLITS, **options}
    out = Path(folder) / "cyrillic10.zip"
    summary = build_glyph100(out, faces="open", classes="target10", name="cyrillic10", **options)
    with zipfile.ZipFile(out) as archive:
        faces = json.loads(archive.read("dataset.json"))["faces"]
    (out.parent / "LICENCES.md").write_text(licences_markdown(faces), encoding="utf-8")
    return summary


def licences_markdown(faces: Sequence[Mapping[str, Any]]) -> str:
    """The font packages behind a set of pictures, with licences and copyright notices, as Markdown."""
    lines = [
        "# Fonts behind the shipped pictures",
        "",
        "Every picture shows one letter of one of these faces, reduced to 32 x 32 pixels. The packages are Debian's;",
        "the licences are those of the outlines, as each package's copyright file states them. Generated by",
        "`python -m gantransfer.glyph100 --shipped-target`.",
        "",
        "| package | version | faces | families | licence of the outlines | copyright |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    packages = package_list()
    for package in sorted({face["package"] for face in faces}):
        mine = [face for face in faces if face["package"] == package]
        families = ", ".join(sorted({face["family"] for face in mine}))
        versions = ", ".join(sorted({face["version"] for face in mine}))
        about = packages[package]
        row = (package, versions, str(len(mine)), families, about["licence"], about["copyright"])
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this module; ``gantransfer data glyph100`` is the comfortable one."""
    parser = argparse.ArgumentParser(prog="python -m gantransfer.glyph100")
    parser.add_argument("out", nargs="?", type=Path, help="zip file to write (a folder with --shipped-target)")
    parser.add_argument("--faces", default="all", choices=["all", "open"])
    parser.add_argument("--classes", help="letters with commas, or a class set: " + ", ".join(CLASS_SETS))
    parser.add_argument("--size", type=int, default=CELL_PX)
    parser.add_argument("--colour", action="store_true")
    parser.add_argument("--shipped-target", action="store_true", help="rebuild the package's target set")
    options = vars(parser.parse_args(arguments))
    out, ship = options.pop("out"), options.pop("shipped_target")
    if ship:
        summary = build_shipped_target(out or shipped.DATA)
    elif out is None:
        parser.error("name the zip file to write")
    else:
        summary = build_glyph100(out, **options)
    print(json.dumps({**summary, "classes": len(summary["classes"])}))


if __name__ == "__main__":
    main()
