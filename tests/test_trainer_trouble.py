"""When a run does not go straight: losses that are not finite, signals, crashes, changed settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same
from torch import Tensor
from toy import Toy, lines, poisoned

from gantransfer.checkpoint import load_checkpoint
from gantransfer.errors import DivergedError, Interrupted, UsageError
from gantransfer.plan import Batch, Losses, Phase
from gantransfer.schedule import Hooks

# ---- non-finite losses -----------------------------------------------------------------------------------


def _poison(kind: str, steps: set[int], attempts: dict[int, int] | None = None, times: int = 10**9) -> Any:
    """Phases whose generator loss is NaN at `steps`, the first `times` times that each comes up."""
    counts = attempts if attempts is not None else {}

    def phases(toy: Toy) -> list[Phase]:
        def bad() -> bool:
            step = toy.trainer.progress.step
            if step not in steps:
                return False
            counts[step] = counts.get(step, 0) + 1
            return counts[step] <= times

        def spoilt(batch: Batch) -> Losses:
            if kind == "input" and bad():
                batch = batch._replace(z=batch.z * float("nan"))
            return toy.generator_loss(batch)

        loss = spoilt if kind == "input" else poisoned(toy.generator_loss, bad)
        return [Phase("D", ("D",), toy.critic_loss), Phase("G", ("low", "high"), loss, uses_images=False)]

    return phases


@pytest.mark.parametrize("kind", ["loss", "input"])
def test_a_non_finite_update_is_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    """The update is left out; running statistics that saw the NaN are put back."""
    toy = Toy(tmp_path, _poison(kind, {1}), steps=3, hooks=Hooks(report=lambda e: states.append(toy.params())))
    states: list[dict[str, Tensor]] = []
    progress = toy.trainer.run()
    assert (progress.step, progress.skipped, progress.skipped_in_a_row, progress.lr_scale) == (3, 1, 0, 1.0)
    for state in (toy.generator.state_dict(), toy.trainer.ema.module.state_dict()):
        assert all(torch.isfinite(v).all() for v in state.values())
    found = lines(tmp_path)
    assert [(line["step"], line.get("skipped")) for line in found] == [(1, None), (3, 1)]


def test_a_skipped_update_moves_nothing(tmp_path: Path) -> None:
    toy = Toy(tmp_path, _poison("loss", {0}))
    before, buffers = toy.params(), {k: v.clone() for k, v in toy.generator.named_buffers()}
    _, finite = toy.trainer._iteration()
    after = toy.params()
    assert not finite
    assert {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])} == {"D"}
    assert all(torch.equal(v, dict(toy.generator.named_buffers())[k]) for k, v in buffers.items())


def test_a_non_finite_gradient_of_a_finite_loss_is_skipped(tmp_path: Path) -> None:
    def phases(toy: Toy) -> list[Phase]:
        def loss(batch: Batch) -> Losses:
            zero = (toy.critic.weight * 0).sum()
            return Losses({"d": zero.sqrt()}, {})  # 0, with an infinite slope times 0

        return [Phase("D", ("D",), loss)]

    toy = Toy(tmp_path, phases, steps=2)
    before = toy.params()
    assert toy.trainer.run().skipped == 2 and same(before, toy.params())


def test_six_in_a_row_go_back_once_at_half_rate(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    attempts: dict[int, int] = {}
    toy = Toy(tmp_path, _poison("loss", set(range(3, 9)), attempts, times=1), hooks=Hooks(report=events.append),
              lr=0.1, steps=12)
    progress = toy.trainer.run()
    assert (progress.step, progress.skipped, progress.lr_scale) == (12, 6, 0.5)
    # Checkpoints lie at even steps; none is made in the bad stretch, so it went back to step 2.
    assert [e["step"] for e in events if e["event"] == "rolled back"] == [2]
    assert attempts == {step: 2 for step in range(3, 9)}
    assert {o.param_groups[0]["lr"] for o in toy.trainer.optimizers.values()} == {0.05}
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 13))


def test_a_second_bad_stretch_ends_the_run(tmp_path: Path) -> None:
    toy = Toy(tmp_path, _poison("loss", set(range(3, 30))), steps=40)
    with pytest.raises(DivergedError, match="12 updates were non-finite.*half the rate") as caught:
        toy.trainer.run()
    assert caught.value.exit_code == 5
    assert load_checkpoint(tmp_path / "checkpoints")[1]["progress"]["step"] == 2
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


# ---- stopping and going on -------------------------------------------------------------------------------


def _stop(toy: list[Toy], at: int, how: Any) -> Any:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "trained" and event["step"] == at:
            how(toy[0])

    return Hooks(report=report)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    holder: list[Toy] = []
    before = signal.getsignal(number)
    holder.append(Toy(tmp_path, hooks=_stop(holder, 3, lambda toy: os.kill(os.getpid(), number)), checkpoint_nimg=0))
    with pytest.raises(Interrupted, match="stopped at step 3 of 4.*gantransfer resume") as caught:
        holder[0].trainer.run()
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is before
    toy = Toy(tmp_path)
    toy.trainer.restore()
    assert toy.trainer.progress.step == 3
    assert toy.trainer.run().step == 4


def test_a_second_signal_quits_at_once(tmp_path: Path) -> None:
    holder: list[Toy] = []

    def twice(toy: Toy) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two instructions
            pass

    holder.append(Toy(tmp_path, hooks=_stop(holder, 1, twice)))
    with pytest.raises(KeyboardInterrupt):
        holder[0].trainer.run()
    assert load_checkpoint(tmp_path / "checkpoints")[1]["progress"]["step"] == 0


def test_a_signal_during_the_first_evaluation_is_heard(tmp_path: Path) -> None:
    holder: list[Toy] = []

    def evaluate(generator: Any, progress: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return {"selection": 1.0}

    holder.append(Toy(tmp_path, hooks=Hooks(evaluate=evaluate)))
    with pytest.raises(Interrupted, match="step 0 of 4"):
        holder[0].trainer.run()
    assert load_checkpoint(tmp_path / "checkpoints")[1]["progress"]["step"] == 0


def test_a_stop_in_a_bad_stretch_is_saved(tmp_path: Path) -> None:
    toy = Toy(tmp_path, _poison("loss", {2, 3}), steps=9, checkpoint_nimg=0)

    def snapshot(generator: Any, step: int) -> None:
        toy.trainer.wish.stop = step == 4

    toy.trainer.hooks.snapshot = snapshot
    with pytest.raises(Interrupted):
        toy.trainer.run()
    progress = load_checkpoint(tmp_path / "checkpoints")[1]["progress"]
    assert (progress["step"], progress["skipped"], progress["skipped_in_a_row"]) == (4, 2, 2)


def test_a_run_taken_up_at_its_start_evaluates_once(tmp_path: Path) -> None:
    def evaluate(generator: Any, progress: Any) -> dict[str, Any]:
        return {"selection": float(progress.step)}

    class Died(Exception):
        pass

    def died(toy: Toy) -> None:
        raise Died

    holder: list[Toy] = []
    hooks = _stop(holder, 1, died)
    hooks.evaluate = evaluate
    holder.append(Toy(tmp_path, hooks=hooks, checkpoint_nimg=0))
    with pytest.raises(Died):
        holder[0].trainer.run()
    toy = Toy(tmp_path, hooks=Hooks(evaluate=evaluate))
    toy.trainer.restore()
    toy.trainer.run()
    assert [(m["step"], m["best"]) for m in lines(tmp_path, "metrics.jsonl")] == [(0, True), (4, False)]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path: Path) -> None:
    Toy(tmp_path, steps=2).trainer.run()
    with open(tmp_path / "stats.jsonl", "a") as handle:
        handle.write('{"step": 3, "ni')
    toy = Toy(tmp_path, steps=4)
    toy.trainer.restore()
    toy.trainer.run()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_another_number_of_processes_is_said(tmp_path: Path) -> None:
    Toy(tmp_path, steps=2).trainer.run()
    events: list[dict[str, Any]] = []
    toy = Toy(tmp_path, hooks=Hooks(report=events.append), steps=4)
    toy.trainer.processes.world = 2
    toy.trainer.restore()
    assert [e["text"] for e in events] == [
        "the run had 1 process(es) and now has 2: it goes on, but not exactly as it would have"]


# ---- what a run was made from ----------------------------------------------------------------------------


def _record(**changes: Any) -> Any:
    return lambda: {"method": {"name": "m", "lr": 0.1}, "train": {"steps": 4, "seed": 0, **changes}}


def test_changed_settings_are_refused_with_their_names(tmp_path: Path) -> None:
    Toy(tmp_path, record=_record()).trainer.run()
    toy = Toy(tmp_path, record=_record(seed=1, ema_decay=0.5))
    with pytest.raises(UsageError, match="train.seed was 0, is 1; train.ema_decay was None, is 0.5.*only train.steps"):
        toy.trainer.restore()
    with pytest.raises(UsageError, match="train.steps was 4, is 3"):
        Toy(tmp_path, record=_record(steps=3), steps=3).trainer.restore()


def test_a_run_may_be_extended(tmp_path: Path) -> None:
    def settings(steps: int) -> dict[str, Any]:
        return {"record": _record(steps=steps), "steps": steps}

    Toy(tmp_path / "long", **settings(6)).trainer.run()
    Toy(tmp_path / "short", **settings(4)).trainer.run()
    toy = Toy(tmp_path / "short", **settings(6))
    toy.trainer.restore()
    toy.trainer.run()
    states = [load_checkpoint(tmp_path / name / "checkpoints") for name in ("long", "short")]
    assert same(states[0][0], states[1][0])
    assert states[1][1]["record"]["train"]["steps"] == 6


def test_a_checkpoint_from_before_records_is_taken_up(tmp_path: Path) -> None:
    Toy(tmp_path).trainer.run()
    Toy(tmp_path, record=_record()).trainer.restore()
