"""Wrong settings, sources, images and places: one sentence each, in the order 2, 4, 3, and nothing is written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from api_run import FAST, refused
from picture_files import tree
from PIL import Image
from tiny import make_source, write_images

import gantransfer as gt
from gantransfer.errors import DataError, ModelError, OutputError, UsageError

pytest_plugins = ["api_run"]


# ---- wrong inputs ----------------------------------------------------------------------------------------


def test_wrong_settings_come_first(tmp_path: Path) -> None:
    """Neither the source nor the data is there, and still the settings are what is said."""
    out, args = tmp_path / "out", ("no-source", tmp_path / "no-data")
    for match, method, settings in (
        ("method 'cgantransfr' not found; did you mean 'cgantransfer'", "cgantransfr", {}),
        ("no setting 'lambda_x'; did you mean 'lambda_", "cgantransfer", {"lambda_x": 1.0}),
        ("no setting 'frozen_blocks' .method 'freezed' has it", "bsa", {"frozen_blocks": 1}),
        ("no setting 'stepz'; did you mean 'steps'", "bsa", {"stepz": 1}),
        ("init 'maen' does not exist; did you mean 'mean'", "bsa", {"init": "maen"}),
        ("lr is 'fast'; give a value of type float", "bsa", {"lr": "fast"}),
        ("steps is 'many'", "bsa", {"steps": "many"}),
        ("steps -3 is not possible", "bsa", {"steps": -3}),
        ("loss 'hing' does not exist; did you mean 'hinge'", "bsa", {"loss": "hing"}),
        ("augmentation 'colour' does not exist; did you mean 'color'", "bsa", {"augment": "colour"}),
        ("precision 'fp16' is not possible", "bsa", {"precision": "fp16"}),
        ("feature extractor 'glyph-cn' not found; did you mean 'glyph-cnn'", "bsa", {"features": "glyph-cn"}),
        ("n_fake=1 generated images", "bsa", {"n_fake": 1}),
        ("tracker 'wandbb' does not exist; did you mean 'wandb'", "bsa", {"track": "wandbb"}),
    ):
        refused(UsageError, match, out, *args, method, **settings)
    refused(ModelError, "this source has no discriminator", out, make_source(critic=False), tmp_path / "no-data", "bsa")
    full = tmp_path / "full"
    tree(full, {"notes.txt": b"mine"})
    with pytest.raises(UsageError, match="exists and is not empty; choose another --out") as caught:
        gt.adapt(*args, "bsa", full, **FAST)
    assert caught.value.exit_code == 2 and (full / "notes.txt").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="exists and is not empty"):
        gt.adapt(*args, "bsa", full / "notes.txt", **FAST)


def test_then_the_source(tmp_path: Path, folder: Path) -> None:
    data = tmp_path / "no-data"
    refused(ModelError, "source 'no-source' is no shipped model", tmp_path / "out", "no-source", data, "bsa")
    refused(ModelError, "has no config.json", tmp_path / "out", folder, data, "bsa")
    model = make_source().save_pretrained(tmp_path / "model")
    blob = bytearray((model / "generator.safetensors").read_bytes())
    blob[-1] ^= 1
    (model / "generator.safetensors").write_bytes(blob)
    refused(ModelError, "the weights in .* are not those its config.json names", tmp_path / "out", model, data, "bsa")


def test_then_the_data(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    refused(DataError, "data '.*' does not exist", out, source, tmp_path / "no-data", "bsa")
    (tmp_path / "empty").mkdir()
    refused(DataError, "holds no image", out, source, tmp_path / "empty", "bsa")
    flat = write_images(tmp_path / "flat", {"": 4})
    refused(DataError, "flat folder.*--class-name", out, source, flat, "cgantransfer")
    broken = tree(tmp_path / "broken", {f"a/{i}.png": b"no picture" for i in range(3)})
    refused(DataError, "3 of 3 images", out, source, broken, "bsa")
    single = write_images(tmp_path / "single", {"a": 4, "b": 1})
    refused(DataError, "class 'b' .*only one image.*--allow-tiny", out, source, single, "bsa")
    refused(UsageError, "data has no setting 'per_clas'; did you mean 'per_class'", out, "no-source", flat, "bsa",
            data_options={"per_clas": 3})
    found = gt.adapt(source, flat, "bsa", out, data_options={"class_name": "x"}, evaluate=False, **{**FAST, "steps": 1})
    assert found.classes == ["x"]
    found = gt.adapt(source, single, "bsa", tmp_path / "out2", data_options={"allow_tiny": True}, evaluate=False,
                     **{**FAST, "steps": 1})
    assert found.classes == ["a", "b"]


def test_a_source_that_does_not_fit_the_method(tmp_path: Path, folder: Path) -> None:
    bare, plain = make_source(critic=False), make_source("unconditional")
    refused(ModelError, "no discriminator", tmp_path / "out", bare, folder, "bsa")
    refused(ModelError, "class-conditional norm layers", tmp_path / "out", plain, folder, "cgantransfer")
    refused(UsageError, "frozen_blocks 9 is outside 0 to 4", tmp_path / "out", make_source(), folder, "freezed",
            frozen_blocks=9)


def test_a_place_that_cannot_be_written(tmp_path: Path, source: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot create") as caught:
        gt.adapt(source, folder, "bsa", tmp_path / "file" / "run", **FAST)
    assert caught.value.exit_code == 6


def test_a_disk_that_fills_up_during_the_run(
    tmp_path: Path, source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is written next says so; what was saved before is taken up again."""
    original, left = Image.Image.save, [3]

    def save(self: Image.Image, path: Any, *args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, path, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OutputError, match="step-000002.png.*No space left on device.; free space") as caught:
        gt.adapt(source, folder, "bsa", tmp_path / "run", **FAST)
    assert caught.value.exit_code == 6 and not isinstance(caught.value.__cause__, OSError)
    monkeypatch.undo()
    assert gt.resume(tmp_path / "run").result["steps"] == 4
