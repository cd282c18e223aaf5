"""Short versions of benchmarks/torture, which tries the same at length: seconds each, on a busy machine too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from method_pairs import Pair
from tiny import make_data
from torture import __main__ as runner
from torture import disks, files, kills, load, resume

ROOT = Path(__file__).resolve().parents[1]


def _alone(code: str, folder: Path) -> dict:
    """What `code` prints last as JSON, in a process of its own: forked children must not inherit pytest's threads."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *sys.path])
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_kills(tmp_path: Path) -> None:
    found = _alone("import json, sys, torture; from torture import kills; from pathlib import Path\n"
                   "print(json.dumps(kills.torture(Path(sys.argv[1]), kills=3, lives=0)))", tmp_path / "k")
    assert found["survived"] == 3 and found["equals_the_run_nobody_killed"]


def test_disks(tmp_path: Path) -> None:
    found = _alone("import json, sys, torture; from torture import disks; from pathlib import Path\n"
                   "print(json.dumps(disks.torture(Path(sys.argv[1]), sizes=1, commands=2)))", tmp_path / "d")
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found["survived"] == found["faults"] == 4


@pytest.mark.parametrize(("method", "how"), [("minegan", "crash"), ("cgantransfer", "stop")])
def test_exact_resume_with_adaptive_augmentation_at_any_step(tmp_path: Path, method: str, how: str) -> None:
    """minegan with two sources: its selector is resumed too."""
    data = make_data(tmp_path / "data")
    resume.one(tmp_path / "run", Pair(method, "tables"), data, 4, how, resume.ADA, steps=6)


def test_every_method_is_tried_in_two_processes() -> None:
    from gantransfer.registry import methods

    assert {pair.method for pair in resume.plain_pairs()} == set(methods)


def test_damaged_files(tmp_path: Path) -> None:
    found = files.torture(tmp_path, damaged=150)
    assert found["survived"] == found["faults"] and found["bad_files"] >= 20 and found["files"] >= 70


@pytest.mark.parametrize(("name", "count"), [("zip", 300), ("listed", 1000)])
def test_loads(tmp_path: Path, name: str, count: int) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *sys.path])
    done = subprocess.run([sys.executable, "-m", "torture.load", name, str(count), str(tmp_path / "l")], text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["peak_bytes"] > 0
    assert set(load.LOADS) == set(load.ALLOWED)


def test_the_record(tmp_path: Path) -> None:
    record = {"part": "kills", "faults": 200, "survived": 200, "kills": 160, "wall_seconds": 9.0, "peak_mb": 5,
              "peak_mb_of_children": 7, "sizes": {}, "note": "Busy.", "environment": {"cpu": "X", "cores": 2}}
    (tmp_path / "kills.json").write_text(json.dumps(record))
    (tmp_path / "disks.json").write_text(json.dumps({**record, "part": "disks", "failed": "it fell"}))
    text = runner.summary(tmp_path)
    assert "| kill -9 at random moments | 200 | 200 | kills 160 | 9 s | 7 MB |" in text and "FAILED: it fell" in text
    assert "Busy." in text and kills.torture and disks.torture
