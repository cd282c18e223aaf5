"""A run that diverges: counted, taken back once, ended with exit code 5 and everything kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from api_run import FAST
from command import SHORT, Capture, call
from test_report import rendered
from torch import Tensor

import gantransfer as gt
from gantransfer import losses
from gantransfer.checkpoint import load_checkpoint
from gantransfer.errors import DivergedError

pytest_plugins = ["api_run"]


class _Spoilt(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.inf


@pytest.fixture(params=["loss", "gradient"])
def spoilt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The generator's loss, or its gradient alone, is not finite from its fourth evaluation on; counts them."""
    calls: list[int] = []
    critic_loss, generator_loss = losses.LOSSES["hinge"]

    def bad(fake: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) < 4:
            return generator_loss(fake)
        return generator_loss(fake) * torch.nan if request.param == "loss" else _Spoilt.apply(generator_loss(fake))

    monkeypatch.setitem(losses.LOSSES, "hinge", (critic_loss, bad))
    return calls


def test_everything_is_kept(spoilt: list[int], source: Path, folder: Path, tmp_path: Path) -> None:
    out, events = tmp_path / "run", []
    with pytest.raises(DivergedError, match="12 updates were non-finite.*after going back once") as caught:
        gt.adapt(source, folder, "bsa", out, data_options={"per_class": 6}, progress=events.append,
                 **{**FAST, "steps": 40})
    assert caught.value.exit_code == 5 and len(spoilt) == 3 + 6 + 6
    assert [event["step"] for event in events if event["event"] == "rolled back"] == [2]
    tensors, meta = load_checkpoint(out / "checkpoints")
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    progress = meta["progress"]
    assert (progress["step"], progress["lr_scale"], progress["skipped"]) == (2, 0.5, 6), "a kill would not undo it"
    result = json.loads((out / "result.json").read_text())
    assert "12 updates were non-finite" in result["diverged"] and result["rows"]
    assert "12 updates were non-finite" in rendered(out).text
    assert gt.merge(source, out).sample(3).shape == (3, 32, 32, 1), "the best generator is there to be used"
    with pytest.raises(DivergedError):  # it goes on from where it was, and diverges again
        gt.resume(out)
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps(result | {"steps": 40}))  # as if that had been in the last iteration
    with pytest.raises(DivergedError):
        gt.resume(out)


@pytest.mark.parametrize("spoilt", ["loss"], indirect=True)
def test_the_command_line_ends_with_five(spoilt: list[int], source: Path, folder: Path, tmp_path: Path,
                                         capsys: Capture) -> None:
    words = ["adapt", "--source", source, "--data", folder, "--method", "bsa", "--out", tmp_path / "run", *SHORT,
             "--steps", "40"]
    code, out, err = call(capsys, *words)
    assert code == 5 and "non-finite updates: back to step" in out and "Traceback" not in err
    assert (tmp_path / "run" / "report.html").is_file()
