"""Calling the command line in a test: a prepared folder, one call, one refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from gantransfer.cli import main

Capture = pytest.CaptureFixture[str]
SHORT = ["--steps", "2", "--batch-size", "4", "--n-fake", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source, images in three classes, a flat folder, and one finished run."""
    root = tmp_path_factory.mktemp("cli")
    tiny.make_source().save_pretrained(root / "source")
    tiny.write_images(root / "images", {"a": 8, "b": 8, "Ж": 8})
    tiny.write_images(root / "flat", {"": 5})
    arguments = ["adapt", "--source", root / "source", "--data", root / "images", "--per-class", "4",
                 "--out", root / "run", *SHORT]
    assert main([str(word) for word in arguments]) == 0
    return root


def call(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: Capture, code: int, *words: object) -> str:
    """The one error line of a command that ends with `code`; nothing else may look like a crash."""
    got, _, err = call(capsys, *words)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert got == code, err
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in err
    return lines[0]
