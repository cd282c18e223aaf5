"""The library's verbs on a tiny source and a tiny folder: from images to a measured, extendable model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from api_run import FAST, refused, stopped_at
from picture_files import noise, png, tree
from PIL import Image
from tiny import make_source, same, write_images

import gantransfer as gt
from gantransfer import api, runs
from gantransfer.data import ImageData
from gantransfer.errors import DataError, Interrupted, ModelError, UsageError
from gantransfer.weights import read_tensors

pytest_plugins = ["api_run"]


# ---- the whole way ---------------------------------------------------------------------------------------


def test_a_run_directory_holds_what_it_should(run: api.Run, source: Path, folder: Path) -> None:
    out = run.path
    assert {p.name for p in out.iterdir()} == {
        "config.yaml", "env.json", "data.json", "stats.jsonl", "metrics.jsonl", "result.json", "report.html", "samples",
        "analysis", "adapter", "checkpoints"}
    assert {p.name for p in (out / "samples").iterdir()} == {
        "classes.json", "step-000000.png", "step-000001.png", "step-000002.png", "step-000004.png", "before.png",
        "after.png", "real.png", "nearest.png", "nearest.json", "adaptation.webp"}
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
    assert found["reference"] == "held-out" and found["n_real"] == 33 and found["metrics"].keys() >= {"frechet"}
    by_path = gt.evaluate(run.path, folder, data_options={"per_class": 6}, n_fake=12, metrics="frechet,accuracy")
    assert by_path["metrics"] == found["metrics"]
    plain = gt.evaluate(run, folder, n_fake=12, metrics="frechet,accuracy")  # the run knows what it held out
    assert plain["metrics"] == found["metrics"] and plain["reference"] == "held-out"
    everything = gt.evaluate(run, folder, data_options={"split": "all"}, n_fake=12, metrics="frechet")
    assert everything["reference"] == "given images" and "are in the reference" in everything["warnings"][0]
    other = gt.evaluate(run, folder, data_options={"per_class": 6, "seed": 1}, n_fake=12, metrics="frechet")
    assert other["reference"] == "given images" and "training images are in the reference" in other["warnings"][0]
    alone = gt.evaluate(run.gan, folder, n_fake=12, metrics="frechet")  # what it was trained on is unknown
    assert alone["reference"] == "given images" and not alone["training_bound"]
    with pytest.raises(UsageError, match="class 'a' of the data is not one of the model's"):
        gt.evaluate(make_source(), folder, n_fake=4, metrics="frechet")
    with pytest.raises(UsageError, match="data has no setting 'size' .it is the source's"):
        gt.evaluate(run, folder, data_options={"size": 64})


def test_measuring_with_a_flat_folder(run: api.Run, tmp_path: Path) -> None:
    flat = write_images(tmp_path / "flat", {"": 8})
    with pytest.raises(DataError, match="flat folder and this model has 3 classes: .* --class-name"):
        gt.evaluate(run, flat, n_fake=4, metrics="frechet")
    found = gt.evaluate(run, flat, data_options={"class_name": "a"}, n_fake=4, metrics="frechet")
    assert found["reference"] == "given images" and "2 of 6 training images are in" in found["warnings"][0]


def test_a_run_is_a_source(run: api.Run, folder: Path, tmp_path: Path) -> None:
    fields = {**FAST, "discriminator": "scratch", "evaluate": False}
    of_path = gt.adapt(run.path, folder, "transfergan", tmp_path / "path", **fields)
    of_run = gt.adapt(run, folder, "transfergan", tmp_path / "run", **fields)
    assert of_path.gan.sha256 == of_run.gan.sha256 == gt.load(tmp_path / "run").sha256
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["source"]["name"] == str(run.path.resolve()) and config["train"]["threads"] is None
    edited = {**config, "train": {**config["train"], "steps": FAST["steps"] + 1}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(edited))
    assert gt.resume(tmp_path / "run").result["steps"] == FAST["steps"] + 1


def test_threads_are_recorded_and_given_back(source: Path, folder: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gt.adapt(source, folder, "bsa", tmp_path / "run", evaluate=False, threads=1, **FAST)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["threads"] == 1


def test_features_from_a_relative_path(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (Path(gt.__file__).parent / "shipped" / "features").glob("glyph-cnn.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    gt.adapt(source, folder, "bsa", "run", features="glyph-cnn:glyph-cnn.safetensors", **FAST)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["measure"]["features"] == f"glyph-cnn:{tmp_path / 'glyph-cnn.safetensors'}"


def test_a_large_set_is_never_read_whole(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantransfer.scan.MEMORY_LIMIT", 0)
    root, most = write_images(tmp_path / "many", {"a": 300, "b": 300}), []
    images = ImageData(root, size=32, channels=1)
    read = ImageData.images

    def counted(self: ImageData, indices: object = None) -> torch.Tensor:
        found = read(self, indices)
        most.append(len(found))
        return found

    monkeypatch.setattr(ImageData, "images", counted)
    gt.adapt(source, images, "bsa", tmp_path / "run", **FAST)
    assert not images.report["in_memory"] and max(most) <= 512


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
    assert (found["method"]["lr"], found["train"]["steps"], found["images"]) == (0.1, 7, 84)
    assert found["trained_parameters"].keys() == {"D", "classes", "noise"} and found["plan"]
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_the_run_never_reaches_is_said(source: Path, folder: Path) -> None:
    found = api.plan(source, folder, "minegan", steps=3, batch_size=4, mining_nimg=12)["plan"]
    assert [note for note in found if note.startswith("never begun")] == [
        "never begun: phase G of M, G: it begins at 12 images and the run shows 12 (3 iterations of 4); give more "
        "steps, or a shorter stage before it"]
    found = api.plan(source, folder, "minegan", steps=4, batch_size=4, mining_nimg=12)["plan"]
    assert not [note for note in found if note.startswith("never begun")]


def test_pre_training_as_published(folder: Path, tmp_path: Path) -> None:
    small = {"z_dim": 8, "embed_dim": 4, "width": 4}
    run = gt.pretrain(folder, tmp_path / "run", arch="gp_gan", network=small, published=True, evaluate=False, steps=1,
                      batch_size=4, lr_g=2e-4)
    config = runs.read_config(run.path)
    assert config["train"] | {"optimizer": "rmsprop", "image_noise": 1 / 128, "mirror": True, "batch_size": 4,
                              "ema_decay": 0.999} == config["train"]
    assert (config["loss"]["kind"], config["loss"]["r1_gamma"], config["loss"]["r1_every"]) == (
        "non-saturating", 20.0, 1)
    assert (config["method"]["lr_g"], config["method"]["lr_d"], config["method"]["class_lr_scale_g"]) == (2e-4, 1e-4, 1)


@pytest.mark.parametrize("method", ["scratch", "transfergan", "freezed", "bsa"])
def test_the_other_methods_come_to_an_end(
    source: Path, folder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = gt.adapt(source, folder, method, evaluate=False, **{**FAST, "steps": 2})
    assert found.path == Path("runs") / f"{method}-1"
    assert found.metrics == [] and found.result["rows"] == []
    assert (found.path / "report.html").is_file() and found.gan.sample(3).shape == (3, 32, 32, 1)


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_trackers(
    tracker: str, source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker, reason="an extra that is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    gt.adapt(source, folder, "bsa", tmp_path / "run", track=tracker, **FAST)
    pattern = {"tensorboard": "run/**/events.out.tfevents.*", "wandb": "wandb/offline-run-*"}[tracker]
    assert list(tmp_path.glob(pattern))


def test_the_seed_reaches_what_is_newly_drawn(source: Path, folder: Path) -> None:
    of = [api.plan(source, folder, "scratch", **settings)["method"]["init_seed"]
          for settings in ({}, {"seed": 3}, {"seed": 3, "init_seed": 5})]
    assert of == [0, 3, 5]


def test_pretraining_makes_a_source(folder: Path, tmp_path: Path) -> None:
    network = {"z_dim": 8, "channels": 1, "g_widths": [16, 8, 8, 8], "d_widths": [8, 8, 8, 16]}
    made = gt.pretrain(folder, tmp_path / "pre", network=network, name="tiny", **{**FAST, "steps": 3})
    gan = gt.GAN.from_pretrained(tmp_path / "pre" / "model")
    assert gan.classes == ["a", "b", "c"] and gan.discriminator is not None and gan.card["name"] == "tiny"
    assert made.gan.sha256 == gan.sha256 == api.load(tmp_path / "pre").sha256
    assert gt.resume(tmp_path / "pre").gan.sha256 == gan.sha256


# ---- sources without a name ------------------------------------------------------------------------------


def test_ready_images_say_the_resolution_of_pretraining(folder: Path, tmp_path: Path) -> None:
    images = ImageData(folder, size=64, channels=1)
    network = {"g_widths": (4,) * 5, "d_widths": (4,) * 5, "z_dim": 4, "channels": None}
    found = gt.pretrain(images, tmp_path / "run", network=network, evaluate=False, **{**FAST, "steps": 1})
    assert found.gan.sample(1).shape == (1, 64, 64, 1)


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
    refused(DataError, "the images are 16 px with 1 channel.*this run trains on 32 px with 1", tmp_path / "out", source,
            data, "bsa")
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
