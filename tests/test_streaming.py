"""Samples as a stream: the same images as all at once, in a folder or a zip, and no trace of a zip that failed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Capture, call, refused
from PIL import Image
from tiny import make_source

from gantransfer.data import ImageData
from gantransfer.sampling import class_ids, draw_latents, latent_chunks

pytest_plugins = ["command"]


@pytest.mark.parametrize("truncation", [1.0, 0.7])
@pytest.mark.parametrize("z_dim", [1, 3, 5, 16, 20])
def test_latents_in_parts_are_those_at_once(z_dim: int, truncation: float) -> None:
    for n in (1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 100):
        whole = draw_latents(n, z_dim, 7, truncation)
        parts = list(latent_chunks(n, z_dim, 7, truncation, rows=16))
        assert torch.equal(torch.cat(parts), whole) and max(map(len, parts)) <= 16


def test_classes_go_on_where_the_part_before_ended() -> None:
    names = ["a", "b", "c"]
    whole = class_ids(["c", "a"], names, 11)
    assert torch.equal(torch.cat([class_ids(["c", "a"], names, 4), class_ids(["c", "a"], names, 7, 4)]), whole)


@pytest.mark.parametrize("network", ["hierarchical", "unconditional"])
def test_images_in_parts_are_those_at_once(network: str) -> None:
    gan = make_source(network)
    parts = list(gan.stream(75, seed=3, rows=32))
    assert [len(part) for part in parts] == [32, 32, 11]
    assert np.array_equal(np.concatenate(parts), gan.sample(75, seed=3, batch_size=32))


def test_a_zip_holds_what_a_folder_does(place: Path, capsys: Capture) -> None:
    for out in ("many", "many.zip"):
        code, said, _ = call(capsys, "sample", place / "run", "-n", "7", "--single", "--out", place / out)
        assert code == 0 and "7 files" in said
    with zipfile.ZipFile(place / "many.zip") as archive:
        assert sorted(archive.namelist()) == sorted(file.name for file in (place / "many").iterdir())
        for name in archive.namelist():
            assert archive.read(name) == (place / "many" / name).read_bytes()
    assert len(ImageData(place / "many.zip")) == 7
    before = (place / "many.zip").read_bytes()
    assert call(capsys, "sample", place / "run", "-n", "7", "--single", "--out", place / "many.zip")[0] == 0
    assert (place / "many.zip").read_bytes() == before


def test_what_cannot_be_written(place: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dir.zip").mkdir()
    refused(capsys, 2, "sample", place / "run", "--single", "--out", tmp_path / "dir.zip")
    (tmp_path / "file").write_text("")
    refused(capsys, 6, "sample", place / "run", "--single", "--out", tmp_path / "file" / "x.zip")

    def full(self: zipfile.ZipFile, *args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    said = refused(capsys, 6, "sample", place / "run", "--single", "--out", tmp_path / "full.zip")
    assert "No space left" in said and sorted(p.name for p in tmp_path.iterdir()) == ["dir.zip", "file"]


def test_names_of_classes_are_no_paths(tmp_path: Path, capsys: Capture) -> None:
    gan = make_source("tables")
    gan.classes = ["../../up", "/etc/x", "a\nb", "<b>"][: len(gan.classes)] + gan.classes[4:]
    gan.save_pretrained(tmp_path / "model")
    code, _, _ = call(capsys, "sample", tmp_path / "model", "-n", "4", "--single", "--out", tmp_path / "out")
    assert code == 0 and sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]
    assert all(Image.open(file).size == (32, 32) for file in (tmp_path / "out").iterdir())
