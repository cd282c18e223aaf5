"""Two processes that train one model (gloo on the CPU)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_same_runs, same, write_images

SCRIPT = Path(__file__).parent / "two_processes.py"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which two processes did what two_processes.py says, and what each printed."""
    folder = tmp_path_factory.mktemp("two")
    write_images(folder / "data", {"a": 5, "b": 5, "c": 5})
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2",
              "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        printed = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(printed)
    return folder, printed


def _ranks(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.parametrize("name", ["straight", "broken", "toy", "matched", "mined"])
def test_both_hold_the_same_weights_and_buffers(trained: tuple[Path, list[str]], name: str) -> None:
    first, second = _ranks(trained[0] / name)
    own = {k for k in first if k.startswith("extras/") and k.endswith(("running_mean", "running_var"))}
    assert not own and same(first, second)


def test_matched_statistics_are_of_the_images_of_both(trained: tuple[Path, list[str]]) -> None:
    for rank in _ranks(trained[0] / "matched"):
        assert rank["extras/matching.count"].sum() == 12


def test_resuming_is_exact(trained: tuple[Path, list[str]]) -> None:
    folder, printed = trained
    assert_same_runs(folder / "broken", folder / "straight")
    assert same(_ranks(folder / "broken")[1], _ranks(folder / "straight")[1])
    assert [f"rank {rank} stopped at 3" in printed[rank] for rank in (0, 1)] == [True, True]


def test_logs_are_written_once_and_count_both(trained: tuple[Path, list[str]]) -> None:
    lines = [json.loads(line) for line in (trained[0] / "straight" / "stats.jsonl").read_text().splitlines()]
    assert [(line["step"], line["nimg"]) for line in lines] == [(step, 4 * step) for step in range(1, 5)]


def _printed(trained: tuple[Path, list[str]], key: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for text in trained[1] for line in text.splitlines() if line.startswith("{")]
    return [entry for entry in found if key in entry]


def test_a_loss_that_is_bad_in_one_is_skipped_by_both(trained: tuple[Path, list[str]]) -> None:
    found = _printed(trained, "skipped")
    assert [entry["skipped"] for entry in found] == [1, 1]
    # Between them they see every batch once.
    assert sorted(found[0]["asked"] + found[1]["asked"]) == list(range(8))


def test_adapt_runs_in_both(trained: tuple[Path, list[str]]) -> None:
    first, second = _printed(trained, "sha256")
    assert first["sha256"] == second["sha256"]
    assert (trained[0] / "adapted" / "adapter" / "adapter_config.json").is_file()
