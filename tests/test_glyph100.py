"""Glyph-100: the face list, the classes, drawing, splits, the archive; most of it without any font installed."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from gantransfer import fontfaces, glyph100, shipped
from gantransfer.data import ImageData
from gantransfer.errors import DataError, OutputError, UsageError


@pytest.fixture
def fonts(tmp_path: Path) -> Path:
    """A folder where the first two faces of the list are files with the content of Pillow's own font."""
    content = ImageFont.load_default(20).path.getvalue()
    folder = tmp_path / "fonts" / "deep"
    folder.mkdir(parents=True)
    for face in fontfaces.face_list()[:2]:
        (folder / face["file"]).write_bytes(content)
    return folder.parent


def build(out: Path, fonts: Path, **options) -> dict:
    options = {"classes": "A,b,1", "limit": 2, "font_dirs": [fonts]} | options
    with pytest.warns(UserWarning, match="2 of 2 font files differ from the recorded ones"):
        return glyph100.build_glyph100(out, **options)


def members(path: str | Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


# ------------------------------------------------------------------------------------------------ lists


def test_face_list() -> None:
    faces = fontfaces.face_list()
    assert len(faces) == len({face["sha256"] for face in faces}) == 600
    assert sum(face["open"] for face in faces) == 551
    closed = {face["package"] for face in faces if not face["open"]}
    assert closed == {"fonts-freefont-otf", "fonts-urw-base35", "fonts-liberation"}
    counts = Counter(face["package"] for face in faces)
    assert counts["fonts-noto-extra"] == 296 and counts["fonts-inter"] == 36 and len(counts) == 27
    packages = fontfaces.package_list()
    for face in faces:
        package = packages[face["package"]]
        assert all(face[key] == package[key] for key in ("version", "licence", "open"))
        assert re.fullmatch("[0-9a-f]{64}", face["sha256"]) and package["copyright"]
        assert face["open"] != ("GPL" in face["licence"] and "OFL" not in face["licence"])
    assert len({fontfaces.face_name(face) for face in faces}) == 600


def test_face_list_is_the_studys(shared: Path) -> None:
    study = json.loads((shared / "data" / "glyph100-faces.json").read_text())["faces"]
    ours = [{key: face[key] for key in ("package", "file", "family", "style")} for face in fontfaces.face_list()]
    assert ours == study


def test_class_sets() -> None:
    sets = glyph100.CLASS_SETS
    assert {name: len(letters) for name, letters in sets.items()} == {
        "source80": 80,
        "target20": 20,
        "target10": 10,
        "interleaved_source80": 80,
        "interleaved_target20": 20,
        "random_source80": 80,
        "random_target20": 20,
        "random_target10": 10,
    }
    assert "".join(sets["target10"]) == "БЖИЛЧЩЫЭЯд"
    assert "".join(sets["random_target20"]) == "KLPSfiß2390ΞαβξτωЖЦф"
    for pair in (("source80", "target20"), ("interleaved_source80", "interleaved_target20"),
                 ("random_source80", "random_target20")):
        assert len({letter for name in pair for letter in sets[name]}) == 100
    assert len(set(sets["interleaved_target20"]) & set(glyph100.TARGET)) == 4


# ------------------------------------------------------------------------------------------------ building


def test_archive(tmp_path: Path, fonts: Path) -> None:
    steps: list[tuple[int, int]] = []
    summary = build(tmp_path / "a.zip", fonts, progress=lambda done, total: steps.append((done, total)))
    assert (summary["images"], summary["classes"], summary["faces"]) == (6, ["A", "b", "1"], 2)
    assert steps == [(1, 2), (2, 2)] and len(summary["warnings"]) == 1
    content = members(summary["path"])
    first = fontfaces.face_list()[0]
    assert list(content)[0] == f"A/{first['package']}--{Path(first['file']).stem}.png" and len(content) == 7
    about = json.loads(content.pop("dataset.json"))
    assert about["class_sets"] == {} and about["faces"][0]["sha256"] != first["sha256"]
    assert about["faces"][0] | {"sha256": "", "version": ""} == first | {"sha256": "", "version": ""}
    for name, picture in content.items():
        image = Image.open(io.BytesIO(picture))
        assert image.mode == "L" and image.size == (32, 32), name
        ink = Image.fromarray(255 - np.asarray(image)).getbbox()
        assert max(ink[2] - ink[0], ink[3] - ink[1]) == 26 and ink[1] + ink[3] in (31, 32, 33)
        assert np.asarray(image)[0].min() == 255 and np.asarray(image).min() == 0
    data = ImageData(summary["path"])
    assert data.classes == ["1", "A", "b"] and (data.size, data.channels) == (32, 1)


def test_the_same_bytes_again(tmp_path: Path, fonts: Path) -> None:
    one, two = (build(tmp_path / name, fonts) for name in ("a.zip", "b.zip"))
    assert one["sha256"] == two["sha256"] and (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "fonts"]


def test_colour_pairs_and_size(tmp_path: Path, fonts: Path) -> None:
    content = members(build(tmp_path / "a.zip", fonts, size=64, colour=True)["path"])
    content.pop("dataset.json")
    for name, picture in content.items():
        image = Image.open(io.BytesIO(picture))
        letter, face = name.removesuffix(".png").split("/")
        ink, page = fontfaces.colour_pair(face, letter)
        assert image.mode == "RGB" and image.size == (64, 64) and image.getpixel((0, 0)) == page
        assert ink in {colour for _, colour in image.getcolors(64 * 64)}
        assert abs(np.dot([0.299, 0.587, 0.114], np.subtract(ink, page))) >= 96
    assert len({Image.open(io.BytesIO(picture)).getpixel((0, 0)) for picture in content.values()}) == 6


def test_splits_keep_a_face_together(tmp_path: Path, fonts: Path) -> None:
    summary = build(tmp_path / "a.zip", fonts, splits={"train": 1, "val": 1})
    data = ImageData(summary["path"], allow_tiny=True)
    assert len(data) == 3 and len({path.rpartition("/")[2] for path in data.paths}) == 1
    faces = json.loads(members(summary["path"])["dataset.json"])["faces"]
    assert sorted(face["split"] for face in faces) == ["train", "val"]


def test_assigned_splits_do_not_depend_on_order() -> None:
    faces = fontfaces.face_list()
    splits = {"train": 100, "val": 225, "test": 226}
    forward, backward = glyph100.assign_splits(faces, splits), glyph100.assign_splits(faces[::-1], splits)
    assert Counter(forward) == {**splits, "": 49} and forward == backward[::-1]
    assert forward != glyph100.assign_splits(faces, splits, seed=1)
    with pytest.raises(UsageError, match="need 700 of 600 faces"):
        glyph100.assign_splits(faces, {"train": 700})


# ------------------------------------------------------------------------------------------------ wrong inputs


def test_missing_fonts_name_their_packages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"600 of 600 font files are not installed.*apt-get install fonts-") as info:
        glyph100.build_glyph100(tmp_path / "a.zip", font_dirs=[tmp_path])
    named = set(re.findall("fonts-[a-z0-9-]+", str(info.value)))
    assert named == set(fontfaces.package_list()) and not (tmp_path / "a.zip").exists()
    with pytest.raises(DataError, match="551 of 551") as info:
        glyph100.build_glyph100(tmp_path / "a.zip", faces="open", font_dirs=[tmp_path])
    assert "urw" not in str(info.value)


def test_a_font_without_the_letter(tmp_path: Path, fonts: Path) -> None:
    with (
        pytest.warns(UserWarning, match="differ"),
        pytest.raises(DataError, match="has no 'Ж': install the version of the package"),
    ):
        glyph100.build_glyph100(tmp_path / "a.zip", classes=["Ж"], limit=1, font_dirs=[fonts])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"faces": "some"}, "faces 'some' is unknown: choose all or open"),
        ({"classes": "target11"}, "did you mean 'target10'"),
        ({"classes": ["A", "A"]}, "not distinct letters"),
        ({"classes": "A,И,И"}, "not distinct letters"),
        ({"classes": []}, "not distinct letters"),
        ({"size": 4}, "size 4 is out of range"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        glyph100.build_glyph100(tmp_path / "a.zip", **options)


def test_an_output_that_cannot_be_written(tmp_path: Path, fonts: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="differ"), pytest.raises(OutputError, match="cannot write"):
        glyph100.build_glyph100(tmp_path / "file" / "a.zip", classes="A", limit=1, font_dirs=[fonts])


# ------------------------------------------------------------------------------------------------ with real fonts


def test_real_fonts(tmp_path: Path) -> None:
    """Two faces, three letters; the pictures of the shipped target come out again, pixel for pixel."""
    faces = [face for face in fontfaces.face_list() if face["open"]][:2]
    try:
        found, notes = fontfaces.find_faces(faces)
    except DataError as error:
        pytest.skip(str(error))
    if notes:
        pytest.skip(notes[0])
    summary = glyph100.build_glyph100(tmp_path / "a.zip", classes="Б,Ж,д", faces="open", limit=2)
    with zipfile.ZipFile(shipped.DATA / "cyrillic10.zip") as archive:
        ours = {name.partition("/")[2]: name for name in archive.namelist()}
        for name, picture in members(summary["path"]).items():
            if name != "dataset.json":
                mine, theirs = (
                    np.asarray(Image.open(io.BytesIO(content)), int) for content in (picture, archive.read(ours[name]))
                )
                assert np.abs(mine - theirs).max() <= 2  # FreeType versions round edges differently
    assert len(found) == 2 and summary["images"] == 6


def test_shipped_licences() -> None:
    with zipfile.ZipFile(shipped.DATA / "cyrillic10.zip") as archive:
        about = json.loads(archive.read("dataset.json"))
    assert len(about["faces"]) == 551 and all(face["open"] for face in about["faces"])
    assert Counter(face["split"] for face in about["faces"]) == {"train": 100, "val": 225, "test": 226}
    assert (shipped.DATA / "LICENCES.md").read_text(encoding="utf-8") == glyph100.licences_markdown(about["faces"])
