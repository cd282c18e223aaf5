"""Settings from mappings and YAML, their differences, and what a user need not choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gantransfer.config import differences, from_mapping, read_yaml
from gantransfer.defaults import Training
from gantransfer.errors import UsageError


@dataclass(frozen=True)
class Some:
    count: int = 1
    rate: float = 0.5
    name: str | None = None
    sizes: tuple[int, ...] = ()
    on: bool = False


def test_values_are_checked_and_taken_over() -> None:
    made = from_mapping(Some, {"count": 2, "rate": 3, "name": "x", "sizes": [1, 2], "on": True}, "it")
    assert made == Some(2, 3.0, "x", (1, 2), True) and isinstance(made.rate, float)
    assert from_mapping(Some, {"name": None}, "it").name is None


@pytest.mark.parametrize(("values", "match"), [
    ({"cont": 2}, "it has no setting 'cont'; did you mean 'count'.*have: count, rate, name, sizes, on"),
    ({"count": 1.5}, "it: count is 1.5; give a value of type int"),
    ({"count": True}, "it: count is True"),
    ({"count": None}, "it: count is None"),
    ({"rate": "1e-3"}, "it: rate is '1e-3'; give a value of type float"),
    ({"name": 3}, "it: name is 3"),
    ({"sizes": "12"}, "it: sizes is '12'; give a list"),
    ({"sizes": 3}, "it: sizes is 3; give a list"),
    ({"sizes": [1, "2"]}, "it: sizes is '2'"),
    ({"on": 1}, "it: on is 1"),
])
def test_wrong_values_are_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        from_mapping(Some, values, "it")


def test_differences_have_dotted_names() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 3}
    new = {"a": 1, "b": {"c": [1, 3], "d": None, "e": 0}, "here": {"x": 1}}
    assert differences(old, new) == {
        "b.c": ([1, 2], [1, 3]), "b.e": (None, 0), "gone": (3, None), "here": (None, {"x": 1})}
    assert differences(old, old) == {}


def test_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("a: 1\nb: [x, y]\n")
    assert read_yaml(file) == {"a": 1, "b": ["x", "y"]}
    file.write_text("")
    assert read_yaml(file) == {}
    code = "!!python/object/apply:os.getcwd []"
    for text, match in (("a: [1", "not valid YAML"), ("- 1", "no mapping"), (code, "not valid")):
        file.write_text(text)
        with pytest.raises(UsageError, match=match):
            read_yaml(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path / "absent.yaml")


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    """YAML keeps the last without a word: a row of a plan would be gone."""
    file = tmp_path / "c.yaml"
    file.write_text("variants:\n  a: {method: bsa}\n  a: {method: scratch}\n")
    with pytest.raises(UsageError, match="'a' appears twice, the second time in line 3"):
        read_yaml(file)
    file.write_text("base: &b {x: 1, y: 2}\nown:\n  <<: *b\n  x: 3\n1: a\n'1': b\n")
    assert read_yaml(file)["own"] == {"x": 3, "y": 2}  # a merged key may be written over


@pytest.mark.parametrize(
    ("images", "augmented"), [(2, True), (25, True), (4999, True), (5000, False), (100_000, False)]
)
def test_a_user_who_sets_nothing_gets_a_sensible_run(images: int, augmented: bool) -> None:
    schedule, loss = Training().resolve(images, "adapt")
    assert 2 <= schedule.batch_size <= min(32, max(2, images))
    assert 400 <= schedule.steps <= 2400 and bool(loss.augment) == augmented
    shown = schedule.steps * schedule.batch_size
    assert 5 <= shown // schedule.eval_nimg <= 40 and shown // schedule.log_nimg >= 20
    assert shown // schedule.checkpoint_nimg >= 2


@pytest.mark.parametrize(("kind", "d_steps"), [("adapt", 1), ("pretrain", 2)])
def test_r1_and_critic_steps_unless_something_else_is_chosen(kind: str, d_steps: int) -> None:
    loss = Training().resolve(100, kind)[1]
    assert (loss.r1_gamma, loss.r1_every, loss.d_steps) == (2.0, 4, d_steps)
    assert Training(loss="wgan-gp").resolve(100, kind)[1].r1_gamma == 0
    loss = Training(loss="wgan-gp", r1_gamma=1.0, r1_every=1, d_steps=5).resolve(100, kind)[1]
    assert (loss.r1_gamma, loss.r1_every, loss.d_steps) == (1.0, 1, 5)
    assert Training(r1_gamma=0.0).resolve(100, kind)[1].r1_gamma == 0


def test_more_images_never_mean_fewer_iterations() -> None:
    steps = [Training().resolve(n, "adapt")[0].steps for n in (5, 25, 100, 1000, 10_000)]
    assert steps == sorted(steps)


def test_what_is_set_stays() -> None:
    chosen = Training(steps=7, batch_size=3, augment="", eval_nimg=0, ema_decay=0.5, d_steps=2)
    schedule, loss = chosen.resolve(10, "adapt")
    assert (schedule.steps, schedule.batch_size, schedule.eval_nimg, schedule.ema_decay) == (7, 3, 0, 0.5)
    assert (loss.augment, loss.d_steps) == ("", 2)
    with pytest.raises(UsageError, match="batch_size 0"):
        Training(batch_size=0).resolve(10, "adapt")
    for wrong in ({"d_steps": 0}, {"r1_gamma": -1.0}, {"r1_every": 0}, {"gp_weight": float("nan")}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} .* is not possible"):
            Training(**wrong).resolve(10, "adapt")
    assert Training(steps=0).resolve(10, "adapt")[0].steps == 0
