"""Alarms: when they ring, where they are told, and that they stay silent for a run that goes well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from api_run import FAST
from command import Capture
from fake_run import write_fake_run
from test_report import edit, rendered
from toy import Toy, lines

import gantransfer as gt
from gantransfer.alarms import critic_alarms, sample_alarms
from gantransfer.checkpoint import load_checkpoint
from gantransfer.cli.progress import Lines
from gantransfer.errors import DataError
from gantransfer.metrics.variety import within_classes
from gantransfer.plan import Batch, Losses, Phase
from gantransfer.schedule import Hooks

pytest_plugins = ["api_run"]


def test_a_saturated_critic_rings_after_ten_lines() -> None:
    watch: dict[str, Any] = {}
    done, busy = {"D/real": 0.0, "D/fake": 0.01}, {"D/real": 0.5, "D/fake": 0.5}
    assert [bool(critic_alarms(watch, done)) for _ in range(12)] == [False] * 9 + [True] * 3
    assert not critic_alarms(watch, busy) and not critic_alarms(watch, done)


@pytest.mark.parametrize("logs", [{}, {"G/adversarial": 0.0},
                                  {"D/real": -3.0, "D/fake": -3.0, "D/gradient_penalty": 0}])
def test_other_losses_have_no_such_end(logs: dict[str, float]) -> None:
    watch: dict[str, Any] = {}
    assert not any(critic_alarms(watch, logs) for _ in range(20))


@pytest.mark.parametrize(("varieties", "rings"), [
    ([0.8, 0.7, 0.35], [0, 0, 0]),  # still much
    ([0.8, 0.7, 0.25], [0, 0, 1]),
    ([0.8, 0.1, 0.6, 0.1], [0, 1, 0, 1]),
    ([0.05, 0.06, 0.05], [0, 0, 0]),  # little from the start, but it does not fall
    ([None, 0.8, None], [0, 0, 0]),
])
def test_diversity_that_falls(varieties: list[float | None], rings: list[int]) -> None:
    watch: dict[str, Any] = {}
    assert [int("diversity" in sample_alarms(watch, v, None)) for v in varieties] == rings


def test_copies_above_what_real_images_show() -> None:
    assert not sample_alarms({}, None, 0.04) and "30 % of the samples" in sample_alarms({}, None, 0.3)["copies"]


# ---- in a run --------------------------------------------------------------------------------------------


def _saturated(toy: Toy) -> list[Phase]:
    def critic_loss(batch: Batch) -> Losses:
        nothing = (toy.critic.weight * 0).sum()
        return Losses({"real": nothing, "fake": nothing.clone()}, {})

    return [Phase("D", ("D",), critic_loss), Phase("G", ("low", "high"), toy.generator_loss, uses_images=False)]


def test_it_rings_in_the_log_and_in_a_resumed_run_at_the_same_line(tmp_path: Path, capsys: Capture) -> None:
    screen = Lines()
    screen.steps = 12
    Toy(tmp_path / "whole", _saturated, Hooks(report=screen), steps=12).trainer.run()
    Toy(tmp_path / "parts", _saturated, steps=6).trainer.run()
    assert load_checkpoint(tmp_path / "parts" / "checkpoints")[1]["progress"]["watch"] == {"saturated": 6}
    resumed = Toy(tmp_path / "parts", _saturated, steps=12)
    resumed.trainer.restore()
    resumed.trainer.run()
    for name in ("whole", "parts"):
        assert [line["step"] for line in lines(tmp_path / name) if "alarms" in line] == [10, 11, 12]
    assert capsys.readouterr().out.count("warning: step 10: the critic is saturated") == 1


def test_the_report_has_each_alarm_once(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", classes="QWE", sources="ABCDEFGHIJKL", columns=4)
    with open(run / "metrics.jsonl", "a") as handle:
        for step in (1050, 1100):
            handle.write(f'{{"step": {step}, "nimg": {step}, "alarms": {{"diversity": "the samples fade <b>"}}}}\n')
    with open(run / "stats.jsonl", "a") as handle:
        handle.write('{"step": 1100, "nimg": 9, "lr_scale": 0.5, "alarms": {"critic": "the critic rests"}}\n')
    text = rendered(run).text
    assert "Alarm from step 1,050 to 1,100: the samples fade <b>." in text and "1,100: the critic rests." in text
    assert "went back to an earlier checkpoint once and continued at half the learning rate (from step 1,100" in text


def test_the_report_explains_the_copy_rate(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", classes="QWE", sources="ABCDEFGHIJKL", columns=4)
    edit(run / "samples" / "nearest.json", rate=0.25, expected_rate=0.01, copied=[0, 3], calibration_images=226)
    page = rendered(run)
    assert "a copy rate of 25 %" in page.text and "about 1 % of real images would count as well" in page.text
    assert page.text.count(" copy ") == 2 + page.text.count("a copy rate") and "226 images" in page.text


def test_every_run_is_measured_for_variety_and_copies(run: Any) -> None:
    for line in run.metrics:
        assert line["variety"] > 0 and 0 <= line["copy_rate"] <= 1
    found = run.result["copies"]
    assert found["samples"] == 256 and found["rate"] == found["copies"] / 256 and found["expected_rate"] == 0.01
    assert "copy rate" in rendered(run.path).text


def test_a_run_that_measures_nothing_is_still_checked_for_copies(source: Path, folder: Path, tmp_path: Path) -> None:
    settings = {k: v for k, v in FAST.items() if k not in ("n_fake", "features")}
    run = gt.adapt(source, folder, "bsa", tmp_path / "run", evaluate=False, **{**settings, "steps": 1})
    assert run.result["copies"]["feature"].startswith("random-conv") and "copy rate" in rendered(run.path).text


# ---- variety ---------------------------------------------------------------------------------------------


def test_variety_is_within_classes() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(2000)
    noise = torch.randn(6000, 4, generator=rng)
    assert within_classes(noise + 100 * labels[:, None], labels) == pytest.approx(4, rel=0.05)
    assert within_classes(noise[:1].expand(6, -1), labels[:6]) == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="no class has two images"):
        within_classes(noise[:3], labels[:3])
