"""A saved source, a folder of images and a finished run, made once for the tests of the library's verbs (a pytest
plugin: ``pytest_plugins = ["api_run"]``)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_source, write_images

import gantransfer as gt
from gantransfer import api
from gantransfer.errors import GanTransferError

FAST: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "n_fake": 12, "device": "cpu", "eval_nimg": 8, "checkpoint_nimg": 8,
}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved source of four classes."""
    return make_source("hierarchical").save_pretrained(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 28 images: with six of each for training, enough are held out to measure by."""
    return write_images(tmp_path_factory.mktemp("images"), dict.fromkeys("abc", 28))


@pytest.fixture(scope="session")
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


def refused(error: type[GanTransferError], match: str, out: Path | None, *args: Any, **settings: Any) -> None:
    """`adapt` says so in one sentence and leaves nothing behind."""
    with pytest.raises(error, match=match) as caught:
        gt.adapt(*args, out=out, **{**FAST, **settings})
    assert type(caught.value) is error and "\n" not in str(caught.value)
    assert out is None or not out.exists()
