"""Every verb on tiny models and folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import command
import pytest
import tiny
from command import SHORT, Capture, call, refused
from PIL import Image

from gantransfer import api
from gantransfer.cli.parsing import parse
from gantransfer.cli.verbs import BY_NAME

place = command.place


def test_adapt_shows_lines_and_the_result(capsys: Capture, place: Path, tmp_path: Path) -> None:
    code, out, err = call(capsys, "adapt", "--source", place / "source", "--data", place / "images", "--method",
                          "bsa", "--lr", "1e-2", "--per-class", 4, "--out", tmp_path / "run", *SHORT)
    assert code == 0 and "Traceback" not in err
    assert re.search(r"run directory: .*(\n- .*)+\ntraining from step 0", out), "the plan comes before training"
    for expected in ("step 2/2", "images/s", "distance", "before", "after", "floor", "Fréchet", "KMMD", "measured: ",
                     "adapter", "report.html", "2 iterations"):
        assert expected in out, out
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "name: bsa" in config and "lr: 0.01" in config


def test_a_runs_config_repeats_it(capsys: Capture, place: Path, tmp_path: Path) -> None:
    code, _, err = call(capsys, "adapt", "--config", place / "run" / "config.yaml", "--out", tmp_path / "again",
                        "--quiet")
    assert code == 0, err
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (place / "run", tmp_path / "again"))
    assert first["rows"] == second["rows"]


def test_dry_run_writes_nothing(capsys: Capture, place: Path, tmp_path: Path) -> None:
    code, out, _ = call(capsys, "adapt", "--source", place / "source", "--data", place / "images", "--dry-run",
                        "--out", tmp_path / "run", *SHORT)
    assert code == 0 and "nothing was written" in out and "steps: 2" in out and "parameters" in out
    assert not (tmp_path / "run").exists()


def test_demo_takes_its_settings_and_a_free_folder(
    capsys: Capture, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gantransfer import shipped

    (tmp_path / "demo.yaml").write_text(f"source: {place / 'source'}\ndata: {place / 'images'}\nper_class: 4\n"
                                        "steps: 3\nbatch_size: 4\nn_fake: 16\n")
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/demo", "runs/demo-2"):
        code, out, err = call(capsys, "demo", "--steps", 2, "--device", "cpu")
        assert code == 0 and f"{folder}/report.html" in out, err
    assert "'runs/demo' exists" in err and (tmp_path / "runs/demo-2/samples/after.png").is_file()


def test_the_shipped_demo_settings_are_flags_of_adapt() -> None:
    from gantransfer import shipped

    assert parse(BY_NAME["adapt"], ["--config", str(shipped.ROOT / "demo.yaml")])["source"] == "glyph80-32"


def test_pretrain_then_sample_and_adapt_from_it(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    code, out, err = call(capsys, "pretrain", "--data", place / "images", "--out", tmp_path / "pre", "--z-dim", 8,
                          "--g-widths", "16,8,8,8", "--d-widths", "8,8,8,16", "--name", "small", *SHORT)
    assert code == 0 and "model" in out, err
    assert call(capsys, "sample", tmp_path / "pre", "--out", tmp_path / "p.png")[0] == 0
    code, _, err = call(capsys, "adapt", "--source", tmp_path / "pre", "--data", place / "images", "--no-evaluate",
                        "--out", tmp_path / "run", *SHORT)
    assert code == 0, err


def test_resume_of_a_finished_run_shows_it(capsys: Capture, place: Path) -> None:
    code, out, err = call(capsys, "resume", place / "run")
    assert code == 0 and "finished already" in err and "Fréchet" in out


def test_sample_grid_files_and_animations(capsys: Capture, place: Path, tmp_path: Path) -> None:
    model, source = place / "run", place / "source"
    assert call(capsys, "sample", model, "-n", 6, "--classes", "a,Ж", "--out", tmp_path / "g.png")[0] == 0
    assert Image.open(tmp_path / "g.png").size == (3 * 34 + 2, 2 * 34 + 2)
    assert call(capsys, "sample", model, "-n", 6, "--classes", "a,Ж", "--out", tmp_path / "h.png")[0] == 0
    assert (tmp_path / "g.png").read_bytes() == (tmp_path / "h.png").read_bytes()
    assert call(capsys, "sample", source, "-n", 5, "--single", "--classes", "2", "--out", tmp_path / "s")[0] == 0
    assert len(list((tmp_path / "s").glob("*-2.png"))) == 5
    way = ["--interpolate", "0,3", "-n", 4, "--frames", 3, "--out", tmp_path / "w.webp"]
    assert call(capsys, "sample", source, *way)[0] == 0 and Image.open(tmp_path / "w.webp").n_frames == 4
    code = call(capsys, "sample", source, "--interpolate-latents", "0,1", "-n", 4, "--frames", 3, "--scale", 2,
                "--out", tmp_path / "l.webp")[0]
    assert code == 0 and Image.open(tmp_path / "l.webp").size == (140, 140)


def test_interpolation_starts_and_ends_at_the_classes(place: Path) -> None:
    from gantransfer.cli.pictures import _stations

    gan = api.load(place / "source")
    frames = list(_stations(gan, [], 4, {"interpolate": ["0", "3"], "frames": 3, "seed": 5}))
    for frame, name in ((frames[0], "0"), (frames[2], "3")):
        assert abs(frame.astype(int) - gan.sample(4, name, 5).astype(int)).max() <= 1


def test_evaluate_text_and_json(capsys: Capture, place: Path) -> None:
    words = ["evaluate", place / "run", "--data", place / "images", "--per-class", 4, "--n-fake", 16]
    code, out, _ = call(capsys, *words)
    assert code == 0 and "Fréchet" in out and "measured: features=glyph-cnn" in out
    code, out, _ = call(capsys, *words, "--metrics", "frechet,kid", "--json")
    assert code == 0 and set(json.loads(out)["metrics"]) == {"frechet", "kid"}


def test_inspect_every_kind(capsys: Capture, place: Path) -> None:
    kinds = {"source": "model", "run": "run", "run/adapter": "adapter", "source/generator.safetensors": "checkpoint"}
    for path, kind in kinds.items():
        code, out, _ = call(capsys, "inspect", place / path, "--json")
        assert code == 0 and json.loads(out)["kind"] == kind
        assert call(capsys, "inspect", place / path)[0] == 0


def test_report_prints_its_path(capsys: Capture, place: Path) -> None:
    code, out, _ = call(capsys, "report", place / "run")
    assert code == 0 and Path(out.strip()) == place / "run" / "report.html"


def test_extend_and_merge(capsys: Capture, place: Path, tmp_path: Path) -> None:
    code, out, err = call(capsys, "extend", place / "source", place / "run", "--out", tmp_path / "both")
    assert code == 0 and "4 old classes" in out, err
    error = refused(capsys, 2, "extend", tmp_path / "both", place / "run", "--out", tmp_path / "twice")
    assert "--rename a=NEW" in error
    code, _, err = call(capsys, "extend", tmp_path / "both", place / "run", "--rename", "a=a2", "--rename", "b=b2",
                        "--rename", "Ж=Ж2", "--out", tmp_path / "twice")
    assert code == 0, err
    assert api.load(tmp_path / "twice").classes[-3:] == ["a2", "b2", "Ж2"]
    assert call(capsys, "merge", place / "source", place / "run", "--out", tmp_path / "new")[0] == 0
    assert api.load(tmp_path / "new").classes == ["a", "b", "Ж"]
    assert "belongs to source" in refused(capsys, 4, "merge", tmp_path / "new", place / "run", "--out", tmp_path / "x")


def test_convert_says_what_it_inferred(capsys: Capture, shared: Path, tmp_path: Path) -> None:
    folder = shared / "fixtures" / "biggan" / "cifar32"
    code, out, err = call(capsys, "convert", "--dialect", "biggan-pytorch", "--generator", folder / "G.safetensors",
                          "--discriminator", folder / "D.safetensors", "--config", folder / "config.json", "--out",
                          tmp_path / "model")
    assert code == 0 and "from tensor shapes: resolution = 32" in out and "generator and discriminator" in out, err
    assert call(capsys, "sample", tmp_path / "model", "--out", tmp_path / "x.png")[0] == 0
    (tmp_path / "other.json").write_text('{"resolution": 128}')
    words = ["convert", "--dialect", "biggan-pytorch", "--generator", folder / "G.safetensors", "--out", tmp_path / "w"]
    assert "config says resolution 128" in refused(capsys, 4, *words, "--config", tmp_path / "other.json")
    assert "none.json" in refused(capsys, 4, *words, "--config", tmp_path / "none.json")
    error = refused(capsys, 4, "convert", "--dialect", "biggan-pytorch", "--generator", folder / "D.safetensors",
                    "--out", tmp_path / "wrong")
    assert "no BigGAN generator" in error


def test_data_check(capsys: Capture, place: Path, tmp_path: Path) -> None:
    code, out, _ = call(capsys, "data", "check", place / "images")
    assert code == 0 and "24 images in 3 classes" in out and "bad files: 0" in out
    tiny.write_images(tmp_path / "some", {"a": 3, "b": 3})
    (tmp_path / "some" / "a" / "broken.png").write_bytes(b"no image")
    assert "broken.png" in refused(capsys, 3, "data", "check", tmp_path / "some")
    code, out, _ = call(capsys, "data", "check", tmp_path / "some", "--json")
    assert code == 3 and json.loads(out)["bad"][0]["path"] == "a/broken.png"
    code, out, _ = call(capsys, "data", "check", tmp_path / "some", "--on-bad", "skip")
    assert code == 3 and "broken.png" in out


def test_models_and_doctor(capsys: Capture) -> None:
    code, out, _ = call(capsys, "models", "--json")
    assert code == 0 and "cyrillic10" in json.loads(out)["data"]
    assert call(capsys, "models")[0] == 0
    code, out, _ = call(capsys, "doctor", "--json")
    findings = {f["name"]: f for f in json.loads(out)["findings"]}
    assert findings["data cyrillic10"]["ok"] and findings["features glyph-cnn"]["ok"] and findings["torch"]["ok"]
    assert "versions:" in call(capsys, "doctor")[1]
