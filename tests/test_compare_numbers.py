"""What a comparison says: convergence measures, tests of differences, time estimates; on made-up curves."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gantransfer.compare import convergence, estimate, ranking
from gantransfer.compare.cells import FINISHED, WAITING, Cell, failed
from gantransfer.compare.page import render
from gantransfer.compare.plan import Comparison, Task, Variant, tasks_of, with_rhythm
from gantransfer.compare.ranking import holm, paired, rank, rank_over_tasks
from gantransfer.compare.student import MOST, common_variance, p_values, point, two_sided
from gantransfer.compare.summary import pairs_csv, rows_csv, summarise
from gantransfer.errors import ModelError, UsageError


def curve(*points: tuple[int, float, float]) -> list[dict[str, float]]:
    return [{"step": step, "seconds": seconds, "distance": distance} for step, seconds, distance in points]


FAST = curve((0, 0, 100), (25, 5, 40), (50, 10, 20), (75, 15, 25), (100, 20, 22), (800, 160, 30))
SLOW = curve((0, 0, 100), (50, 5, 80), (100, 10, 60), (200, 20, 30), (400, 40, 22), (800, 80, 23))

# ---- convergence -----------------------------------------------------------------------------------------


def test_measures_of_two_curves() -> None:
    found = convergence.measures(FAST, SLOW)
    assert (found["a_best_step"], found["b_best_step"], found["a_best_distance"]) == (50, 400, 20)
    assert found["best_ratio"] == 8 and found["best_ratio_seconds"] == 4
    assert found["reach_step"] == 50 and found["reach_ratio"] == 8 and found["reach_ratio_seconds"] == 4
    assert found["b_early"] == 80 and found["b_early_seconds"] == 60  # at iteration 50, and after 10 seconds
    assert found["short"] == []
    without = [{key: value for key, value in at.items() if key != "seconds"} for at in SLOW]
    found = convergence.measures(FAST, without)
    assert found["b_early"] == 80 and found["b_early_seconds"] is None
    assert convergence.measures(FAST[:5], SLOW)["short"] == ["a"]  # 100 iterations, twice the later best are 800


def test_a_row_that_never_gets_there() -> None:
    found = convergence.measures(SLOW, FAST)
    assert found["reach_step"] is None and found["reach_ratio"] is None and found["best_ratio"] == 0.125


def test_a_row_that_was_there_from_the_start_has_no_factor() -> None:
    found = convergence.compare({0: curve((0, 0, 10), (25, 5, 9))}, {0: curve((0, 0, 20), (25, 5, 30))})
    assert found["reach_step"]["mean"] == 0 and found["reach_step"]["count"] == 1
    assert found["reach_ratio"]["count"] == 0 and found["reach_ratio"]["of"] == 1


def test_spread_over_seeds_counts_who_never_came() -> None:
    found = convergence.compare({0: FAST, 1: SLOW, 2: FAST}, {0: SLOW, 1: FAST}, levels=[25.0])
    assert found["seeds"] == 2
    assert found["reach_ratio"] == {"mean": pytest.approx(8), "low": 8, "high": 8, "count": 1, "of": 2}
    assert found["best_ratio"]["mean"] == pytest.approx(1)  # 8 and 1/8: neither is faster
    there = {"mean": 225, "low": 50, "high": 400, "count": 2, "of": 2}
    assert found["levels"]["25.0"]["a"] == found["levels"]["25.0"]["b"] == there
    assert found["levels"]["25.0"]["a_seconds"]["low"] == 10
    assert convergence.compare({0: FAST}, {1: SLOW}) is None


# ---- differences -----------------------------------------------------------------------------------------


def test_students_distribution() -> None:
    published = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042}
    for freedom, value in published.items():
        assert two_sided(value, freedom) == two_sided(-value, freedom) == pytest.approx(0.05, abs=5e-5)
        assert point(freedom) == pytest.approx(value, rel=1e-3)
    assert two_sided(0, 7) == 1


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(("rows", "n"), [(2, 3), (4, 3), (6, 5)])
def test_chance_is_called_a_difference_in_few_tables(rows: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guards three seeds would agree in sign in a quarter of the pairs, and every table have its best."""
    monkeypatch.setattr("gantransfer.compare.ranking.RESAMPLES", 200)
    rng = np.random.default_rng(n)

    def called(shift: float) -> bool:
        tables = {str(row): dict(enumerate(np.exp(0.1 * (rng.normal(size=n) + shift * row)))) for row in range(rows)}
        return any(row["to_best"] and row["to_best"]["different"] for row in rank(tables))

    assert np.mean([called(0) for _ in range(200)]) < 0.09
    assert np.mean([called(30) for _ in range(20)]) > 0.8


def test_many_rows_and_three_seeds_still_show_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of twelve has half the distance. By its own spread no pair could pass Holm's correction over 66."""
    monkeypatch.setattr("gantransfer.compare.ranking.RESAMPLES", 200)
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        logs = 0.12 * rng.normal(size=(12, 3))
        logs[0] -= math.log(2)
        tests = [row["to_best"] for row in rank({str(i): dict(enumerate(np.exp(of))) for i, of in enumerate(logs)})]
        found.append(np.mean([test["different"] for test in tests if test]))
    assert np.mean(found) > 0.7


def test_common_variance_of_known_ones() -> None:
    """Variances drawn from a scaled inverse chi-squared distribution, estimated with two degrees of freedom each."""
    rng = np.random.default_rng(1)
    true = 0.3 * 6 / rng.chisquare(6, size=20_000)
    common, worth = common_variance((true * rng.chisquare(2, size=20_000) / 2).tolist(), [2] * 20_000)
    assert common == pytest.approx(0.3, rel=0.05) and worth == pytest.approx(6, rel=0.1)
    common, worth = common_variance((0.3 * rng.chisquare(2, size=20_000) / 2).tolist(), [2] * 20_000)
    assert common == pytest.approx(0.3, rel=0.05) and worth == MOST  # all alike: bounded
    wild = np.exp(10 * rng.normal(size=2000)).tolist()
    assert common_variance(wild, [2] * 2000)[1] < 0.3
    assert common_variance([0.5], [2]) == common_variance([0.0, 0.5], [2, 2]) == (0.0, 0.0)


def test_p_of_one_pair_is_students() -> None:
    sample = [1.0, 1.2, 0.7]
    assert p_values([sample], 1) == [paired(sample)["p"]]
    assert p_values([[1.0, 1.0]], 1) == [1.0]
    calm, noisy = p_values([sample, [1.0, 3.0, -1.0]], 2)
    assert calm > paired(sample)["p"] and noisy < paired([1.0, 3.0, -1.0])["p"]  # each is drawn to the other
    assert p_values([sample] * 4, 1)[0] > p_values([sample] * 4, 3)[0]  # no more freedom than there are values


def test_what_differs_by_rounding_alone_is_nothing_to_judge_by() -> None:
    a, b = [10, 20.1, 30.3, 7.7], [1.1 * value for value in (10, 20.1, 30.3, 7.7)]
    assert p_values([[math.log(x / y) for x, y in zip(a, b, strict=True)]], 1) == [1.0]


def test_a_difference_is_one_in_distance_and_in_ratio() -> None:
    """The means of the two may differ in sign; nothing is called then."""
    found = ranking.tested({("a", "b"): [5.0, 5.1, 4.9]}, {("a", "b"): [-0.5, -0.51, -0.49]})
    assert found["a", "b"]["p"] < 0.05 and not found["a", "b"]["different"]


def test_one_seed_says_nothing() -> None:
    assert paired([3.0]) == {"mean": 3.0, "low": None, "high": None, "p": 1.0, "count": 1}
    rows = rank({"a": {0: 10.0}, "b": {0: 20.0}})
    assert rows[1]["to_best"]["mean"] == 10 and not rows[1]["to_best"]["different"]


def test_ranking_pairs_seeds() -> None:
    rows = rank({"a": {0: 10.0, 1: 20.0, 2: 30.0}, "b": {0: 11.0, 1: 21.1, 2: 30.9}, "c": {5: 5.0}, "d": {}})
    assert [row["label"] for row in rows] == ["c", "a", "b"] and rows[1]["to_best"] is None  # no common seed
    without = rank({"a": {0: 10.0, 1: 20.0, 2: 30.0}, "b": {0: 11.0, 1: 21.1, 2: 30.9}})
    assert without[1]["to_best"]["different"] is False and without[1]["to_best"]["mean"] == pytest.approx(1)
    even = rank({"a": {0: 10.0, 1: 20.0, 2: 30.0}, "b": {0: 11.0, 1: 22.2, 2: 32.7}})
    assert even[1]["to_best"]["different"]  # paired, though the seeds differ by 10
    logs = np.log([1.1, 1.11, 1.09])
    t = math.sqrt(3) * logs.mean() / logs.std(ddof=1)
    assert even[1]["to_best"]["p"] == pytest.approx(1 - t / math.sqrt(2 + t**2), rel=1e-6)  # two degrees of freedom
    assert rank({}) == []


def test_the_best_is_not_behind_on_common_seeds() -> None:
    """The mean of a row with fewer seeds may be the smallest because it lacks the hard one."""
    rows = rank({"lucky": {0: 5.0, 1: 6.0}, "three": {0: 4.9, 1: 5.8, 2: 12.0}})
    assert [row["label"] for row in rows] == ["three", "lucky"] and rows[1]["mean"] < rows[0]["mean"]
    assert rows[1]["to_best"]["mean"] == pytest.approx(0.15) and not rows[1]["to_best"]["different"]


def test_a_pair_asked_about_is_judged_like_in_the_table_and_corrected_for_those_asked_about() -> None:
    distances = {row: dict(enumerate(values)) for row, values in {
        "a": (10.0, 11.0, 12.0), "b": (12.0, 13.5, 14.1), "c": (30.0, 25.0, 28.0)}.items()}
    every = ranking.tested_distances(distances)
    raw = p_values([[math.log(distances[a][i] / distances[b][i]) for i in range(3)] for a, b in every], 2)
    assert [test["p"] for test in every.values()] == pytest.approx(holm(raw))
    asked = ranking.tested_distances(distances, [("b", "a")])
    assert list(asked) == [("b", "a")] and asked["b", "a"]["mean"] == -every["a", "b"]["mean"] > 0
    assert asked["b", "a"]["p"] == pytest.approx(raw[0]) and (asked["b", "a"]["of"], every["a", "b"]["of"]) == (1, 3)


def test_a_run_that_is_missing_does_not_cost_a_row_its_place() -> None:
    """The best lacks one task of three; a row with one task alone is no best, however small its distance."""
    rows = rank_over_tasks({
        "x": {"good": {0: 5.0}, "bad": {0: 10.0}, "lucky": {0: 1.0}}, "y": {"good": {0: 6.0}, "bad": {0: 11.0}},
        "z": {"bad": {0: 12.0}}})
    assert [row["label"] for row in rows] == ["good", "lucky", "bad"] and rows[0]["tasks"] == 2
    assert rows[2]["to_best"]["mean"] == pytest.approx(math.sqrt(10 / 5 * 11 / 6))


def test_equal_differences_are_nothing_to_judge_by() -> None:
    assert paired([2.0, 2.0])["p"] == 1.0


def test_ranking_over_tasks_is_geometric_and_leaves_nobody_out() -> None:
    distances = {"x": {"a": {0: 1.0}, "b": {0: 2.0}}, "y": {"a": {0: 100.0, 1: 900.0}, "b": {0: 200.0}},
                 "z": {"a": {0: 10.0}, "b": {0: 21.0}, "only here": {0: 1.0}}}
    rows = rank_over_tasks(distances)
    assert [(row["label"], row["tasks"]) for row in rows] == [("a", 3), ("only here", 1), ("b", 3)]
    assert rows[0]["mean"] == pytest.approx(math.cbrt(1 * 300 * 10))  # of its own seeds
    assert rows[1]["to_best"]["mean"] == pytest.approx(0.1) and rows[1]["to_best"]["count"] == 1
    alone = rank_over_tasks({task: {k: v for k, v in of.items() if k != "only here"} for task, of in distances.items()})
    assert alone[1]["to_best"]["mean"] == pytest.approx(math.cbrt(2 * 2 * 2.1)) and alone[1]["to_best"]["different"]
    assert rows[2]["to_best"]["mean"] == alone[1]["to_best"]["mean"]  # of common seeds, whoever else is in the table


# ---- what is said of a comparison ------------------------------------------------------------------------


def told(tmp_path: Path, distances: dict[str, dict[str, list[float]]], pairs: tuple[tuple[str, str], ...],
         protocols: dict[str, str] | None = None, ends_alone: tuple[str, ...] = ()) -> dict[str, Any]:
    """The summary of finished runs, task -> row -> distance by seed; every curve has its best at its last iteration.
    Rows of `ends_alone` are measured at their start and end, the others between too."""
    labels = list(dict.fromkeys(label for of in distances.values() for label in of))
    plan = Comparison(tuple(Task(name, "s", "d") for name in distances), tuple(Variant(k, "bsa") for k in labels),
                      tmp_path, seeds=(0, 1, 2), pairs=pairs)
    outcomes = {}
    for cell in plan.cells():
        values = distances[cell.task].get(cell.label, [])
        outcomes[cell.name] = dict(FINISHED if cell.seed < len(values) else WAITING)
        if cell.seed < len(values):
            cell.folder.mkdir(parents=True)
            value, protocol = values[cell.seed], (protocols or {}).get(cell.label, "p")
            lines = [{"step": i, "nimg": i, "seconds": i, "frechet": value + 50 - i} for i in (0, 20, 50)
                     if i != 20 or cell.label not in ends_alone]
            (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            rows = [{"metric": "frechet", "after": value, "before": 99.0, "floor": 0.5}]
            (cell.folder / "result.json").write_text(json.dumps(
                {"rows": rows, "best_step": 50, "steps": 50, "seconds": 5.0, "protocol": protocol}))
    return summarise(plan, plan.cells(), outcomes)


def test_pairs_that_a_plan_names_are_tested_and_over_tasks_too(tmp_path: Path) -> None:
    found = told(tmp_path, {"x": {"a": [10.0, 11.0, 12.0], "b": [20.0, 21.1, 21.9], "c": [1.0, 1.0, 1.0]},
                            "y": {"a": [5.0], "b": [10.0]}}, (("a", "b"),))
    first, second = (task["pairs"][0] for task in found["tasks"])
    assert first["difference"]["mean"] == pytest.approx(-10) and first["difference"]["different"]
    logs = {row: np.log(values) for row, values in (("a", [10, 11, 12]), ("b", [20, 21.1, 21.9]), ("c", [1, 1, 1]))}
    every = [(logs[a] - logs[b]).tolist() for a, b in (("a", "b"), ("a", "c"), ("b", "c"))]
    assert first["difference"]["p"] == pytest.approx(p_values(every, 2)[0])  # judged by all pairs, corrected for one
    assert first["difference"]["of"] == 1 and found["tasks"][0]["ranking"][1]["to_best"]["of"] == 3
    assert second["difference"]["count"] == 1 and not second["difference"]["different"]
    over = found["pairs_over_tasks"][0]
    assert over["difference"]["mean"] == pytest.approx(math.sqrt(0.5 * (10 * 11 * 12 / 20 / 21.1 / 21.9) ** (1 / 3)))
    assert (over["ahead"], over["tasks"], over["short"]) == (2, 2, 2) and found["tasks"][0]["every"] == 30
    lines = list(csv.DictReader(io.StringIO(pairs_csv(found))))
    assert [(line["task"], line["over"], line["difference_different"]) for line in lines] == [
        ("x", "seeds", "True"), ("y", "seeds", "False"), ("", "tasks", "True")]
    rows = list(csv.DictReader(io.StringIO(rows_csv(found))))
    assert [(r["task"], r["label"], r["distance_std"]) for r in rows[:1]] == [("x", "a", "1.0")]
    page = render(found, tmp_path)
    for part in ("floor: real against real", "Pairs over tasks", "Distance of a less that of b: ", "ended before",
                 "Evaluated every 30 iterations"):
        assert part in page, part


def test_how_fine_the_curves_are_is_said_of_compared_rows_alone(tmp_path: Path) -> None:
    distances = {"x": {"a": [10.0], "b": [20.0], "slow to sample": [5.0]}}
    found = told(tmp_path / "one", distances, (("a", "b"),), ends_alone=("slow to sample",))
    assert found["tasks"][0]["every"] == 30
    found = told(tmp_path / "other", distances, (("a", "slow to sample"),), ends_alone=("slow to sample",))
    assert found["tasks"][0]["every"] == 50


def test_rows_under_another_protocol_are_neither_ranked_nor_compared(tmp_path: Path) -> None:
    found = told(tmp_path, {"x": {"a": [10.0, 11.0], "b": [1.0, 2.0], "c": [20.0, 22.0]}}, (("a", "b"), ("a", "c")),
                 {"b": "q"})
    task = found["tasks"][0]
    assert [row["label"] for row in task["ranking"]] == ["a", "c"] and task["protocol"] == "p"
    assert [(pair["a"], pair["b"]) for pair in task["pairs"]] == [("a", "c")] and task["others"] == ["b"]
    assert "b: measured under another protocol" in task["warnings"][-1] and "q" in task["warnings"][-1]


def test_a_row_under_another_protocol_is_in_no_result_over_tasks_either(tmp_path: Path) -> None:
    told(tmp_path, {"x": {"a": [10.0, 11.0], "b": [1.0, 2.0]}, "y": {"a": [10.0], "b": [2.0]}}, ())
    plan = Comparison((Task("x", "s", "d"), Task("y", "s", "d")), (Variant("a", "bsa"), Variant("b", "bsa")), tmp_path,
                      seeds=(0, 1), pairs=(("b", "a"),))
    file = tmp_path / "x" / "b-seed1" / "result.json"
    file.write_text(file.read_text().replace('"p"', '"q"'))
    found = summarise(plan, plan.cells(), {cell.name: cell.as_it_is() for cell in plan.cells()})
    assert found["tasks"][0]["others"] == ["b"]
    assert {row["label"]: row["tasks"] for row in found["ranking"]} == {"a": 2, "b": 1}
    over = found["pairs_over_tasks"][0]
    assert over["tasks"] == over["difference"]["count"] == over["runs"] == 1


def test_what_does_not_count_decides_nothing(tmp_path: Path) -> None:
    """Runs with other settings, more of them than there are others."""
    told(tmp_path, {"x": {"a": [10.0], "b": [1.0, 2.0, 3.0]}}, (), {"b": "q"})
    plan = Comparison((Task("x", "s", "d"),), (Variant("a", "bsa"), Variant("b", "bsa")), tmp_path, seeds=(0, 1, 2))
    outcomes = {cell.name: {**WAITING, "counted": False} if cell.label == "b" else cell.as_it_is()
                for cell in plan.cells()}
    found = summarise(plan, plan.cells(), outcomes)
    task = found["tasks"][0]
    assert task["protocol"] == "p" and task["others"] == [] and [row["label"] for row in task["ranking"]] == ["a"]
    assert task["rows"][0]["curve"] and task["rows"][1]["curve"] == []
    assert all("distance" not in c for c in found["cells"] if c["label"] == "b")


def test_runs_that_failed_decide_no_protocol(tmp_path: Path) -> None:
    told(tmp_path, {"x": {"a": [10.0], "b": [1.0, 2.0, 3.0]}}, (), {"b": "q"})
    plan = Comparison((Task("x", "s", "d"),), (Variant("a", "bsa"), Variant("b", "bsa")), tmp_path, seeds=(0, 1, 2))
    outcomes = {cell.name: failed(ModelError("x")) if cell.label == "b" else cell.as_it_is() for cell in plan.cells()}
    task = summarise(plan, plan.cells(), outcomes)["tasks"][0]
    assert task["protocol"] == "p" and task["others"] == [] and [row["label"] for row in task["ranking"]] == ["a"]


def test_pairs_say_how_many_runs_came_there(tmp_path: Path) -> None:
    distances = {"x": {"a": [10.0, 30.0], "b": [20.0, 20.0]}, "y": {"a": [10.0], "b": [20.0]}}
    found = told(tmp_path, distances, (("a", "b"),))
    first, _, over = csv.DictReader(io.StringIO(pairs_csv(found)))
    assert (first["reached"], first["runs"], over["reached"], over["runs"]) == ("1", "2", "2", "3")
    assert float(first["b_early"]) == 20 and float(first["reach_seconds"]) == 50 and over["b_early"] == ""


# ---- plans and estimates ---------------------------------------------------------------------------------


def test_every_source_meets_targets_without_one() -> None:
    tasks = tasks_of({"s": "model-s", "t": "model-t"}, {"one": {"per_class": 3}, "two": {"source": "t", "data": "e"}},
                     None, "d", {"fit": "pad"})
    assert [(task.name, task.source, task.data) for task in tasks] == [
        ("s-one", "model-s", "d"), ("t-one", "model-t", "d"), ("two", "model-t", "e")]
    assert tasks[0].data_options == {"fit": "pad", "per_class": 3}


def test_evaluated_every_25_iterations_unless_the_plan_says_otherwise(tmp_path: Path) -> None:
    def rhythm(**settings: int) -> int:
        plan = Comparison((Task("", "s", "d"),), (Variant("a", "bsa"),), tmp_path, settings=settings)
        return with_rhythm(plan.cells()[0], 100, 32).call["eval_nimg"]

    assert rhythm() == 25 * 32 and rhythm(eval_nimg=64) == 64


def test_cells_that_would_share_a_directory_are_refused(tmp_path: Path) -> None:
    rows = (Variant("a b", "bsa"), Variant("a/b", "bsa"))
    with pytest.raises(UsageError, match="directory 'a_b-seed0' appears twice"):
        Comparison((Task("", "s", "d"),), rows, tmp_path).check()
    with pytest.raises(UsageError, match="seed of 'a' '1' appears twice"):
        Comparison((Task("", "s", "d"),), (Variant("a", "bsa", seeds=(1, 1)),), tmp_path).check()


def test_estimate_from_finished_runs(tmp_path: Path) -> None:
    def cell(seed: int, steps: int) -> Cell:
        call = {"source": "s", "steps": steps, "eval_nimg": 50 * 8}
        return Cell(f"a-seed{seed}", "a", "bsa", seed, tmp_path / f"a-seed{seed}", call, shown=8)

    cells = [cell(0, 100), cell(1, 300)]
    cells[0].folder.mkdir()
    (cells[0].folder / "result.json").write_text(json.dumps({"seconds": 50, "steps": 100, "measuring_seconds": 6}))
    (cells[0].folder / "metrics.jsonl").write_text('{"step": 0}\n{"step": 50}\n{"step": 100}\n')
    found = estimate.estimate(cells, 1, trial=False)
    assert found["cells"]["a-seed0"] == 0
    assert found["cells"]["a-seed1"] == pytest.approx(300 * 0.5 + (300 / 50 + estimate.AT_THE_END) * 2)
    assert found["total"] == found["cells"]["a-seed1"] and found["basis"] == {"a": "finished runs"}
    assert estimate.estimate(cells, 8, trial=False)["total"] == found["total"]  # one run is one run's time
    three = [*cells, cell(2, 300), cell(3, 100)]
    assert estimate.estimate(three, 2, trial=False)["total"] == pytest.approx(
        sum(estimate.estimate(three, 1, trial=False)["cells"].values()) / 2)
    again = estimate.estimate(cells, 1, trial=False, changed={"a-seed0"})
    assert again["cells"]["a-seed0"] is None and again["total"] is None  # its speed was that of other settings
    (cells[0].folder / "result.json").write_text('{"rows": 3}')
    assert estimate.estimate(cells, 1, trial=False)["total"] is None
    (cells[0].folder / "result.json").write_text(json.dumps({"seconds": 50, "steps": 100, "measuring_seconds": 6}))
    staged = estimate.Speed(((0, 1.0), (80, 3.0)), 0.0, "")
    assert staged.training(160, 8) == 10 * 1 + 10 * 3 and staged.training(40, 8) == 5
    lacking = Cell("a-seed2", "a", "bsa", 2, tmp_path / "a-seed2", {"source": "s"})
    assert estimate.estimate([*cells, lacking], 1, trial=False)["cells"]["a-seed2"] is None
    other = Cell("b-seed0", "b", "bsa", 0, tmp_path / "b-seed0", cells[0].call, shown=8)
    assert estimate.estimate([*cells, other], 1, trial=False)["total"] is None
