"""The tables that the studies' texts quote: `benchmarks/tables.py`, `minegan_shares.py`, `transfergan_ranks.py`,
`false_calls.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks import false_calls, minegan_shares, record, tables
from benchmarks import method_pairs as method_pairs_table
from benchmarks.transfergan_ranks import against, agreement, reached, spearman
from gantransfer.compare import convergence


def study(folder: Path, values: dict[str, dict[str, list[float]]], training: tuple[str, ...] = ()) -> Path:
    """A record: row -> target -> distance by seed; curves fall from twice the distance in two evaluations."""
    cells = []
    for label, of in values.items():
        for task, distances in of.items():
            for seed, distance in enumerate(distances):
                name = f"{task}/{label}-seed{seed}"
                (folder / name).mkdir(parents=True)
                split = "training" if task in training else "select"
                lines = [{"step": step, "split": split, "frechet": value} for step, value in
                         ((0, 9 * distance), (100, 2 * distance), (200, distance))]
                (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
                rows = [{"metric": "frechet", "floor": 0.5}, {"metric": "mv", "floor": 0.9}]
                (folder / name / "result.json").write_text(json.dumps({"rows": rows}))
                reference = "training-images" if task in training else "held-out"
                cells.append({"name": name, "label": label, "task": task, "status": "finished", "seed": seed,
                              "best_step": 800 + 100 * seed, "protocol": f"reference={reference}",
                              "metrics": {"frechet": distance, "mv": 0.7}})
    cells.append({"name": "x", "label": "never", "task": "t", "status": "failed", "metrics": {}})
    (folder / "compare.json").write_text(json.dumps({"cells": cells}))
    return folder


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    tasks = ("script-10x10", "script-10x100", "script-10x600")
    values = {"transfergan": ([14.0], [8.0, 10.0], [1.0]), "scratch": ([20.0], [13.0], [2.0])}
    return study(tmp_path, {row: dict(zip(tasks, of, strict=True)) for row, of in values.items()}, training=tasks[2:])


def test_means_with_their_spread_and_real_images(sizes: Path) -> None:
    (text,) = tables.tables(sizes, ["frechet"], [], "", False)
    assert text.splitlines()[2] == "| transfergan | 14 | 9 ± 1.4 | 1 |"
    assert text.splitlines()[-1] == "| real images | 0.5 | 0.5 | 0.5 |"
    (text,) = tables.tables(sizes, ["frechet", "mv"], [], "", True)
    assert "script-10x100: frechet | script-10x100: mv" in text.splitlines()[0]
    assert text.splitlines()[-1].startswith("| real images | 0.5 | 0.9 |")


def test_distances_on_the_way_on_either_split(sizes: Path) -> None:
    first, second = tables.tables(sizes, ["frechet"], [100, 200], "", False)
    assert first.splitlines()[2] == "| transfergan | 28 | 18 ± 2.8 | 2 |" and "at iteration 200" in second


def test_how_many_images_fewer(sizes: Path) -> None:
    """Against held-out images alone: with 600 per class none are left."""
    (text,) = tables.tables(sizes, ["frechet"], [], "transfergan=scratch", False)
    assert "script-10: transfergan with 10 images per class 14, 100 images per class 9" in text and "600" not in text
    assert "scratch with 10 images per class 20; transfergan is as good with 10, 1 times fewer" in text
    assert "scratch with 100 images per class 13; transfergan is as good with 100, 1 times fewer" in text
    (text,) = tables.tables(sizes, ["frechet"], [100], "scratch=transfergan", False)
    assert "transfergan with 10 images per class 28; scratch is as good with 100, 0.1 times fewer" in text
    assert "with none of these sizes" in text


def test_distances_with_the_iteration_of_the_best(sizes: Path) -> None:
    (text,) = tables.tables(sizes, ["frechet"], [], "", False, best=True)
    assert text.splitlines()[2:] == ["| transfergan | 14 (800) | 9 ± 1.4 (850) | 1 (800) |",
                                     "| scratch | 20 (800) | 13 (800) | 2 (800) |", "| real images | 0.5 | 0.5 | 0.5 |"]
    (text,) = tables.tables(sizes, ["frechet"], [], "", False, best=True, group="script")
    assert text.splitlines()[2].startswith("| transfergan | 14 (800) |")
    with pytest.raises(tables.Missing, match="no target belongs to the group 'scrip'; have: script"):
        tables.tables(sizes, ["frechet"], [], "", False, best=True, group="scrip")


def test_how_much_sooner_over_targets_and_groups(tmp_path: Path) -> None:
    """Geometric means, and fractions averaged; targets that were never reached count among all."""
    def spread(*values: float | None) -> dict[str, Any]:
        return convergence.spread(values)

    def pair(a: str, b: str, step: float | None, ratio: float | None, seconds: float | None) -> dict[str, Any]:
        best = {key: spread(2.0) for key in ("best_ratio", "best_ratio_seconds", "b_early", "b_best_distance")}
        return {"a": a, "b": b, **best, "reach_step": spread(step), "reach_ratio": spread(ratio),
                "reach_ratio_seconds": spread(seconds)}

    tasks = {"script-1": [pair("a", "b", 25, 4, 8)], "script-2": [pair("a", "b", 25, 16, 2)],
             "random-1": [pair("a", "b", None, None, None), pair("b", "a", 25, 7, None)],
             "script-3": [pair("c", "b", 0, None, None)]}
    (tmp_path / "compare.json").write_text(json.dumps(
        {"tasks": [{"name": name, "pairs": pairs} for name, pairs in tasks.items()]}))
    (text,) = tables.tables(tmp_path, [], [], "", False, sooner="a=b")
    table, over = text.split("\n\n")
    assert "| script-1 | 2 | 2 | 25 | 4 | 8 | 2 | 2 |" in table
    assert "| random-1 | 2 | 2 | never | - | - | 2 | 2 |" in table
    whole, script, random = over.splitlines()
    assert whole == ("all: in 2 of 3 targets (2 of 3 runs), there 8 times sooner (4 to 16; the mean fraction of the "
                     "other's iterations is 1/6.4), in seconds 4 (2 to 8)")
    assert script.startswith("script: in 2 of 2 targets") and random == "random: in 0 of 1 targets (0 of 1 runs)"
    (text,) = tables.tables(tmp_path, [], [], "", False, sooner="b=a")
    assert text.splitlines()[-1].endswith("is 1/7)")
    (text,) = tables.tables(tmp_path, [], [], "", False, sooner="c=b")  # as good from the start, which has no factor
    assert text.splitlines()[-1] == "script: in 1 of 1 targets (1 of 1 runs)"
    with pytest.raises(tables.Missing, match="no pair is called 'a=c'"):
        tables.tables(tmp_path, [], [], "", False, sooner="a=c")


def test_a_cell_with_other_settings_leaves_the_record(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "record"
    plan = {"a-seed0": {"lr": 1}, "a-seed1": {"lr": 1}}
    for name in plan:
        (runs / name / "samples").mkdir(parents=True)
        for file in (*record.OF_A_CELL, "samples/after.png"):
            (runs / name / file).write_text("{}")
    (runs / "plan.json").write_text(json.dumps(plan))
    assert record.record(runs, out) == 2 and (out / "a-seed1" / "result.json").is_file()
    (runs / "a-seed0" / "result.json").unlink()  # lost here, with the settings of the record
    (runs / "a-seed1" / "result.json").unlink()
    (runs / "plan.json").write_text(json.dumps({**plan, "a-seed1": {"lr": 2}}))
    assert record.record(runs, out) == 0
    assert (out / "a-seed0" / "result.json").is_file() and not (out / "a-seed1").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    ((["fid"], [], "", False), "no run has metric 'fid'; have: frechet, mv"),
    ((["frechet"], [150], "", False), "no run was measured at iteration 150; nearest are 0, 100, 200"),
    ((["frechet"], [], "a=scratch", False), "no row is called 'a'; have: transfergan, scratch"),
    ((["frechet"], [], "scratch", False), "write A=B"),
])
def test_what_is_not_recorded_is_said(sizes: Path, arguments: tuple, message: str) -> None:
    with pytest.raises(tables.Missing, match=message):
        tables.tables(sizes, *arguments)


def test_correlation_of_ranks() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == 1 and spearman([1, 2, 3], [3, 2, 1]) == -1
    assert spearman([1, 1, 2], [1, 1, 5]) == 1  # ties share their mean rank
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_evidence_and_outcome_are_matched_by_source() -> None:
    """Small distances are good, large coverage is; evidence that a source lacks is left out."""
    rows = {"a": {"frechet": 1.0, "coverage": 0.9, "probe": None, "mean_rank": 1.0},
            "b": {"frechet": 2.0, "coverage": 0.5, "probe": 3.0, "mean_rank": 2.0},
            "c": {"frechet": 3.0, "coverage": 0.7, "probe": 4.0, "mean_rank": 3.0}}
    found = agreement(rows, {"c": 30.0, "a": 10.0, "b": 20.0})
    assert found == {"frechet": 1.0, "coverage": pytest.approx(0.5), "mean_rank": 1.0}


def test_two_sources_against_each_other() -> None:
    """Over targets and seeds, as factors; sources go by their directory's name."""
    found = against({"x": {"runs/dense/model": [10.0, 12.0], "runs/diverse/model": [20.0, 24.1]},
                     "y": {"runs/dense/model": [5.0], "glyph80-32": [1.0]}}, "dense", "diverse")
    assert found["count"] == 2 and found["mean"] == pytest.approx((0.5 * 12 / 24.1) ** 0.5)
    assert against({"y": {"runs/dense/model": [5.0]}}, "dense", "diverse") is None


def test_what_was_reached_by_target_source_and_seed() -> None:
    tasks = [{"name": "a-x", "data": "x", "source": "a"}, {"name": "b-x", "data": "x", "source": "b"}]
    cells = [{"task": "a-x", "label": "t", "status": "finished", "distance": 1.0},
             {"task": "b-x", "label": "t", "status": "finished", "distance": 2.0},
             {"task": "b-x", "label": "scratch", "status": "finished", "distance": 9.0},
             {"task": "a-x", "label": "t", "status": "failed"}]
    assert reached({"tasks": tasks, "cells": cells}, "t") == {"x": {"a": [1.0], "b": [2.0]}}


def test_the_recorded_table_of_methods_and_networks_is_todays() -> None:
    recorded = (Path(__file__).parents[1] / "results" / "baselines" / "pairs.md").read_text(encoding="utf-8")
    assert method_pairs_table.markdown() + "\n" == recorded


def test_shares_of_sources_by_run_and_as_means(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Four sources of which the target has two; a run with one source is passed over."""
    names = ["latin", "digits", "greek", "cyrillic"]
    for seed, p in enumerate(([0.5, 0.4, 0.06, 0.04], [0.7, 0.2, 0.1, 0.0])):
        run = tmp_path / "study" / f"row-seed{seed}"
        (run / "samples").mkdir(parents=True)
        sources = [{"name": f"runs/{name}/model"} for name in names]
        config = {"source": {**sources[0], "others": sources[1:]}, "data": {"path": "data/latin-100-digits-100"}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "samples" / "mining.json").write_text(json.dumps({"p": p}))
        logged = {f"D/{key}{i}": 0.25 for i in range(1, 5) for key in ("p", "won")}
        (run / "stats.jsonl").write_text(json.dumps({"D/p1": 1.0}) + "\n" + json.dumps(logged) + "\n")
        (run / "result.json").write_text("{}")
    alone = tmp_path / "study" / "single-seed0"
    alone.mkdir()
    (alone / "config.yaml").write_text(yaml.safe_dump({"source": {"name": "a"}, "data": {"path": "x"}}))
    (alone / "result.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["minegan_shares", str(tmp_path / "study")])
    minegan_shares.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "off by 0.100; irrelevant sources 0.100 together" in lines[0]
    assert "last 0.250, 0.250, 0.250, 0.250; won 0.250" in lines[0]
    assert lines[2] == ("mean p of 2 seeds, row: latin 0.600, digits 0.300, greek 0.080, cyrillic 0.020; off by 0.200; "
                        "irrelevant sources 0.100 together")
    assert lines[3].startswith("mean won of 2 seeds, row: latin 0.250") and lines[3].endswith("0.500 together")


def test_made_up_tables_of_rows_that_differ() -> None:
    """A third of the distance is found by the test of `compare`; by each pair's own spread, seldom in six rows."""
    rng, found, by_itself = np.random.default_rng(0), [], []
    for _ in range(5):
        made_up = false_calls.table(rng, 6, 3, 0.0, ahead=1 / 3)
        assert list(made_up) == list("012345") and all(len(of) == 3 for of in made_up.values())
        found += false_calls.called(made_up)
        by_itself += false_calls.alone(made_up)
    assert "0" not in found + by_itself and len(found) >= 23 and len(by_itself) < len(found)
