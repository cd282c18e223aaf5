"""Decoding: every mode and depth, fitting to the size, bad files, what the scan reports."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from nasty_images import bad_files, good_files
from picture_files import Members, letters, noise, packed, png, tree
from PIL import Image

from gantransfer import decoding
from gantransfer.data import ImageData, to_float
from gantransfer.errors import DataError

DECODING = good_files()


@pytest.mark.parametrize("name", DECODING)
def test_modes(name: str) -> None:
    content, row, note = DECODING[name].content, DECODING[name].row, DECODING[name].note
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, mode, notes = decoding.decode(content)
        assert image.mode in ("L", "RGB") and mode == Image.open(io.BytesIO(content)).mode
    pixels = decoding.fit_image(image, 8, "crop", 1)
    assert pixels.shape == (1, 8, 8)
    assert np.abs(pixels[0, 0].astype(int) - row).max() <= DECODING[name].within
    assert (note is None) == (notes == []) and (note is None or note in notes[0])


def test_scan_reports_modes_sizes_and_conversions(tmp_path: Path) -> None:
    eight = [good.content for name, good in DECODING.items() if "000" not in name and "1x1" not in name]
    members = {f"a/{i:02d}.bin.png": content for i, content in enumerate(eight)}
    members["a/wide.png"] = png(noise(1, 10, 20))
    members["a/readme.txt"] = b"not an image"
    data = ImageData(tree(tmp_path, members), size=8, channels=1)
    report = data.report
    assert report["modes"]["I;16"] == 2 and report["sizes"] == {"8x8": len(eight), "20x10": 1}
    said = " | ".join(report["conversions"])
    for words in ("EXIF", "5 of 35 images: transparency", "resized to 8 x 8 (crop)", "colour converted to grey"):
        assert words in said
    assert report["ignored"] == 1 and "one class" in report["warnings"][0]
    assert json.loads(json.dumps(report)) == report


def test_size_and_channels_are_inferred(tmp_path: Path) -> None:
    tree(tmp_path, {"a/1.png": png(noise(0, 9, 12)), "a/2.png": png(noise(1, 10, 7))})
    data = ImageData(tmp_path)
    assert (data.size, data.channels) == (7, 1) and "no size was given: 7 px" in data.report["conversions"][0]
    tree(tmp_path, {"a/3.png": png(noise(0, 9, 12, 3))})
    assert ImageData(tmp_path).channels == 3


def test_grey_in_three_channels_and_back(tmp_path: Path) -> None:
    tree(tmp_path, {"a/1.png": png(noise(0)), "a/2.png": png(noise(1))})
    grey, colour = ImageData(tmp_path), ImageData(tmp_path, channels=3)
    assert torch.equal(colour.images(), grey.images().expand(-1, 3, -1, -1))
    assert "grey repeated in 3 channels" in colour.report["conversions"][0]


def test_fits() -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    image = Image.fromarray(wide)
    assert (decoding.fit_image(image, 4, "crop", 1) == 200).all()
    padded = decoding.fit_image(image, 12, "pad", 3)
    assert (padded[:, :4] == 255).all() and (padded[:, 8:] == 255).all() and np.array_equal(padded[0, 4:8], wide)
    stretched = decoding.fit_image(image, 12, "stretch", 1)
    assert (stretched[0, :, 5:7] == 200).all() and (stretched[0, :, :3] == 0).all()
    for shape in ((5, 3), (7, 9), (1, 40), (1, 4_000_000)):
        for fit in decoding.FITS:
            assert decoding.fit_image(Image.fromarray(np.zeros(shape, np.uint8)), 6, fit, 1).shape == (1, 6, 6)


def test_to_float_spans_minus_one_to_one() -> None:
    out = to_float(torch.tensor([0, 255, 51], dtype=torch.uint8))
    assert out.dtype == torch.float32 and out.tolist() == pytest.approx([-1, 1, -0.6])


def broken_files() -> Members:
    """Files with an image's name that cannot be used, few enough to be named in one sentence."""
    names = ("empty.png", "text.png", "truncated.png", "truncated.jpeg", "bomb.png", "nan.tif", "postscript.png")
    return {f"a/{name}": bad_files()[name][0] for name in names}


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("size", [None, 8])
def test_every_bad_file_is_listed_at_once(tmp_path: Path, as_zip: bool, size: int | None) -> None:
    bad = broken_files()
    members = bad | letters({"a": 3})
    path = packed(tmp_path / "d.zip", members) if as_zip else tree(tmp_path / "d", members)
    with pytest.raises(
        DataError, match=f"{len(bad)} of {len(members)} images .* cannot be used.*--on-bad skip"
    ) as info:
        ImageData(path, size=size)
    assert [item["path"] for item in info.value.report["bad"]] == sorted(bad)
    assert all(name in str(info.value) for name in bad)
    reasons = {item["path"]: item["reason"] for item in info.value.report["bad"]}
    assert reasons["a/empty.png"] == "empty file" and "pixels" in reasons["a/bomb.png"]
    assert "truncated" in reasons["a/truncated.jpeg"] and "not finite" in reasons["a/nan.tif"]
    data = ImageData(path, size=size, on_bad="skip")
    assert len(data) == 3 and len(data.report["bad"]) == len(bad) and "skipped" in data.report["warnings"][1]
    json.dumps(data.report)


def test_a_long_list_of_bad_files_is_cut_and_says_where_it_is_whole(tmp_path: Path) -> None:
    tree(tmp_path, letters({"a": 2}) | {f"a/bad-{i:02d}.png": b"" for i in range(30)})
    with pytest.raises(DataError, match="30 of 32 images .*, the first 20 .'gantransfer data check' lists all") as info:
        ImageData(tmp_path)
    assert "bad-19" in str(info.value) and "bad-20" not in str(info.value)


def test_only_broken_files(tmp_path: Path) -> None:
    tree(tmp_path, broken_files())
    for on_bad in ("error", "skip"):
        with pytest.raises(DataError, match="no readable image is left"):
            ImageData(tmp_path, on_bad=on_bad)


def test_unreadable_members_and_odd_files(tmp_path: Path) -> None:
    members = letters({"a": 3})
    path = packed(tmp_path / "d.zip", members)
    content = bytearray(path.read_bytes())
    content[content.find(b"IDAT") + 8] ^= 0xFF  # the first member's checksum no longer fits
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"1 of 3 .*a/00.png \(cannot be read \(Bad CRC-32"):
        ImageData(path)
    folder = tree(tmp_path / "d", members)
    (folder / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"a/gone.png \(cannot be read \(not a regular file"):
        ImageData(folder)


def test_duplicates_are_reported_and_kept(tmp_path: Path) -> None:
    same = noise(3)
    members = {"a/1.png": png(same), "a/2.png": png(same, compress_level=0), "b/1.png": png(same), "b/2.png": png(4)}
    data = ImageData(tree(tmp_path, members))
    assert len(data) == 4 and data.report["duplicates"] == [["a/1.png", "a/2.png", "b/1.png"]]
    assert "cross classes" in data.report["warnings"][-1]


@pytest.mark.parametrize("name", DECODING)
def test_damaged_files_are_bad_or_readable(name: str) -> None:
    """Whatever bytes are changed, the answer is pixels or `BadImage`, never another exception."""
    content, rng = DECODING[name].content, np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 4):
            damaged[position] = rng.integers(0, 256)
        try:
            image, _, _ = decoding.decode(bytes(damaged[: rng.integers(1, len(content) + 1)]))
        except decoding.BadImage as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert decoding.fit_image(image, 4, "crop", 3).shape == (3, 4, 4)
