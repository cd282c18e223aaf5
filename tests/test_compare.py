"""Comparisons: cells that are finished, missing, failed, or of something else."""

from __future__ import annotations

import json
from pathlib import Path

import command
from command import SHORT, Capture, call, refused

place = command.place


def test_compare_runs_what_is_missing(capsys: Capture, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    words = ["compare", "--source", place / "source", "--data", place / "images", "--per-class", 4, "--methods",
             "bsa,scratch", "--fields", "bsa.lr=1e-2", "--out", out, *SHORT]
    code, text, err = call(capsys, *words)
    assert code == 0 and "bsa-seed0: finished" in text and "best at iteration" in text, err
    made = (out / "bsa-seed0" / "result.json").stat().st_mtime_ns
    code, text, err = call(capsys, *words, "--seeds", "0,1", "--json")
    table = json.loads(text)
    assert code == 0 and [row["finished"] for row in table["rows"]] == [2, 2], err
    assert table["rows"][0]["distance_spread"] is not None
    assert (out / "bsa-seed0" / "result.json").stat().st_mtime_ns == made
    assert (out / "compare.csv").read_text().count("\n") == 5 and "<svg" in (out / "compare.html").read_text()
    assert "steps was 2, now 3" in refused(capsys, 2, *words, "--steps", 3)


def test_compare_reports_a_failed_cell_and_goes_on(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("variants:\n  wild: {method: bsa, lr: 1e30, lr_d: 1e30, steps: 60}\n  calm: {method: bsa}\n")
    code, text, err = call(capsys, "compare", "--config", plan, "--source", place / "source", "--data",
                           place / "images", "--no-evaluate", "--out", tmp_path / "compare", *SHORT)
    assert code == 5 and "wild-seed0 failed" in err and "calm-seed0: finished" in text


def test_a_row_may_have_seeds_of_its_own(capsys: Capture, place: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "compare"
    plan.write_text("seeds: [0, 1]\nvariants:\n  a: {method: bsa, seeds: [1]}\n  b: {method: bsa}\n")
    words = ["compare", "--config", plan, "--source", place / "source", "--data", place / "images", "--no-evaluate",
             "--out", out, *SHORT]
    code, text, err = call(capsys, *words, "--json")
    table = json.loads(text)
    assert code == 0 and [row["seeds"] for row in table["rows"]] == [1, 2], err
    assert [cell["name"] for cell in table["cells"]] == ["b-seed0", "a-seed1", "b-seed1"]
    plan.write_text("variants:\n  a: {method: bsa, seeds: 1}\n")
    assert "seeds of 'a' are 1; give whole numbers in brackets" in refused(capsys, 2, *words)


def test_compare_in_processes(capsys: Capture, place: Path, tmp_path: Path) -> None:
    code, text, err = call(capsys, "compare", "--source", place / "source", "--data", place / "images", "--methods",
                           "bsa", "--seeds", "0,1", "--jobs", 2, "--no-evaluate", "--out", tmp_path / "c", *SHORT)
    assert code == 0 and "bsa-seed1: finished" in text, err


def test_compare_refuses_a_folder_of_something_else(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("")
    assert "holds no comparison" in refused(capsys, 2, "compare", "--source", place / "source", "--data",
                                            place / "images", "--methods", "bsa", "--out", tmp_path, *SHORT)
