"""Interrupted runs, and runs whose settings, source or images changed meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_run import FAST, stopped_at
from picture_files import noise, png
from tiny import make_source

import gantransfer as gt
from gantransfer import api
from gantransfer.errors import Interrupted, ModelError, UsageError

pytest_plugins = ["api_run"]


# ---- resuming --------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "measuring_seconds", "images_per_second")
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
    drop = ("seconds", "measuring_seconds")
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
    for part in ("(method.lr was ", ", is 0.5", "train.seed was 0, is 7", "loss.augment was", "is 'cutout'",
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


@pytest.mark.parametrize(("part", "name"), [("method", "lr"), ("loss", "r1_gamma"), ("train", "lr_decay")])
def test_a_config_of_another_version_is_refused(broken_off: Path, part: str, name: str) -> None:
    """Its defaults may have been others."""
    edit(broken_off, lambda config: config[part].pop(name))
    with pytest.raises(UsageError, match=f"config.yaml has no {part}.{name}"):
        gt.resume(broken_off)


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


def test_a_run_killed_before_its_report_gets_one(run: api.Run, tmp_path: Path) -> None:
    """Found by benchmarks/torture/kills.py: the result was there, so the run counted as finished."""
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    assert gt.resume(tmp_path / "run").result == run.result
    assert (tmp_path / "run" / "report.html").is_file()


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
