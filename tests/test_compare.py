"""Comparisons: cells that are finished, missing, failed, or of something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import command
import pytest
from command import SHORT, Capture, call, refused

from gantransfer.compare import Comparison, compare
from gantransfer.compare.cells import Cell, run_cell
from gantransfer.compare.claim import STUDY, beside, claim
from gantransfer.errors import UsageError

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
    assert code == 0 and [row["finished"] for row in table["tasks"][0]["rows"]] == [2, 2], err
    assert table["tasks"][0]["rows"][0]["distance_spread"] is not None
    assert (out / "bsa-seed0" / "result.json").stat().st_mtime_ns == made
    assert (out / "compare.csv").read_text().count("\n") == 5 and "<svg" in (out / "compare.html").read_text()


def test_a_cell_with_other_settings_runs_again_and_nothing_is_lost(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "compare"
    words = ["compare", "--source", place / "source", "--data", place / "images", "--methods", "bsa,scratch",
             "--no-evaluate", "--out", out, *SHORT]
    assert call(capsys, *words)[0] == 0
    made = (out / "scratch-seed0" / "result.json").stat().st_mtime_ns
    code, text, err = call(capsys, *words, "--fields", "bsa.lr=1e-2")
    assert code == 0 and "bsa-seed0 was run with other settings; that run is kept as" in text, err
    kept = out / "replaced" / "bsa-seed0-1"
    assert "lr: 0.005" in (kept / "config.yaml").read_text() and (kept / "result.json").is_file()
    assert "lr: 0.01" in (out / "bsa-seed0" / "config.yaml").read_text()
    assert (out / "scratch-seed0" / "result.json").stat().st_mtime_ns == made
    assert call(capsys, *words)[0] == 0 and (out / "replaced" / "bsa-seed0-2").is_dir()


def test_sources_times_targets(capsys: Capture, place: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "study"
    plan.write_text(f"""
out: {out}
title: Two <targets>
data: {place / "images"}
sources: {{one: {place / "source"}}}
targets:
  both: {{}}
  few: {{per_class: 4, seeds: [0]}}
seeds: [0, 1]
pairs: [mean=scratch]
levels: [1000]
expected: {{mean: {{one-few: 71.1}}}}
variants:
  scratch: {{method: bsa}}
  mean: {{method: bsa, init: mean}}
""")
    words = ["compare", plan, *SHORT]
    code, text, err = call(capsys, *words, "--dry-run", "--json")
    planned = json.loads(text)
    assert code == 0 and planned["seconds"] > 0 and not out.exists(), err
    assert {cell["status"] for cell in planned["cells"]} == {"waiting"}
    code, text, err = call(capsys, *words, "--json")
    found = json.loads(text)
    assert code == 0, err
    assert [cell["name"] for cell in found["cells"]] == [
        "one-both/scratch-seed0", "one-both/mean-seed0", "one-few/scratch-seed0", "one-few/mean-seed0",
        "one-both/scratch-seed1", "one-both/mean-seed1"]
    assert [task["name"] for task in found["tasks"]] == ["one-both", "one-few"]
    pair = found["tasks"][0]["pairs"][0]
    assert (pair["a"], pair["b"], pair["seeds"]) == ("mean", "scratch", 2)
    assert pair["levels"]["1000.0"]["a"] == {"mean": 0, "low": 0, "high": 0, "count": 2, "of": 2}
    assert {row["label"] for row in found["ranking"]} == {"mean", "scratch"}
    page = (out / "compare.html").read_text()
    assert "Two &lt;targets&gt;" in page and "published 71.1" in page and "Ranking over tasks" in page
    code, text, err = call(capsys, *words, "--dry-run")
    assert code == 0 and "6 runs, 0 to do" in text, err
    assert (out / "compare.csv").read_text().startswith("task,label,method,seed,status")
    (out / "one-few" / "mean-seed0" / "result.json").unlink()
    code, text, err = call(capsys, *words, "--no-run", "--json")
    assert code == 0 and [cell["status"] for cell in json.loads(text)["cells"]].count("waiting") == 1, err


def test_a_plan_is_read_strictly(capsys: Capture, place: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"

    def said(text: str) -> str:
        plan.write_text(f"out: {tmp_path / 'x'}\nmethods: bsa\n" + text)
        return refused(capsys, 2, "compare", plan)

    assert "target 'a' in the plan has a key 'per_clas' that is not known; did you mean 'per_class'?" in \
        said("source: s\ntargets: {a: {data: d, per_clas: 3}}")
    assert "target 'a' has no data" in said("source: s\ntargets: {a: {per_class: 3}}")
    assert "target 'a' in the plan is 3; give a mapping" in said("source: s\ntargets: {a: 3}")
    assert "needs --source" in said("data: d")
    assert "needs --data" in said("source: s")
    assert "pairs names 'bas', which is no row of the comparison; did you mean 'bsa'?" in \
        said("source: s\ndata: d\npairs: [bas=bsa]")
    assert "pairs has 'bsa'; give ROW=ROW" in said("source: s\ndata: d\npairs: [bsa]")
    assert "expected in the plan has a row without a mapping" in said("source: s\ndata: d\nexpected: {bsa: 3}")
    assert "--slurm has 'gpu'; give NAME=VALUE" in refused(capsys, 2, "compare", plan, "--slurm", "gpu")
    assert "is neither a file nor a published experiment" in refused(capsys, 2, "compare", tmp_path / "no.yaml")
    assert "two plans" in refused(capsys, 2, "compare", plan, "--config", plan)
    assert "has no flag '--method'" in refused(capsys, 2, "compare", "--method", "bsa")
    assert "a key 'plan'" in said("source: s\ndata: d\nplan: x")
    assert "expected names 'bas'" in said("source: s\ndata: d\nexpected: {bas: {a: 1}}")
    assert "expected names target 'b' of 'bsa'" in said("source: s\ntargets: {a: {data: d}}\nexpected: {bsa: {b: 1}}")
    assert "both source 's' and sources t" in said("source: s\nsources: {t: m}\ndata: d")
    assert "cannot be called '..'" in said("source: s\ntargets: {..: {data: d}}")
    assert "pairs has 'bsa=bsa', a row against itself" in said("source: s\ndata: d\npairs: [bsa=bsa]")
    assert "did you mean 'seeds'?" in said("source: s\ndata: d\nvariants: {a: {method: bsa, seed: 3}}")
    assert "its only target has no name" in said("source: s\ndata: d\nvariants: {a: {method: bsa, targets: [x]}}")
    assert "cannot be called '.lock'" in said("source: s\ntargets: {.lock: {data: d}}")
    assert "cannot be called 'replaced'" in said("source: s\ntargets: {replaced: {data: d}}")
    assert "match_weight 1 needs" in refused(capsys, 2, "compare", "--source", "glyph80-32", "--data", tmp_path,
                                             "--methods", "bsa", "--fields", "bsa.match_weight=1", "--out",
                                             tmp_path / "y", "--dry-run")


def test_tables_alone_do_not_occupy_a_directory_nor_count_other_settings(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    words = ["compare", "--source", place / "source", "--data", place / "images", "--methods", "bsa", "--no-evaluate",
             "--out", out, *SHORT]
    assert call(capsys, *words, "--no-run")[0] == 0
    assert refused(capsys, 4, *words, "--source", tmp_path / "none", "--slurm", "cluster=local")
    assert call(capsys, *words)[0] == 0
    code, text, err = call(capsys, *words, "--fields", "bsa.lr=0.7", "--no-run", "--json")
    found = json.loads(text)
    cell = found["cells"][0]
    assert code == 0 and cell["status"] == "waiting" and "other settings" in cell["error"], err
    assert "other settings" in call(capsys, *words, "--fields", "bsa.lr=0.7", "--no-run")[2]


def test_a_dry_run_counts_what_is_run_again(capsys: Capture, place: Path, tmp_path: Path) -> None:
    words = ["compare", "--source", place / "source", "--data", place / "images", "--methods", "bsa", "--no-evaluate",
             "--out", tmp_path / "c", *SHORT]
    assert call(capsys, *words)[0] == 0
    code, text, err = call(capsys, *words, "--fields", "bsa.lr=0.7", "--dry-run", "--json")
    found = json.loads(text)
    assert code == 0 and found["cells"][0]["status"] == "changed" and found["seconds"] > 0, err
    code, text, err = call(capsys, *words, "--fields", "bsa.lr=0.7", "--source", tmp_path / "none", "--dry-run")
    assert code == 0 and "changed" in text and "1 runs, 1 to do" in text, err


def test_a_dry_run_of_jobs_says_what_the_scheduler_would_not_take(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    words = ["compare", "--source", place / "source", "--data", place / "images", "--methods", "bsa", "--no-evaluate",
             "--out", tmp_path / "c", *SHORT, "--dry-run"]
    pytest.importorskip("submitit", reason="extra 'slurm' is not installed")
    code, text, err = call(capsys, *words, "--slurm", "cluster=local no_such=1")
    assert code == 0 and "not possible here: " in err and "no_such" in err and not (tmp_path / "c").exists()
    code, text, err = call(capsys, *words, "--slurm", "cluster=local timeout_min=3", "--jobs", 8)
    assert code == 0 and "one after another" in text and "not possible" not in err


def test_what_has_no_part_in_a_result_runs_nothing_again(
    capsys: Capture, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other logs, and the same source and images at another place."""
    out = tmp_path / "c"
    words = ["compare", "--methods", "bsa", "--no-evaluate", "--out", out, *SHORT]
    assert call(capsys, *words, "--source", place / "source", "--data", place / "images")[0] == 0
    monkeypatch.chdir(place)
    there = ["--source", "source", "--data", "images", "--log-nimg", 3, "--checkpoint-nimg", 5]
    code, text, err = call(capsys, *words, *there)
    assert code == 0 and "1 of 1 runs are finished already" in text and not (out / "replaced").exists(), err
    back = ["--source", place / "source", "--data", place / "images", "--no-run", "--json"]
    code, text, err = call(capsys, *words, *back)
    assert code == 0 and json.loads(text)["cells"][0]["status"] == "finished", err
    code, text, err = call(capsys, *words, "--source", place / "source", "--data", place / "flat", *back[4:])
    assert code == 0 and json.loads(text)["cells"][0]["status"] == "waiting", err
    (out / "bsa-seed0" / "result.json").unlink()  # one that is not finished would go on with the old ones
    assert "was run with other settings" in call(capsys, *words, *there, "--log-nimg", 4)[1]


def test_two_processes_do_not_run_one_comparison(capsys: Capture, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    words = ["compare", "--source", place / "source", "--data", place / "images", "--methods", "bsa,scratch",
             "--no-evaluate", "--out", out, *SHORT]
    with claim(out / STUDY):
        assert "another process runs the comparison in" in refused(capsys, 2, *words)
        assert call(capsys, *words, "--no-run")[0] == 0
    with claim(beside(out / "bsa-seed0")):  # as a worker or Slurm job that outlived who started it
        (out / "plan.json").write_text("{}")
        code, text, err = call(capsys, *words)
        assert code == 130 and "scratch-seed0: finished" in text and "another process is running it" in text, err
        plan = (out / "plan.json").read_bytes()  # its directory is not there yet, and nothing of it may change
        assert "another process runs 'bsa-seed0' with other settings" in refused(
            capsys, 2, *words, "--fields", "scratch.lr_g=0.7", "--fields", "bsa.lr=0.7")
        assert (out / "plan.json").read_bytes() == plan and (out / "scratch-seed0" / "result.json").is_file()
        (out / "bsa-seed0").mkdir()
        (out / "bsa-seed0" / "metrics.jsonl").write_text("{}\n")
        code, text, err = call(capsys, *words)
        assert code == 130 and "another process is running it" in err, err
        assert (out / "bsa-seed0" / "metrics.jsonl").read_text() == "{}\n"
    assert call(capsys, *words)[0] == 0
    shutil.rmtree(out / "bsa-seed0" / "checkpoints")  # as in a record; a job that waited in a queue finds it so
    assert run_cell(Cell("bsa-seed0", "bsa", "bsa", 0, out / "bsa-seed0", {}), None)["status"] == "finished"
    assert (out / "bsa-seed0" / "result.json").is_file()
    with pytest.raises(UsageError, match="jobs 0 is not possible"):
        compare(Comparison((), (), out), jobs=0)


def test_a_run_that_was_killed_in_its_first_checkpoint_starts_anew(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "c" / "bsa-seed0" / "checkpoints" / ".partial-000000"
    words = ["compare", "--source", place / "source", "--data", place / "images", "--methods", "bsa", "--no-evaluate",
             "--out", tmp_path / "c", *SHORT]
    partial.mkdir(parents=True)
    (tmp_path / "c" / "plan.json").write_text("{}")
    code, text, err = call(capsys, *words)
    assert code == 0 and "bsa-seed0: finished" in text, err


def test_a_damaged_plan_is_one_sentence(capsys: Capture, place: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    assert "cannot be read as JSON" in refused(capsys, 4, "compare", "--source", place / "source", "--data",
                                               place / "images", "--methods", "bsa", "--out", tmp_path, *SHORT)


def test_a_cell_of_other_images_runs_again(capsys: Capture, place: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "c"
    shutil.copytree(place / "images", images)
    words = ["compare", "--source", place / "source", "--data", images, "--methods", "bsa", "--no-evaluate", "--out",
             out, *SHORT]
    assert call(capsys, *words)[0] == 0
    next(images.rglob("*.png")).unlink()
    assert "bsa-seed0 was run with other settings" in call(capsys, *words)[1]


def test_a_dry_run_says_what_is_not_here_yet(capsys: Capture, tmp_path: Path) -> None:
    code, text, err = call(capsys, "compare", "--source", tmp_path / "none", "--data", tmp_path / "nothing",
                           "--methods", "bsa", "--out", tmp_path / "x", "--dry-run")
    assert code == 0 and "bsa-seed0" in text and "time is unknown" in text, err
    assert err.count("not here yet") == 2 and str(tmp_path / "none") in err and str(tmp_path / "nothing") in err
    assert not (tmp_path / "x").exists()


def test_compare_as_jobs_of_a_scheduler(capsys: Capture, place: Path, tmp_path: Path) -> None:
    """submitit's local cluster stands in for Slurm: the same files, processes and states."""
    pytest.importorskip("submitit", reason="extra 'slurm' is not installed")
    plan, out = tmp_path / "plan.yaml", tmp_path / "c"
    plan.write_text("slurm: {cluster: local, timeout_min: 5}\nvariants:\n  calm: {method: bsa}\n"
                    "  wild: {method: bsa, lr: 1e30, lr_d: 1e30, steps: 60}\n")
    words = ["compare", plan, "--source", place / "source", "--data", place / "images", "--no-evaluate", "--out", out,
             *SHORT]
    code, text, err = call(capsys, *words)
    assert code == 5 and "calm-seed0: finished" in text and "wild-seed0 failed" in err
    assert len(json.loads((out / "slurm" / "jobs.json").read_text())) == 2
    made = (out / "calm-seed0" / "result.json").stat().st_mtime_ns
    assert call(capsys, *words)[0] == 5 and (out / "calm-seed0" / "result.json").stat().st_mtime_ns == made
    plan.write_text("variants:\n  wild: {method: bsa, lr: 1e20}\n")
    assert "may still wait to run 'wild-seed0' with other settings; give --slurm" in refused(capsys, 2, *words)
    assert "are not possible with" in refused(capsys, 2, *words, "--slurm", "cluster=local no_such=1")


def test_compare_reports_a_failed_cell_and_goes_on(
    capsys: Capture, place: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("variants:\n  wild: {method: bsa, lr: 1e30, lr_d: 1e30, steps: 60}\n  calm: {method: bsa}\n")
    code, text, err = call(capsys, "compare", "--config", plan, "--source", place / "source", "--data",
                           place / "images", "--no-evaluate", "--out", tmp_path / "compare", *SHORT)
    assert code == 5 and "wild-seed0 failed" in err and "calm-seed0: finished" in text


def test_what_diverged_is_finished_at_no_later_call(capsys: Capture, place: Path, tmp_path: Path) -> None:
    """Nor where it was in the last iteration, so that the run has all its steps."""
    plan, out = tmp_path / "plan.yaml", tmp_path / "compare"
    plan.write_text("variants:\n  wild: {method: bsa, lr: 1e30, lr_d: 1e30, steps: 6}\n  calm: {method: bsa}\n")
    words = ["compare", plan, "--source", place / "source", "--data", place / "images", "--no-evaluate", "--out", out,
             *SHORT]
    for more in ([], [], ["--no-run"]):
        code, _, err = call(capsys, *words, *more)
        assert code == (0 if more else 5) and "wild-seed0 failed: " in err and "updates were non-finite" in err
        found = json.loads((out / "wild-seed0" / "result.json").read_text())
        assert found["steps"] == 6 and "diverged" in found
    rows = json.loads((out / "compare.json").read_text())["tasks"][0]["rows"]
    assert [(row["label"], row["finished"]) for row in rows] == [("wild", 0), ("calm", 1)]


@pytest.mark.parametrize(("file", "content", "said"), [
    ("result.json", "{", "cannot be read as JSON"), ("result.json", '{"rows": 3}', "the record in"),
    ("metrics.jsonl", '{"frechet": 3}\n', "the record in")])
def test_a_damaged_record_is_that_runs_failure_alone(
    capsys: Capture, place: Path, tmp_path: Path, file: str, content: str, said: str
) -> None:
    out = tmp_path / "compare"
    words = ["compare", "--source", place / "source", "--data", place / "images", "--methods", "bsa,scratch",
             "--no-evaluate", "--out", out, *SHORT]
    assert call(capsys, *words)[0] == 0
    (out / "bsa-seed0" / file).write_text(content)
    for more in ([], ["--no-run"]):
        code, text, err = call(capsys, *words, *more)
        assert code == (0 if more else 4) and "bsa-seed0 failed: " in err and said in err, err
        assert "html:" in text and (out / "bsa-seed0" / file).read_text() == content
    rows = json.loads((out / "compare.json").read_text())["tasks"][0]["rows"]
    assert [(row["label"], row["finished"]) for row in rows] == [("bsa", 0), ("scratch", 1)]


def test_an_error_of_one_target_names_it(capsys: Capture, place: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"source: {place / 'source'}\ndata: {place / 'images'}\nout: {tmp_path / 'c'}\n"
                    "targets: {one: {classes: [a]}, two: {classes: [q]}}\nvariants: {bsa: {method: bsa}}\n")
    assert "target 'two': class 'q'" in refused(capsys, 2, "compare", plan)


def test_a_row_may_have_seeds_of_its_own(capsys: Capture, place: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "compare"
    plan.write_text("seeds: [0, 1]\nvariants:\n  a: {method: bsa, seeds: [1]}\n  b: {method: bsa}\n")
    words = ["compare", "--config", plan, "--source", place / "source", "--data", place / "images", "--no-evaluate",
             "--out", out, *SHORT]
    code, text, err = call(capsys, *words, "--json")
    table = json.loads(text)
    assert code == 0 and [row["seeds"] for row in table["tasks"][0]["rows"]] == [1, 2], err
    assert [cell["name"] for cell in table["cells"]] == ["b-seed0", "a-seed1", "b-seed1"]
    plan.write_text("variants:\n  a: {method: bsa, seeds: 1}\n")
    assert "seeds of 'a' are 1; give whole numbers in brackets" in refused(capsys, 2, *words)


def test_a_row_may_have_targets_of_its_own(capsys: Capture, place: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "compare"
    targets = (f"source: {place / 'source'}\ndata: {place / 'images'}\nout: {out}\n"
               "targets: {few: {per_class: 4}, all: {}}\n")
    plan.write_text(targets + "variants:\n  a: {method: bsa, targets: [few]}\n  b: {method: bsa}\n")
    code, text, err = call(capsys, "compare", plan, "--no-evaluate", *SHORT, "--json")
    found = json.loads(text)
    assert code == 0 and [c["name"] for c in found["cells"]] == ["few/a-seed0", "few/b-seed0", "all/b-seed0"], err
    assert [[row["label"] for row in task["rows"]] for task in found["tasks"]] == [["a", "b"], ["b"]]
    assert "<h2>All tasks" in (out / "compare.html").read_text()
    plan.write_text(targets + "variants:\n  a: {method: bsa, targets: [fwe]}\n")
    assert "row 'a' names target 'fwe', which the comparison does not have; did you mean 'few'?" in \
        refused(capsys, 2, "compare", plan)
    plan.write_text(targets + "variants:\n  a: {method: bsa, targets: few}\n")
    assert "targets of 'a' are 'few'; give names" in refused(capsys, 2, "compare", plan)


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
