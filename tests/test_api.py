"""The library's verbs on a tiny source and a tiny folder: from images to a measured, extendable model."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from picture_files import noise, png, tree
from PIL import Image
from tiny import make_source, same, write_images

import gantransfer as gt
from gantransfer import api
from gantransfer.data import ImageData
from gantransfer.errors import DataError, GanTransferError, Interrupted, ModelError, OutputError, UsageError
from gantransfer.weights import read_tensors

FAST: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "n_fake": 12, "device": "cpu", "eval_nimg": 8, "checkpoint_nimg": 8,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved source of four classes."""
    return make_source("hierarchical").save_pretrained(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twelve images."""
    return write_images(tmp_path_factory.mktemp("images"), dict.fromkeys("abc", 12))


@pytest.fixture(scope="module")
def run(source: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A finished run on six images per class; the others are held out."""
    out = tmp_path_factory.mktemp("runs") / "first"
    return gt.adapt(source, folder, "cgantransfer", out, data_options={"per_class": 6}, **FAST)


def stopped_at(step: int) -> Callable[[dict[str, Any]], None]:
    """A progress function that interrupts the run as Ctrl-C does."""

    def progress(event: dict[str, Any]) -> None:
        if event["event"] == "evaluated" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


# ---- the whole way ---------------------------------------------------------------------------------------


def test_a_run_directory_holds_what_it_should(run: api.Run, source: Path, folder: Path) -> None:
    out = run.path
    assert {p.name for p in out.iterdir()} == {
        "config.yaml", "env.json", "data.json", "stats.jsonl", "metrics.jsonl", "result.json", "report.html", "samples",
        "analysis", "adapter", "checkpoints"}
    assert {p.name for p in (out / "samples").iterdir()} == {
        "classes.json", "step-000000.png", "step-000001.png", "step-000002.png", "step-000004.png", "before.png",
        "after.png", "real.png", "nearest.png", "nearest.json"}
    assert {p.name for p in (out / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md"}
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["source"]["name"] == str(source)
    assert config["source"]["sha256"] == gt.GAN.from_pretrained(source).sha256
    assert config["data"]["path"] == str(folder) and config["data"]["classes"] == ["a", "b", "c"]
    assert config["method"]["name"] == "cgantransfer" and config["train"]["steps"] == 4
    data = json.loads((out / "data.json").read_text())
    assert len(data["fingerprint"]) == 64
    environment = json.loads((out / "env.json").read_text())
    assert {"gantransfer", "torch", "python", "platform", "cpu", "threads", "device", "date"} <= environment.keys()
    for name in ("before.png", "after.png", "real.png"):
        with Image.open(out / "samples" / name) as picture:
            assert picture.size == (8 * 34 + 2, 3 * 34 + 2)
    with Image.open(out / "samples" / "nearest.png") as picture:
        assert picture.size == (16 * 34 + 2, 2 * 34 + 2)
    scores = json.loads((out / "analysis" / "contributions.json").read_text())
    assert np.array(scores["scores"]["scale"]).shape == (len(scores["layers"]), 3, 4)


def test_metrics_and_result(run: api.Run) -> None:
    assert [m["step"] for m in run.metrics] == [0, 2, 4]
    assert all(m["split"] == "select" and "held-out" in m["protocol"] for m in run.metrics)
    assert run.metrics[0]["best"] and run.result["best_step"] in (0, 2, 4)
    rows = {row["metric"]: row for row in run.result["rows"]}
    assert {"frechet", "kid", "kmmd"} <= rows.keys()
    assert all(row["better"] in ("lower", "higher") for row in rows.values())
    assert rows["frechet"]["training_bound"] is not None and "floor" in rows["frechet"]
    assert run.result["split"] == "report" and run.result["reference"] == "held-out"
    file = run.path / "adapter" / "adapter_model.safetensors"
    assert run.result["adapter_bytes"] == file.stat().st_size
    assert 3 * run.result["bytes_per_class"] + run.result["bytes_shared"] < run.result["adapter_bytes"]
    assert (run.result["steps"], run.result["nimg"]) == (4, 16)


def test_the_adapted_model(run: api.Run, source: Path, tmp_path: Path) -> None:
    assert run.classes == ["a", "b", "c"] and run.generator is run.gan.generator
    picture = run.gan.sample(6, classes=["a", "c"], seed=3)
    assert picture.shape == (6, 32, 32, 1) and picture.dtype == np.uint8
    for again in (api.load(run.path), gt.merge(source, run.path), gt.merge(source, run.path / "adapter"),
                  gt.resume(run.path).gan, api.load_run(run.path).gan):
        assert (again.sample(6, classes=["a", "c"], seed=3) == picture).all()
    saved = api.load(run.gan.save_pretrained(tmp_path / "model"))
    assert (saved.sample(6, classes=["a", "c"], seed=3) == picture).all()


def test_extending_the_source(run: api.Run, source: Path) -> None:
    gan = gt.GAN.from_pretrained(source)
    extended = gt.extend(source, run.path)
    assert extended.classes == ["0", "1", "2", "3", "a", "b", "c"]
    old = [0, 1, 2, 3] * 2
    assert (extended.sample(8, classes=old, seed=1) == gan.sample(8, classes=old, seed=1)).all()


def test_measuring_again(run: api.Run, folder: Path) -> None:
    found = gt.evaluate(run, folder, data_options={"per_class": 6}, n_fake=12, metrics="frechet,accuracy")
    assert found["reference"] == "held-out" and found["n_real"] == 9 and found["metrics"].keys() >= {"frechet"}
    by_path = gt.evaluate(run.path, folder, data_options={"per_class": 6}, n_fake=12, metrics="frechet,accuracy")
    assert by_path["metrics"] == found["metrics"]
    everything = gt.evaluate(run, folder, n_fake=12, metrics="frechet")
    assert everything["reference"] == "training images" and any("training" in w for w in everything["warnings"])
    with pytest.raises(UsageError, match="class 'a' of the data is not one of the model's"):
        gt.evaluate(make_source(), folder, n_fake=4, metrics="frechet")
    with pytest.raises(UsageError, match="data has no setting 'size' .it is the source's"):
        gt.evaluate(run, folder, data_options={"size": 64})


def test_inspecting_everything(run: api.Run, source: Path, tmp_path: Path) -> None:
    found = api.inspect(source)
    assert (found["kind"], found["num_classes"], found["classes"]) == ("model", 4, ["0", "1", "2", "3"])
    found = api.inspect(run.path)
    assert (found["kind"], found["run_kind"], found["finished"], found["step"]) == ("run", "adapt", True, 4)
    assert api.inspect(run.path / "adapter")["kind"] == "adapter"
    found = api.inspect(source / "generator.safetensors")
    assert found["kind"] == "checkpoint" and found["dtypes"] == ["torch.float32"]
    with pytest.raises(ModelError, match="config.json"):
        api.inspect(tmp_path)
    with pytest.raises(ModelError, match="no shipped model, directory or hub id"):
        api.inspect(tmp_path / "absent")


def test_a_plan_writes_nothing(source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = api.plan(source, folder, "bsa", lr=0.1, steps=7)
    assert (found["method"]["lr"], found["train"]["steps"], found["images"]) == (0.1, 7, 36)
    assert found["trained_parameters"].keys() == {"D", "classes", "noise"} and found["plan"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["scratch", "transfergan", "freezed", "bsa"])
def test_the_other_methods_come_to_an_end(
    source: Path, folder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = gt.adapt(source, folder, method, evaluate=False, **{**FAST, "steps": 2})
    assert found.path == Path("runs") / f"{method}-1"
    assert found.metrics == [] and found.result["rows"] == []
    assert (found.path / "report.html").is_file() and found.gan.sample(3).shape == (3, 32, 32, 1)


def test_pretraining_makes_a_source(folder: Path, tmp_path: Path) -> None:
    network = {"z_dim": 8, "channels": 1, "g_widths": [16, 8, 8, 8], "d_widths": [8, 8, 8, 16]}
    made = gt.pretrain(folder, tmp_path / "pre", network=network, name="tiny", **{**FAST, "steps": 3})
    gan = gt.GAN.from_pretrained(tmp_path / "pre" / "model")
    assert gan.classes == ["a", "b", "c"] and gan.discriminator is not None and gan.card["name"] == "tiny"
    assert made.gan.sha256 == gan.sha256 == api.load(tmp_path / "pre").sha256
    assert gt.resume(tmp_path / "pre").gan.sha256 == gan.sha256


# ---- resuming --------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in path.read_text().splitlines()]


def test_interrupted_and_resumed_gives_the_same_run(
    run: api.Run, source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    relative = os.path.relpath(folder, folder.parent)
    with pytest.raises(Interrupted, match="stopped at step 2 of 4"):
        gt.adapt(source, relative, "cgantransfer", tmp_path / "run", data_options={"per_class": 6},
                 progress=stopped_at(2), **FAST)
    with pytest.raises(ModelError, match="has no adapter yet; finish it with"):
        api.load(tmp_path / "run")
    monkeypatch.chdir(tmp_path)  # where the relative path means nothing
    resumed = gt.resume(tmp_path / "run")
    for name in ("metrics.jsonl", "stats.jsonl"):
        assert _lines(tmp_path / "run" / name) == _lines(run.path / name)
    assert resumed.gan.sha256 == run.gan.sha256
    files = [p / "adapter" / "adapter_model.safetensors" for p in (run.path, tmp_path / "run")]
    assert files[0].read_bytes() == files[1].read_bytes()
    drop = ("seconds",)
    assert {k: v for k, v in resumed.result.items() if k not in drop} == {
        k: v for k, v in run.result.items() if k not in drop}


@pytest.fixture
def broken_off(source: Path, folder: Path, tmp_path: Path) -> Path:
    """A run that stopped at step 2 of 4, with a source and images of its own."""
    shutil.copytree(source, tmp_path / "source")
    shutil.copytree(folder, tmp_path / "images")
    with pytest.raises(Interrupted):
        gt.adapt(tmp_path / "source", tmp_path / "images", "bsa", tmp_path / "run", progress=stopped_at(2), **FAST)
    return tmp_path / "run"


def edit(run_dir: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    change(config)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))


def test_a_changed_configuration_is_refused(broken_off: Path) -> None:
    before = (broken_off / "metrics.jsonl").read_text()

    def change(config: dict[str, Any]) -> None:
        config["method"]["lr"] = 0.5
        config["train"]["seed"] = 7
        config["loss"]["augment"] = "cutout"

    edit(broken_off, change)
    with pytest.raises(UsageError) as caught:
        gt.resume(broken_off)
    for part in ("method.lr was 0.001, is 0.5", "train.seed was 0, is 7", "loss.augment", "is 'cutout'",
                 "only train.steps may grow"):
        assert part in str(caught.value)
    assert (broken_off / "metrics.jsonl").read_text() == before


def test_changed_images_are_refused(broken_off: Path) -> None:
    images = broken_off.parent / "images"
    (images / "a" / "00.png").write_bytes(png(noise(77, 32, 32)))
    with pytest.raises(UsageError, match="data.fingerprint was"):
        gt.resume(broken_off)


def test_another_source_in_the_same_place_is_refused(broken_off: Path) -> None:
    make_source("hierarchical", seed=5).save_pretrained(broken_off.parent / "source")
    with pytest.raises(UsageError, match="source.sha256 was"):
        gt.resume(broken_off)


def test_source_and_images_may_move(broken_off: Path) -> None:
    for name in ("source", "images"):
        (broken_off.parent / name).rename(broken_off.parent / f"moved-{name}")

    def change(config: dict[str, Any]) -> None:
        config["source"]["name"] = str(broken_off.parent / "moved-source")
        config["data"]["path"] = str(broken_off.parent / "moved-images")

    with pytest.raises(ModelError, match="source '.*' is no shipped model"):
        gt.resume(broken_off)
    edit(broken_off, change)
    assert gt.resume(broken_off).result["steps"] == 4


def test_a_finished_run_may_be_extended(broken_off: Path) -> None:
    gt.resume(broken_off)
    edit(broken_off, lambda config: config["train"].update(steps=6))
    found = gt.resume(broken_off)
    assert found.result["steps"] == 6 and [m["step"] for m in found.metrics] == [0, 2, 4, 6]
    edit(broken_off, lambda config: config["train"].update(steps=5))
    assert gt.resume(broken_off).result["steps"] == 6  # finished already


@pytest.mark.parametrize(("change", "error", "match"), [
    (lambda c: c["train"].update(stepz=3), UsageError, "no setting 'stepz'; did you mean 'steps'"),
    (lambda c: c["train"].update(lr_decay="a lot"), UsageError, "lr_decay is 'a lot'"),
    (lambda c: c["method"].update(lrr=3), UsageError, "no setting 'lrr'"),
    (lambda c: c["method"].update(name="bsaa"), UsageError, "method 'bsaa' not found"),
    (lambda c: c.pop("source"), UsageError, "lacks 'source'"),
    (lambda c: c.update(train=3), UsageError, "config.yaml lacks"),
])
def test_a_broken_config_file(
    run: api.Run, tmp_path: Path, change: Callable[[dict[str, Any]], None], error: type[Exception], match: str
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    edit(tmp_path / "run", change)
    with pytest.raises(error, match=match):
        gt.resume(tmp_path / "run")


def test_what_cannot_be_resumed(run: api.Run, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no run directory"):
        gt.resume(tmp_path)
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ModelError, match="no complete checkpoint") as caught:
        gt.resume(tmp_path / "run")
    assert caught.value.exit_code == 4
    (tmp_path / "run" / "config.yaml").write_text("a: [1,\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        gt.resume(tmp_path / "run")


# ---- sources without a name ------------------------------------------------------------------------------


def test_a_gan_without_a_name_is_kept_in_the_run(folder: Path, tmp_path: Path) -> None:
    gan = make_source()
    with pytest.raises(Interrupted):
        gt.adapt(gan, folder, "bsa", tmp_path / "run", progress=stopped_at(2), **FAST)
    assert gt.GAN.from_pretrained(tmp_path / "run" / "source").sha256 == gan.sha256
    (tmp_path / "run").rename(tmp_path / "moved")
    found = gt.resume(tmp_path / "moved")
    assert found.result["steps"] == 4 and found.gan.classes == ["a", "b", "c"]
    assert gt.extend(gan, tmp_path / "moved").classes[-1] == "c"


def test_a_gan_changed_after_loading_is_kept_too(tmp_path: Path, folder: Path) -> None:
    gan = gt.GAN.from_pretrained(make_source("shared").save_pretrained(tmp_path / "model"))
    assert gan.origin
    gan.accumulate_standing_statistics(torch.randn(2, 8, gan.generator.z_dim), torch.arange(8).repeat(2, 1) % 4)
    found = gt.adapt(gan, folder, "bsa", tmp_path / "run", evaluate=False, **{**FAST, "steps": 1})
    assert gt.GAN.from_pretrained(found.path / "source").sha256 == gan.sha256


# ---- wrong inputs ----------------------------------------------------------------------------------------


def refused(error: type[GanTransferError], match: str, out: Path | None, *args: Any, **settings: Any) -> None:
    """`adapt` says so in one sentence and leaves nothing behind."""
    with pytest.raises(error, match=match) as caught:
        gt.adapt(*args, out=out, **{**FAST, **settings})
    assert type(caught.value) is error and "\n" not in str(caught.value)
    assert out is None or not out.exists()


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


# ---- images of other kinds -------------------------------------------------------------------------------


def test_small_grey_images_become_the_sources_size(source: Path, tmp_path: Path) -> None:
    """As scikit-learn's digits are: 8 x 8 pixels, five classes; nothing is held out."""
    members = {f"{digit}/{i}.png": png(noise(100 * digit + i, 8, 8)) for digit in range(5) for i in range(4)}
    digits = tree(tmp_path / "digits", members)
    for method in ("bsa", "cgantransfer"):
        found = gt.adapt(source, digits, method, tmp_path / method, **{**FAST, "steps": 2})
        assert found.classes == ["0", "1", "2", "3", "4"] and found.gan.sample(5).shape == (5, 32, 32, 1)
        assert found.result["reference"] == "training images"
        assert any("training images" in w for w in found.result["warnings"])
    data = json.loads((tmp_path / "bsa" / "data.json").read_text())
    assert data["conversions"] and data["counts"] == dict.fromkeys("01234", 4)


def test_ready_images_must_fit(source: Path, folder: Path, tmp_path: Path) -> None:
    data = ImageData(folder, size=16, channels=1)
    refused(DataError, "the images are 16 px with 1 channel.*the source makes 32 px", tmp_path / "out", source, data,
            "bsa")
    data = ImageData(folder, size=32, channels=1).class_subset(["c", "a"])
    found = gt.adapt(source, data, "bsa", tmp_path / "out", evaluate=False, **{**FAST, "steps": 1})
    assert found.classes == ["c", "a"]
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["data"]["classes"] == ["c", "a"]


def test_images_without_classes_train_an_unconditional_source(tmp_path: Path) -> None:
    flat = write_images(tmp_path / "flat", {"": 6})
    gan = make_source("unconditional")
    found = gt.adapt(gan, flat, "transfergan", tmp_path / "run", **{**FAST, "steps": 2})
    assert found.classes == ["0"] and found.gan.sample(2).shape == (2, 32, 32, 1)
    assert same(dict(found.gan.generator.state_dict()), dict(gt.merge(gan, found.path).generator.state_dict()))
    assert read_tensors(found.path / "adapter" / "adapter_model.safetensors")
