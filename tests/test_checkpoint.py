"""Checkpoints: whole or absent, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same
from torch import Tensor, nn
from toy import Toy

from gantransfer import checkpoint
from gantransfer.checkpoint import flatten_optimizer, load_checkpoint, restore_optimizer, save_checkpoint
from gantransfer.errors import ModelError, OutputError


def _state(step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"a/weight": torch.full((3, 2), float(step)), "b": torch.tensor(step)}
    return tensors, {"progress": {"step": step}, "ü": "ä"}


def _write(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, *_state(step))


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert save_checkpoint(tmp_path / "c", 7, *_state(7)) == tmp_path / "c" / "step-000007"
    assert same(load_checkpoint(tmp_path / "c"), _state(7))
    manifest = json.loads((tmp_path / "c" / "step-000007" / "manifest.json").read_text())
    for name, entry in manifest.items():
        assert entry["bytes"] == (tmp_path / "c" / "step-000007" / name).stat().st_size


def test_two_are_kept(tmp_path: Path) -> None:
    _write(tmp_path, 0, 2, 4, 1000000)
    assert _names(tmp_path) == ["step-000004", "step-1000000"]
    assert load_checkpoint(tmp_path)[1]["progress"]["step"] == 1000000


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    _write(tmp_path, 2, 4)
    save_checkpoint(tmp_path, 4, *_state(5))
    assert load_checkpoint(tmp_path)[1]["progress"]["step"] == 5
    assert _names(tmp_path) == ["step-000002", "step-000004"]


@pytest.mark.parametrize("dies_at", [1, 2], ids=["before the old one is set aside", "between the two renames"])
def test_killed_while_the_only_one_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Of the same step, with no earlier one to fall back on: one of both is always there."""
    _write(tmp_path, 4)
    renames: list[Any] = []

    def dies(old: Path, new: Path, replace: Any = os.replace) -> None:
        renames.append(old)
        if len(renames) == dies_at:
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(checkpoint.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 4, *_state(5))
    monkeypatch.undo()
    assert same(load_checkpoint(tmp_path), _state(4))
    _write(tmp_path, 6)
    assert load_checkpoint(tmp_path)[1]["progress"]["step"] == 6
    assert not any(name.startswith(".") for name in _names(tmp_path))


def test_files_and_directories_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def renamed(old: Path, new: Path) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(checkpoint.os, "fsync", synced)
    monkeypatch.setattr(checkpoint.os, "replace", renamed)
    _write(tmp_path / "c", 2)
    assert done == ["state.safetensors", "state.json", "manifest.json", ".partial-000002", "rename", "c"]


def test_what_does_not_read_back_is_an_error_and_costs_no_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, 2, 4)
    rename = os.replace

    def damaging(old: Path, new: Path) -> None:
        rename(old, new)
        _flip(new / "state.safetensors")

    monkeypatch.setattr(checkpoint.os, "replace", damaging)
    with pytest.raises(OutputError, match="does not read back"):
        _write(tmp_path, 6)
    assert same(load_checkpoint(tmp_path), _state(4)) and "step-000002" in _names(tmp_path)


def test_half_written_ones_are_ignored_and_swept(tmp_path: Path) -> None:
    _write(tmp_path, 2)
    shutil.copytree(tmp_path / "step-000002", tmp_path / ".partial-000004")
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-000009").write_text("a file")
    assert load_checkpoint(tmp_path)[1]["progress"]["step"] == 2
    _write(tmp_path, 4)
    assert _names(tmp_path) == ["step-000002", "step-000004", "step-000009", "step-notes"]


def _flip(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)


DAMAGES: dict[str, Any] = {
    "a flipped bit": lambda p: _flip(p / "state.safetensors"),
    "a flipped bit in the JSON": lambda p: _flip(p / "state.json"),
    "a truncated file": lambda p: os.truncate(p / "state.safetensors", 20),
    "an empty file": lambda p: (p / "state.json").write_text(""),
    "a missing file": lambda p: (p / "state.safetensors").unlink(),
    "no manifest": lambda p: (p / "manifest.json").unlink(),
    "an empty manifest": lambda p: (p / "manifest.json").write_text("{}"),
    "a broken manifest": lambda p: (p / "manifest.json").write_text('{"state.json": '),
    "another manifest": lambda p: (p / "manifest.json").write_text('{"state.json": 3, "state.safetensors": []}'),
    "a list for a manifest": lambda p: (p / "manifest.json").write_text("[]"),
    "an empty directory": lambda p: [f.unlink() for f in p.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_newest_one_gives_way_to_the_one_before(tmp_path: Path, damage: Any) -> None:
    _write(tmp_path, 2, 4)
    damage(tmp_path / "step-000004")
    assert same(load_checkpoint(tmp_path), _state(2))
    damage(tmp_path / "step-000002")
    with pytest.raises(ModelError, match="holds no complete checkpoint; start the run again") as caught:
        load_checkpoint(tmp_path)
    assert caught.value.exit_code == 4


def test_nothing_there_is_an_error_and_no_new_start(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match="no complete checkpoint"):
            load_checkpoint(folder)


def test_damaged_later_ones_never_push_out_a_good_one(tmp_path: Path) -> None:
    """The run went on from step 2: what lies after it cannot be read."""
    _write(tmp_path, 6, 8)
    for name in ("step-000006", "step-000008"):
        DAMAGES["a flipped bit"](tmp_path / name)
    _write(tmp_path, 4)
    assert _names(tmp_path) == ["step-000004"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path: Path) -> None:
    for name in ("whole", "damaged"):
        Toy(tmp_path / name, steps=6).trainer.run()
    _flip(tmp_path / "damaged" / "checkpoints" / "step-000006" / "state.safetensors")
    toy = Toy(tmp_path / "damaged", steps=6)
    toy.trainer.restore()
    assert toy.trainer.progress.step == 4
    toy.trainer.run()
    states = [load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("whole", "damaged")]
    assert same(*states)


# ---- no space, no permission -----------------------------------------------------------------------------


def test_a_full_disk_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, 2)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left.*free space.*gantransfer resume") as caught:
        _write(tmp_path, 4)
    monkeypatch.undo()
    assert caught.value.exit_code == 6
    assert _names(tmp_path) == ["step-000002"]
    assert same(load_checkpoint(tmp_path), _state(2))


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so a file stands where the folder should be."""
    (tmp_path / "c").write_text("a file")
    with pytest.raises(OutputError, match="cannot write the checkpoint"):
        _write(tmp_path / "c", 2)

    def denied(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(OutputError, match="Permission denied"):
        _write(tmp_path / "d", 2)


def test_logs_that_cannot_be_written(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (tmp_path / "stats.jsonl").mkdir()
    with pytest.raises(OutputError, match="stats.jsonl.*gantransfer resume"):
        toy.trainer.run()


# ---- killed at any moment --------------------------------------------------------------------------------

WRITER = """
import sys, torch
from pathlib import Path
from gantransfer.checkpoint import save_checkpoint
step = 0
while True:
    step += 1
    save_checkpoint(Path(sys.argv[1]), step, {"a": torch.full((100_000,), float(step))}, {"step": step})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_one(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    for i in range(8):  # freeze the writer somewhere, and read what a crash there would leave
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{i}"))
        process.send_signal(signal.SIGCONT)
        process.stdout.readline()
        time.sleep(0.003 * i)
    process.kill()
    process.wait()
    process.stdout.close()
    for folder in [tmp_path, *(tmp_path.with_name(f"{tmp_path.name}-{i}") for i in range(8))]:
        tensors, meta = load_checkpoint(folder)
        assert torch.equal(tensors["a"], torch.full((100_000,), float(meta["step"])))


# ---- optimisers ------------------------------------------------------------------------------------------


def test_an_optimiser_comes_back_in_the_memory_format_of_its_parameters() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        net.scale = nn.Parameter(torch.ones(()))
        return net, torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.5, 0.9))

    net, optimizer = build()
    (net(torch.randn(1, 2, 5, 5)).square().mean() * net.scale).backward()
    optimizer.step()
    tensors, meta = flatten_optimizer("o/x", optimizer)
    tensors = {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    other, again = build()
    restore_optimizer("o/x", again, {**tensors, "o/xy.0.step": torch.ones(9)}, json.loads(json.dumps(meta)))
    assert same(flatten_optimizer("o/x", again)[0], tensors)
    entries = again.state[other.weight]
    assert entries["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    assert again.param_groups[0]["lr"] == 0.1 and tuple(again.param_groups[0]["betas"]) == (0.5, 0.9)
