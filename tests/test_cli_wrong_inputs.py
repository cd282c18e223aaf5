"""Wrong inputs: the documented exit code, one sentence, no traceback, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import command
import pytest
import tiny
from command import SHORT, Capture, call, refused

place = command.place


@pytest.mark.parametrize(("code", "words", "expected"), [
    # Usage before model before data: each of these is wrong in several ways.
    (2, "--source nix --data nix --method cgan --out {new}", "did you mean 'cgantransfer'"),
    (2, "--source nix --data nix --out {place}", "exists and is not empty"),
    (2, "--source nix --data nix --features foo --out {new}", "'foo' not found"),
    (4, "--source nix --data nix --out {new}", "source 'nix'"),
    (3, "--source {place}/source --data nix --out {new}", "'nix' does not exist"),
    (3, "--source {place}/source --data {place}/flat --out {new}", "--class-name"),
    (3, "--source {place}/source --data {place}/tiny --out {new}", "--allow-tiny"),
    (3, "--source {place}/source --data {place}/empty --out {new}", "no image"),
    (2, "--source {place}/source --data {place}/images --classes Z --out {new}", "class 'Z'"),
    (4, "--source {place}/images --data {place}/images --out {new}", "config.json"),
    (6, "--source {place}/source --data {place}/images --out {place}/file/run", "{place}/file/run"),
])
def test_wrong_inputs_of_adapt(
    capsys: Capture, place: Path, tmp_path: Path, code: int, words: str, expected: str
) -> None:
    tiny.write_images(place / "tiny", {"a": 1, "b": 3})
    (place / "empty").mkdir(exist_ok=True)
    (place / "file").write_text("no folder")
    filled = words.format(new=tmp_path / "new", place=place)
    assert expected.format(place=place) in refused(capsys, code, "adapt", *filled.split(), *SHORT)
    assert not (tmp_path / "new").exists()


def test_a_pickle_that_would_run_code_does_not(capsys: Capture, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "G.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    for words in (["inspect", tmp_path / "G.pth"], ["convert", "--dialect", "biggan-pytorch", "--generator",
                                                    tmp_path / "G.pth", "--out", tmp_path / "model"]):
        assert "not executed" in refused(capsys, 4, *words)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("error", "code", "expected"), [
    (RuntimeError("surprise"), 1, "this is a bug of gantransfer: RuntimeError: surprise"),
    (OSError(28, "No space left on device", "x"), 6, "cannot write 'x' (No space left on device)"),
    (MemoryError(), 2, "--batch-size"),
])
def test_unforeseen_errors(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, expected: str
) -> None:
    def fail(settings: Any) -> None:
        raise error

    monkeypatch.setattr("gantransfer.cli.models.models", fail)
    monkeypatch.delenv("GANTRANSFER_DEBUG", raising=False)
    assert expected in refused(capsys, code, "models")
    assert "Traceback" in call(capsys, "models", "--traceback")[2]


def test_divergence_is_5(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    words = ["--lr", "1e30", "--lr-d", "1e30", "--steps", 60, "--batch-size", 4, "--no-evaluate", "--device", "cpu"]
    error = refused(capsys, 5, "adapt", "--source", place / "source", "--data", place / "images", "--method", "bsa",
                    "--out", tmp_path / "run", "--quiet", *words)
    assert "non-finite" in error


def hear_sigint() -> None:
    """A shell's background job, such as a test run may be, starts with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted(words: list[object], run: Path, wait_for: str) -> str:
    """Start a command, press Ctrl-C once it trains, and return what it says then."""
    command = [sys.executable, "-m", "gantransfer", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=hear_sigint)
    assert process.stdout is not None
    seen = next((line for line in process.stdout if line.startswith(wait_for)), "")
    next((line for line in process.stdout if line.startswith("step ")), "")
    assert (run / "checkpoints").is_dir()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=280)  # saving waits for the disk, which may have a fresh environment to write
    assert seen and process.returncode == 130 and "Traceback" not in err, err
    return err


@pytest.mark.timeout(900)
def test_interrupt_saves_and_resume_goes_on(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["adapt", "--source", place / "source", "--data", place / "images", "--out", run, "--steps", 100000,
             "--batch-size", 4, "--no-evaluate", "--device", "cpu"]
    said = interrupted(words, run, "training from step 0 to")
    assert f"gantransfer resume {run}" in said
    step = int(said.split("at step ")[1].split()[0])
    said = interrupted(["resume", run], run, f"training from step {step} to 100000")
    assert int(said.split("at step ")[1].split()[0]) >= step
