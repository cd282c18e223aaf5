"""Font faces: find the listed files among the installed ones, and draw one letter of one face."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageFont

from gantransfer import shipped
from gantransfer.errors import DataError

FONT_DIRS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path.home() / ".local/share/fonts",
    Path.home() / ".fonts",
)
DRAW_PX, INK_PX, CELL_PX = 104, 26, 32
_WHITE = 255
_MIN_CONTRAST = 96  # of 255, in luma: below it thin strokes in a colour pair become unreadable


def face_list() -> list[dict[str, Any]]:
    """The 600 faces: package, version, file, family, style, licence, sha256, open (no GPL or AGPL)."""
    return json.loads(shipped.FACE_LIST.read_text(encoding="utf-8"))["faces"]


def package_list() -> dict[str, dict[str, Any]]:
    """The Debian packages of the faces: version, licence of the outlines, open, copyright."""
    return json.loads(shipped.FACE_LIST.read_text(encoding="utf-8"))["packages"]


@functools.cache
def _shared_stems() -> frozenset[str]:
    """File stems that two listed fonts share (Play-Bold is there as .otf and .ttf)."""
    stems = Counter(Path(face["file"]).stem for face in face_list())
    return frozenset(stem for stem, count in stems.items() if count > 1)


def face_name(face: Mapping[str, Any]) -> str:
    """The image's name without ``.png``: package--stem, with the suffix where the stem alone is ambiguous."""
    file = Path(face["file"])
    return f"{face['package']}--{file.name if file.stem in _shared_stems() else file.stem}"


def _installed_version(package: str) -> str:
    """The Debian version of `package`; "unknown" where it is not installed or there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return "unknown"
    ask = ["dpkg-query", "--show", "--showformat", "${Version}", package]
    return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def find_faces(
    faces: Sequence[Mapping[str, Any]], font_dirs: Iterable[Path] = FONT_DIRS
) -> tuple[list[dict[str, Any]], list[str]]:
    """Locate font files by name under `font_dirs`.

    Returns:
        (found, notes): the faces in order, with their ``path`` and the sha256 and version actually found;
        and one sentence about the files that differ from the list.

    Raises:
        DataError: files are missing; it names the Debian packages to install.
    """
    where: dict[str, list[Path]] = {}
    for root in font_dirs:
        for folder, _, names in os.walk(root):
            for name in names:
                where.setdefault(name, []).append(Path(folder, name))
    missing = [face for face in faces if face["file"] not in where]
    if missing:
        packages = " ".join(sorted({face["package"] for face in missing}))
        raise DataError(
            f"{len(missing)} of {len(faces)} font files are not installed (the first: {missing[0]['file']}): "
            f"run 'apt-get install {packages}' and try again"
        )
    found, other = [], []
    for face in faces:
        # A name may lie in several folders: take the recorded content if any of them has it.
        hashes = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(where[face["file"]])}
        sha256 = face["sha256"] if face["sha256"] in hashes else next(iter(hashes))
        if sha256 != face["sha256"]:
            other.append(face["package"])
        found.append({**face, "path": hashes[sha256], "sha256": sha256})
    for package in set(other):
        version = _installed_version(package)
        for face in found:
            if face["package"] == package:
                face["version"] = version
    if not other:
        return found, []
    note = (
        f"{len(other)} of {len(faces)} font files differ from the recorded ones (another version of "
        f"{', '.join(sorted(set(other)))}): the images may differ from the published set; the actual versions "
        "and hashes are recorded"
    )
    return found, [note]


def draw_glyph(font: ImageFont.FreeTypeFont, character: str, size: int = CELL_PX) -> Image.Image:
    """Draw one letter: ink cropped, long side 26/32 of `size`, centred; mode L, black (0) on white (255).

    `font` should be loaded at 104/32 of `size` pixels, so that the letter is always reduced.

    Raises:
        DataError: the font draws nothing for the letter.
    """
    mask = font.getmask(character, mode="L")
    ink = Image.frombytes("L", mask.size, bytes(mask)) if all(mask.size) else None
    box = ink.getbbox() if ink else None
    if ink is None or box is None:
        name = " ".join(font.getname())
        raise DataError(f"font '{name}' draws nothing for '{character}': use a font that has the letter")
    ink = ink.crop(box)
    scale = round(INK_PX * size / CELL_PX) / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    ink = ink.resize((width, height), Image.Resampling.LANCZOS)
    cell = Image.new("L", (size, size), 0)
    cell.paste(ink, ((size - width) // 2, (size - height) // 2))
    return cell.point([_WHITE - value for value in range(256)])


def _luma(rgb: Sequence[int]) -> float:
    """Perceived brightness in 0..255 (ITU-R BT.601 weights)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def colour_pair(face: str, character: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ink, page) RGB colours, a function of face and letter only, at least 96 of 255 apart in luma."""
    rng = random.Random(f"{face}/{character}")
    while True:
        ink, page = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
        if abs(_luma(ink) - _luma(page)) >= _MIN_CONTRAST:
            return ink, page


def draw_face(face: Mapping[str, Any], letters: Sequence[str], size: int, colour: bool) -> list[bytes]:
    """The letters of one found face (see `find_faces`) as PNG files.

    Raises:
        DataError: the face lacks a letter.
    """
    # The basic layout draws the one glyph of the character, whatever shaping library is installed.
    basic = ImageFont.Layout.BASIC
    font = ImageFont.truetype(str(face["path"]), round(DRAW_PX * size / CELL_PX), layout_engine=basic)
    # A code point that will never be assigned shows the face's picture for 'no such letter'.
    absent = bytes(font.getmask("\U0010ffff", mode="L"))
    pictures = []
    for letter in letters:
        if absent and bytes(font.getmask(letter, mode="L")) == absent:
            raise DataError(
                f"font file {face['file']} of {face['package']} {face['version']} has no '{letter}': "
                "install the version of the package that the face list names"
            )
        picture = draw_glyph(font, letter, size)
        if colour:
            ink, page = (Image.new("RGB", (size, size), rgb) for rgb in colour_pair(face_name(face), letter))
            picture = Image.composite(page, ink, picture)
        out = io.BytesIO()
        picture.save(out, "PNG", optimize=True)
        pictures.append(out.getvalue())
    return pictures
