"""The full state of a training run, written so that a crash at any moment leaves a loadable one.

A checkpoint is a directory ``step-000500`` with tensors (safetensors), JSON, and a manifest of sizes and
hashes. It is written under a temporary name, synced (files and directory), renamed, and read back against its
manifest; older ones are removed only then. One of the same step that it replaces waits as ``.replaced-000500``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
    partial, replaced = folder / f".partial-{step:06d}", folder / f".replaced-{step:06d}"
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
        _sync_directory(partial)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(final, replaced)
        os.replace(partial, final)
        _sync_directory(folder)
        if _read(final) is None:
            raise OSError(errno.EIO, "what was written does not read back")
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(f"cannot write the checkpoint '{final}' ({error.strerror}); free space or fix its "
                          "permissions, then 'gantransfer resume' goes on from the previous one") from None
    _sweep(folder, step)
    return final


def _sweep(folder: Path, step: int) -> None:
    """Drop what a killed process left half written, checkpoints later than `step` (damaged ones: a good one
    would have been continued), and all but the newest of the rest."""
    found = [(number, path) for number, path in found_in(folder) if path.name.startswith("step-")]
    old = [path for number, path in found if number > step] + [path for n, path in found if n <= step][:-KEEP]
    for path in [*old, *folder.glob(".partial-*"), *folder.glob(".replaced-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def found_in(folder: Path) -> list[tuple[int, Path]]:
    """(step, directory) of every checkpoint, oldest first, of one step the replaced one before the other; whether it
    is whole is not looked at."""
    paths = [path for pattern in (".replaced-*", "step-*") for path in folder.glob(pattern) if path.is_dir()]
    names = [(path.name.rpartition("-")[2], path) for path in paths]
    return sorted(((int(number), path) for number, path in names if number.isdecimal()), key=lambda pair: pair[0])


def _read(path: Path) -> dict[str, bytes] | None:
    """The files of a checkpoint, None unless each has the size and hash of its manifest."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        blobs = {}
        for name in FILES:
            if (path / name).stat().st_size != manifest[name]["bytes"]:  # before reading what may be huge
                return None
            blobs[name] = (path / name).read_bytes()
            if hashlib.sha256(blobs[name]).hexdigest() != manifest[name]["sha256"]:
                return None
        return blobs
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of the newest checkpoint whose manifest holds.

    Raises:
        ModelError: there is none; training is never silently started anew.
    """
    for _, path in reversed(found_in(folder)):
        blobs = _read(path)
        if blobs is not None:
            # Hashes that hold say who wrote the files did so on purpose, not that they are a state.
            with contextlib.suppress(ValueError, RecursionError, SafetensorError):
                return load(blobs[FILES[0]]), json.loads(blobs[FILES[1]])
    raise ModelError(f"'{folder}' holds no complete checkpoint; start the run again with a new --out")
