"""The trainer's rules on networks of a few numbers; methods and real networks are in test_methods."""

from __future__ import annotations

import ast
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assemble, make_data, make_source, same
from torch import Tensor
from toy import Toy, poisoned

import gantransfer
from gantransfer.checkpoint import load_checkpoint
from gantransfer.errors import DivergedError, Interrupted, UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Batch, Losses, Phase
from gantransfer.schedule import Hooks, Schedule


def lines(out: Path, name: str = "stats.jsonl") -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (out / name).read_text().splitlines()]


# ---- gradients and phases --------------------------------------------------------------------------------


def test_a_phase_moves_its_groups_and_no_other(tmp_path: Path) -> None:
    seen: list[tuple[str, set[str]]] = []

    def phases(toy: Toy) -> list[Phase]:
        def watched(name: str, loss: Any) -> Any:
            def run(batch: Batch) -> Losses:
                seen.append((name, toy.moving()))
                return loss(batch)

            return run

        return [Phase("D", ("D",), watched("D", toy.critic_loss)),
                Phase("low", ("low",), watched("low", toy.generator_loss), uses_images=False),
                Phase("both", ("high", "low"), watched("both", toy.generator_loss), uses_images=False)]

    toy = Toy(tmp_path, phases, steps=1)
    toy.generator.requires_grad_(False)  # what a plan leaves behind does not matter
    toy.trainer.run()
    assert seen == [("D", {"D"}), ("low", {"low"}), ("both", {"low", "high"})]


def test_an_update_leaves_other_groups_bit_identical(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    for index, groups in ((0, {"D"}), (1, {"low", "high"})):
        before = toy.params()
        toy.trainer._update(index, 0, 0)
        after = toy.params()
        assert {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])} == groups
        assert all(p.grad is None for g in toy.trainer.plan.groups.values() for p in g.params)


def test_only_the_trainer_sets_requires_grad() -> None:
    """Modules that methods and networks are made of neither call requires_grad_ nor assign the flag."""
    root = Path(gantransfer.__file__).parent
    files = [*root.glob("methods/*.py"), *root.glob("networks/*.py"),
             *(root / f"{n}.py" for n in ("extension", "modulation", "losses", "layers", "norm", "augment", "adapter"))]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                on_images = file.name == "losses.py" and ast.unparse(node).startswith("images.detach()")
                assert node.func.attr != "requires_grad_" or on_images, f"{file.name}:{node.lineno}"
            if isinstance(node, ast.Assign):
                assert not any("requires_grad" in ast.unparse(t) for t in node.targets), f"{file.name}:{node.lineno}"


def test_phases_run_when_they_say(tmp_path: Path) -> None:
    calls: list[tuple[int, str]] = []

    def phases(toy: Toy) -> list[Phase]:
        def noted(name: str) -> Any:
            def run(batch: Batch) -> Losses:
                calls.append((toy.trainer.progress.step, name))
                return toy.critic_loss(batch) if len(batch.images) else toy.generator_loss(batch)

            return run

        return [
            Phase("first", ("D",), noted("first"), repeat=2),
            Phase("rare", ("low",), noted("rare"), every=2, uses_images=False),
            Phase("late", ("high",), noted("late"), start_nimg=8, uses_images=False),
            Phase("early", ("high",), noted("early"), stop_nimg=4, uses_images=False),
            Phase("never", ("high",), noted("never"), stop_nimg=0, uses_images=False),
        ]

    toy = Toy(tmp_path, phases, steps=4)
    assert toy.trainer.run().nimg == 4 * 2 * 2  # steps x repeats x images; phases without images count none
    per_step = [[name for step, name in calls if step == k] for k in range(4)]
    assert per_step == [
        ["first", "first", "rare", "early"],
        ["first", "first"],
        ["first", "first", "rare", "late"],
        ["first", "first", "late"],
    ]
    assert toy.data.asked == list(range(8))  # every draw is another batch, none is left out


def test_batches_do_not_shift_when_a_phase_sleeps(tmp_path: Path) -> None:
    """The order of images is a function of the step alone, whatever ran before."""

    def phases(toy: Toy) -> list[Phase]:
        return [Phase("sleepy", ("D",), toy.critic_loss, every=2), Phase("D", ("D",), toy.critic_loss)]

    toy = Toy(tmp_path, phases, steps=3)
    toy.trainer.run()
    assert toy.data.asked == [0, 1, 3, 4, 5]


def test_latents_differ_between_steps_phases_repeats_and_seeds(tmp_path: Path) -> None:
    drawn: list[Tensor] = []

    def phases(toy: Toy) -> list[Phase]:
        def loss(batch: Batch) -> Losses:
            drawn.append(batch.z.clone())
            return toy.generator_loss(batch)

        return [Phase("a", ("low",), loss, repeat=2), Phase("b", ("high",), loss, uses_images=False)]

    for seed in (0, 1):
        Toy(tmp_path / str(seed), phases, steps=2, seed=seed, accumulate=2).trainer.run()
    keys = {tuple(z.flatten().tolist()) for z in drawn}
    assert len(keys) == len(drawn) == 2 * 2 * (2 + 1) * 2
    again: list[Tensor] = list(drawn)
    drawn.clear()
    Toy(tmp_path / "again", phases, steps=2, accumulate=2).trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(drawn, again[: len(drawn)], strict=True))


def test_fixed_modules_are_released_on_time(tmp_path: Path) -> None:
    modes: list[bool] = []

    def phases(toy: Toy) -> list[Phase]:
        def loss(batch: Batch) -> Losses:
            modes.append(toy.generator.norm.training)
            return toy.critic_loss(batch)

        return [Phase("D", ("D",), loss)]

    Toy(tmp_path / "a", phases, fixed=lambda t: [t.generator.norm]).trainer.run()
    assert modes == [False] * 4
    modes.clear()
    Toy(tmp_path / "b", phases, fixed=lambda t: [t.generator.norm], fixed_until_nimg=4).trainer.run()
    assert modes == [False, False, True, True]


# ---- accumulation, rates, average ------------------------------------------------------------------------


def _last_gradients(toy: Toy) -> dict[str, Tensor]:
    """With a first beta of 0, Adam's first moment is the last gradient."""
    optimizer = toy.trainer.optimizers["D"]
    return {str(i): optimizer.state[p]["exp_avg"] for i, p in enumerate(toy.trainer.plan.groups["D"].params)}


def test_accumulation_equals_a_larger_batch(tmp_path: Path) -> None:
    def phases(toy: Toy) -> list[Phase]:
        def loss(batch: Batch) -> Losses:
            value = (toy.critic(batch.images.flatten(1)) - batch.labels[:, None]).square().mean()
            return Losses({"d": value}, {"logged": value.detach()})

        return [Phase("D", ("D",), loss)]

    parts = Toy(tmp_path / "parts", phases, steps=2, batch_size=2, accumulate=3)
    whole = Toy(tmp_path / "whole", phases, steps=2, batch_size=6)
    assert parts.trainer.run().nimg == whole.trainer.run().nimg == 12
    for key, gradient in _last_gradients(whole).items():
        torch.testing.assert_close(_last_gradients(parts)[key], gradient)
    for a, b in zip(lines(tmp_path / "parts"), lines(tmp_path / "whole"), strict=True):
        assert a["D/d"] == pytest.approx(b["D/d"]) and a["D/logged"] == pytest.approx(b["D/logged"])


def test_rates_fall_to_zero_over_the_last_part(tmp_path: Path) -> None:
    rates: list[float] = []

    def phases(toy: Toy) -> list[Phase]:
        def loss(batch: Batch) -> Losses:
            rates.append(toy.trainer.optimizers["D"].param_groups[0]["lr"])
            return toy.critic_loss(batch)

        return [Phase("D", ("D",), loss)]

    Toy(tmp_path / "a", phases, lr=1.0, steps=8, lr_decay=0.5).trainer.run()
    assert rates == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    rates.clear()
    Toy(tmp_path / "b", phases, lr=1.0, steps=3).trainer.run()
    assert rates == [1, 1, 1]


@pytest.mark.parametrize(("start", "decays"), [
    (0, [2 / 11, 3 / 12, 0.3, 0.3]),  # (1 + t) / (10 + t), at most ema_decay
    (3, [0, 0, 0.3, 0.3]),  # copies before the third iteration, then one decay
])
def test_the_average_of_parameters_and_buffers(tmp_path: Path, start: int, decays: list[float]) -> None:
    states: list[dict[str, Tensor]] = []
    toy = Toy(tmp_path, ema_decay=0.3, ema_start=start, steps=4)
    average = {k: v.clone() for k, v in toy.generator.state_dict().items()}

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "trained":
            states.append({k: v.clone() for k, v in toy.generator.state_dict().items()})

    toy.trainer.hooks = Hooks(report=report)
    toy.trainer.run()
    for decay, state in zip(decays, states, strict=True):
        average = {k: decay * average[k] + (1 - decay) * v if v.is_floating_point() else v for k, v in state.items()}
    found = toy.trainer.ema.module.state_dict()
    for key, value in average.items():
        torch.testing.assert_close(found[key], value)
    assert not torch.equal(found["norm.running_mean"], toy.generator.norm.running_mean)
    assert not any(p.requires_grad for p in toy.trainer.ema.module.parameters())
    assert not toy.trainer.ema.module.training


# ---- evaluation, logs, best ------------------------------------------------------------------------------


def test_evaluations_choose_the_best_average(tmp_path: Path) -> None:
    given = iter([5.0, 3.0, float("nan"), 4.0, 2.0])
    states: list[dict[str, Tensor]] = []

    def evaluate(generator: Any, progress: Any) -> dict[str, Any]:
        states.append({k: v.clone() for k, v in generator.state_dict().items()})
        return {"split": "select", "selection": next(given)}

    toy = Toy(tmp_path, hooks=Hooks(evaluate=evaluate), eval_nimg=2)
    toy.trainer.run()
    found = lines(tmp_path, "metrics.jsonl")
    assert [(m["step"], m["nimg"], m["best"]) for m in found] == [
        (0, 0, True), (1, 2, True), (2, 4, False), (3, 6, False), (4, 8, True)]
    assert toy.trainer.progress.best["step"] == 4 and same(toy.trainer.best_state, states[4])


def test_log_lines_snapshots_and_the_end(tmp_path: Path) -> None:
    snapshots: list[int] = []
    toy = Toy(tmp_path, hooks=Hooks(snapshot=lambda generator, step: snapshots.append(step)), steps=11, log_nimg=8,
              checkpoint_nimg=0)
    toy.trainer.run()
    assert snapshots == [0, 1, 2, 4, 8, 11]
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [4, 8, 11]
    assert {"step", "nimg", "seconds", "images_per_second", "D/d", "G/g"} <= found[0].keys()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000000", "step-000011"]


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


# ---- precision, device, ranges ---------------------------------------------------------------------------


def test_bf16_trains_after_fp32_in_the_same_process(tmp_path: Path) -> None:
    """Precision is this run's, not the process's."""
    data, states = make_data(tmp_path / "data"), {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        parts = assemble(out, make_source("hierarchical"), data, "cgantransfer", steps=2, precision=precision,
                         loss=AdversarialLoss(r1_gamma=1.0))
        parts.trainer.run()
        states[precision] = parts.trainer.generator.state_dict()
        assert all(v.dtype == torch.float32 and torch.isfinite(v).all() for v in states[precision].values())
        assert parts.trainer.progress.skipped == 0
    assert not same(dict(states["fp32"]), dict(states["bf16"]))


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="'cuda' is not available"):
        Toy(tmp_path, device="cuda")


@pytest.mark.parametrize(("name", "value"), [
    ("steps", -1), ("batch_size", 0), ("accumulate", 0), ("lr_decay", 1.5), ("ema_decay", 1.0), ("seed", -1),
    ("precision", "fp16"), ("device", "gpu"), ("eval_nimg", -5), ("log_nimg", -1), ("checkpoint_nimg", -1),
])
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} .*{value}.* is not possible: choose"):
        Schedule(**{name: value})


def test_no_steps_is_a_run_too(tmp_path: Path) -> None:
    assert Toy(tmp_path, steps=0).trainer.run().step == 0
    assert load_checkpoint(tmp_path / "checkpoints")[1]["progress"]["nimg"] == 0
