"""The corpus of nasty files as a data set: every offender listed at once, the good ones read right, names as text."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command import Capture, call
from nasty_images import HOSTILE_NAMES, NOT_UNICODE, bad_files, good_files
from picture_files import letters, noise, packed, png, tree

from gantransfer.data import ImageData
from gantransfer.errors import DataError, printable
from gantransfer.weights import read_json, write_json

GOOD, BAD = good_files(), bad_files()
CORPUS = {f"a/{name}": good.content for name, good in GOOD.items()} | {f"a/{n}": c for n, (c, _) in BAD.items()}


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) == len(GOOD) + len(BAD) >= 60


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("size", [8, None])
def test_every_offender_at_once_and_the_rest_right(tmp_path: Path, as_zip: bool, size: int | None) -> None:
    path = packed(tmp_path / "d.zip", CORPUS) if as_zip else tree(tmp_path / "d", CORPUS)
    with pytest.raises(DataError, match=f"{len(BAD)} of {len(CORPUS)} images") as caught:
        ImageData(path, size=size)
    found = {item["path"]: item["reason"] for item in caught.value.report["bad"]}
    assert found.keys() == {f"a/{name}" for name in BAD}
    for name, (_, words) in BAD.items():
        assert re.search(words, found[f"a/{name}"]), (name, found[f"a/{name}"])
    data = ImageData(path, size=8, on_bad="skip")
    assert f"{len(BAD)} bad files are skipped" in data.report["warnings"] and len(data.report["bad"]) == len(BAD)
    for name, image in zip(data.paths, data.images().numpy(), strict=True):
        good = GOOD[name.removeprefix("a/")]
        grey = image.astype(int) @ [1] if image.ndim == 1 else image.astype(int).mean(0)
        # A blue pixel is 29 as grey and 85 as the mean of its channels.
        assert name == "a/palette.png" or np.abs(grey[0] - good.row).max() <= good.within, name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.zip" if as_zip else "d"], "nothing was extracted"


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
def test_hostile_names_are_names(tmp_path: Path, capsys: Capture, as_zip: bool) -> None:
    members = {f"a/{name}": png(noise(i)) for i, name in enumerate(HOSTILE_NAMES)}
    members |= {f"<b>\n&'\"/{i}.png": png(noise(90 + i)) for i in range(2)}
    path = packed(tmp_path / "d.zip", members) if as_zip else tree(tmp_path / "d", members)
    data = ImageData(path)
    assert len(data) == len(members) and set(data.classes) == {"a", "<b>\n&'\""} and set(data.paths) == set(members)
    with pytest.raises(DataError) as caught:
        bad = {name: b"" for name in members if name.startswith("a/")} | letters({"b": 2})
        ImageData(packed(tmp_path / "bad.zip", bad) if as_zip else tree(tmp_path / "bad", bad))
    assert str(caught.value).isprintable() and "line\\nbreak.png" in str(caught.value)
    code, out, err = call(capsys, "data", "check", path)
    assert code == 0 and not {"\x1b", "\u202e"} & set(out + err)


def test_names_that_are_no_unicode(tmp_path: Path, capsys: Capture) -> None:
    tree(tmp_path, letters({"a": 2}))
    folder = os.fsencode(tmp_path / "a")
    os.makedirs(os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    for place in (folder, os.path.join(os.fsencode(tmp_path), b"caf\xe9")):
        for start in (b"1", b"2"):
            with open(os.path.join(place, start + NOT_UNICODE), "wb") as handle:
                handle.write(png(noise(start[0] + len(place))))
    data = ImageData(tmp_path, per_class=2)
    assert data.classes == ["a", "caf\\udce9"] and len(data) == 4
    every = ImageData(tmp_path)
    assert [n for n in every.paths if "caf" in n][0] == "a/1caf\\udce9-\\udcff.png" and len(every.images()) == 6
    write_json(every.report, tmp_path / "data.json")
    assert read_json(tmp_path / "data.json") == json.loads(json.dumps(every.report))
    with open(os.path.join(folder, b"bad" + NOT_UNICODE), "wb"):
        pass
    code, out, _ = call(capsys, "data", "check", tmp_path, "--json")
    assert code == 3 and json.loads(out)["bad"][0]["path"] == "a/badcaf\\udce9-\\udcff.png"


def test_a_path_that_is_no_unicode(tmp_path: Path) -> None:
    """Of the data folder itself: it can be used, recorded and taken up again."""
    place = os.fsdecode(os.path.join(os.fsencode(tmp_path), NOT_UNICODE))
    tree(Path(place), letters({"a": 2}))
    data = ImageData(place)
    write_json(data.settings, tmp_path / "settings.json")
    assert len(ImageData(**read_json(tmp_path / "settings.json"))) == 2
    with pytest.raises(DataError) as caught:
        ImageData(place + "x")
    str(caught.value).encode("utf-8")


def test_things_that_are_no_files(tmp_path: Path) -> None:
    tree(tmp_path, letters({"a": 2}))
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "a" / "round.png").symlink_to("round.png")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "b.png").mkdir()
    tree(tmp_path / "b.png", {"1.png": png(1), "2.png": png(2)})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(DataError, match="4 of 8 images") as caught:
        ImageData(tmp_path)
    assert {item["path"] for item in caught.value.report["bad"]} == {
        f"a/{name}.png" for name in ("pipe", "gone", "round", "zero")}


def test_zip_names_of_another_code_page(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for i in range(2):
            archive.writestr(f"a/X{i}caf.png", png(noise(i)))
    content = (tmp_path / "d.zip").read_bytes().replace(b"X0caf", b"\xff0\xe9af").replace(b"X1caf", b"\xff1\xe9af")
    (tmp_path / "d.zip").write_bytes(content)
    data = ImageData(tmp_path / "d.zip")
    assert len(data) == 2
    json.dumps(data.report).encode("utf-8")


@pytest.mark.parametrize(("text", "shown"), [
    ("plain Ж", "plain Ж"), ("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("a\u202eb", "a\\u202eb"),
    ("\udcff", "\\udcff"),
])
def test_what_is_printed_steers_no_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown == str(DataError(text))
