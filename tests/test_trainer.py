"""The trainer's rules on networks of a few numbers; methods and real networks are in test_methods."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assemble, make_data, make_source, same
from torch import Tensor
from toy import Toy, ToyData, lines

import gantransfer
from gantransfer.checkpoint import load_checkpoint
from gantransfer.errors import UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Batch, Losses, Phase
from gantransfer.schedule import Hooks, Schedule

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
    told: list[int] = []
    Toy(tmp_path / "b", phases, Hooks(released=lambda generator, step: told.append(step)),
        fixed=lambda t: [t.generator.norm], fixed_until_nimg=4).trainer.run()
    assert modes == [False, False, True, True] and told == [2]


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
    assert toy.trainer.progress.best["step"] == 4 and same(toy.trainer.load_best().state_dict(), states[4])


def test_the_best_average_comes_with_the_critic_of_its_iteration(tmp_path: Path) -> None:
    given = iter([5.0, 3.0, 4.0, 6.0, 7.0])
    averages: list[dict[str, Tensor]] = []
    critics: list[dict[str, Tensor]] = []

    def evaluate(generator: Any, progress: Any) -> dict[str, Any]:
        averages.append({k: v.clone() for k, v in generator.state_dict().items()})
        critics.append({k: v.clone() for k, v in toy.trainer.extras.state_dict().items()})
        return {"split": "select", "selection": next(given)}

    toy = Toy(tmp_path, hooks=Hooks(evaluate=evaluate), eval_nimg=2)
    toy.trainer.run()
    again = Toy(tmp_path, hooks=Hooks(evaluate=evaluate), eval_nimg=2)
    again.trainer.restore()
    for trainer in (toy.trainer, again.trainer):
        assert not same(trainer.extras.state_dict(), critics[1])
        best = trainer.load_best()
        assert same(best.state_dict(), averages[1]) and same(trainer.extras.state_dict(), critics[1])


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


def test_mirrored_and_noisy_images(tmp_path: Path) -> None:
    """Half of the images are flipped, each anew; noise lies in its range; neither moves any other draw."""
    seen: dict[str, list[Batch]] = {}

    def phases(name: str) -> Any:
        def loss_of(toy: Toy) -> list[Phase]:
            def loss(batch: Batch) -> Losses:
                seen.setdefault(name, []).append(batch)
                return toy.critic_loss(batch)
            return [Phase("D", ("D",), loss)]
        return loss_of

    class Sided(ToyData):
        """The place's parity on the left, 100 on the right."""

        def batch(self, number: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
            images, labels, places = super().batch(number, size, seed)
            images = images.clone()
            images[..., 1] = 200
            return images, labels, places

    for name, settings in (("plain", {}), ("mirror", {"mirror": True}), ("noise", {"image_noise": 0.25})):
        toy = Toy(tmp_path / name, phases(name), steps=4, batch_size=16, **settings)
        toy.trainer.data = Sided()
        toy.trainer.run()
    pairs = list(zip(seen["plain"], seen["mirror"], strict=True))
    flips = torch.cat([(m.images == p.images.flip(3)).flatten(1).all(1) for p, m in pairs])
    stays = torch.cat([(m.images == p.images).flatten(1).all(1) for p, m in pairs])
    assert (flips ^ stays).all() and 20 < int(flips.sum()) < 44
    for plain, noisy in zip(seen["plain"], seen["noise"], strict=True):
        added = noisy.images - plain.images
        assert float(added.min()) > -1e-6 and 0.2 < float(added.max()) < 0.25 + 1e-6
        assert torch.equal(plain.z, noisy.z) and torch.equal(plain.y, noisy.y)


def test_rmsprop_resumes_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = Toy(tmp_path / "whole", steps=4, optimizer="rmsprop")
    assert {type(o) for o in whole.trainer.optimizers.values()} == {torch.optim.RMSprop}
    assert {o.param_groups[0]["alpha"] for o in whole.trainer.optimizers.values()} == {0.99}
    whole.trainer.run()
    Toy(tmp_path / "parts", steps=2, optimizer="rmsprop").trainer.run()
    rest = Toy(tmp_path / "parts", steps=4, optimizer="rmsprop")
    rest.trainer.restore()
    rest.trainer.run()
    assert all(torch.equal(value, rest.params()[name]) for name, value in whole.params().items())


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="'cuda' is not available"):
        Toy(tmp_path, device="cuda")


@pytest.mark.parametrize(("name", "value"), [
    ("steps", -1), ("batch_size", 0), ("accumulate", 0), ("lr_decay", 1.5), ("ema_decay", 1.0), ("seed", -1),
    ("optimizer", "sgd"), ("image_noise", 2.0), ("image_noise", -0.1), ("precision", "fp16"),
    ("device", "gpu"), ("eval_nimg", -5), ("log_nimg", -1), ("checkpoint_nimg", -1),
])
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} .*{value}.* is not possible: choose"):
        Schedule(**{name: value})


def test_no_steps_is_a_run_too(tmp_path: Path) -> None:
    assert Toy(tmp_path, steps=0).trainer.run().step == 0
    assert load_checkpoint(tmp_path / "checkpoints")[1]["progress"]["nimg"] == 0
