"""The full state of a training run, written so that a crash at any moment leaves a loadable one.

A checkpoint is a directory ``step-000500`` with tensors (safetensors), JSON, and a manifest of sizes and
hashes. It is written under a temporary name, synced, and renamed; the previous one is removed only then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from gantransfer.errors import ModelError, OutputError

KEEP = 2
FILES = ("state.safetensors", "state.json")


def flatten_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors and JSON."""
    state = optimizer.state_dict()
    tensors = {
        f"{prefix}.{index}.{name}": value
        for index, entries in state["state"].items()
        for name, value in entries.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def restore_optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """The inverse of `flatten_optimizer`, in place."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix + "."):
            index, name = key[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": meta["param_groups"]})
    for param, entries in optimizer.state.items():
        for name, value in entries.items():
            if name != "step" and value.shape == param.shape:  # files hold no memory format
                entries[name] = torch.empty_like(param).copy_(value)


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write ``folder/step-<step>`` atomically and drop all but the newest two.

    Raises:
        OutputError: disk full or read-only; earlier checkpoints are untouched.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-{step:06d}"
    files = {
        # One copy per name: safetensors refuses tensors that share storage (a score table shared by layers).
        FILES[0]: save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}),
        FILES[1]: json.dumps(meta, ensure_ascii=False).encode(),
    }
    manifest = {name: {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()} for name, blob in files.items()}
    files["manifest.json"] = json.dumps(manifest).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir()
        for name, blob in files.items():
            with open(partial / name, "wb") as handle:
                handle.write(blob)
                handle.flush()
                os.fsync(handle.fileno())
        if final.exists():
            os.replace(final, folder / f".partial-old-{step:06d}")
        os.replace(partial, final)
        _sync_directory(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(f"cannot write the checkpoint '{final}' ({error.strerror}); free space or fix its "
                          "permissions, then 'gantransfer resume' goes on from the previous one") from None
    _sweep(folder, step)
    return final


def _sweep(folder: Path, step: int) -> None:
    """Drop what a killed process left half written, checkpoints later than `step` (damaged ones: a good one
    would have been continued), and all but the newest of the rest."""
    found = _found(folder)
    old = [path for number, path in found if number > step] + [path for n, path in found if n <= step][:-KEEP]
    for path in [*old, *folder.glob(".partial-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _found(folder: Path) -> list[tuple[int, Path]]:
    """(step, directory) of every checkpoint, oldest first; whether it is whole is not looked at."""
    names = [(path.name.removeprefix("step-"), path) for path in folder.glob("step-*") if path.is_dir()]
    return sorted((int(number), path) for number, path in names if number.isdecimal())


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of the newest checkpoint whose manifest holds.

    Raises:
        ModelError: there is none; training is never silently started anew.
    """
    for _, path in reversed(_found(folder)):
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            blobs = {name: (path / name).read_bytes() for name in FILES}
            if all(hashlib.sha256(blobs[name]).hexdigest() == manifest[name]["sha256"] for name in FILES):
                return load(blobs[FILES[0]]), json.loads(blobs[FILES[1]])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise ModelError(f"'{folder}' holds no complete checkpoint; start the run again with a new --out")
