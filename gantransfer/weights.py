"""Reading and writing tensors safely: safetensors out, foreign pickles only with ``weights_only=True``."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from gantransfer.errors import ModelError, first_line, writing

# Networks of one checkpoint file, as code bases call them; the first is the moving average.
NETWORKS = ("generator_test", "generator", "discriminator")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth``/``.pt`` file, on the CPU.

    The format is found from the content. Pickles are read with ``weights_only=True``, so no code in them
    runs. A dict that nests one state dict is unwrapped and DataParallel's ``module.`` prefix taken off; of several
    networks it is the generator, else the first of `NETWORKS`.

    Raises:
        ModelError: missing, truncated, unsafe, without tensors, or with non-finite values.
    """
    networks = read_networks(path)
    return networks.get("generator") or next(iter(networks.values()))


def read_networks(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of every network in a checkpoint file, by their names in `NETWORKS`; "" is the only one of a file
    that names none. Also a ``.npz`` of arrays. Everything else is as in `read_tensors`."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file '{path}' does not exist; check the path")
    blob = path.read_bytes()
    # A safetensors file starts with its header's length, whose first byte may be a pickle's; its JSON follows.
    is_safetensors = blob[8:9] == b"{"
    is_pickle = blob[:4] == b"PK\x03\x04" or blob[:1] == b"\x80"
    if path.suffix == ".npz":
        networks = {"": _arrays(blob, path)}
    elif is_pickle and not is_safetensors:
        networks = _networks(_unpickle(blob, path), path)
    else:
        try:
            networks = {"": load_safetensors(blob)}
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"'{path}' is neither a whole safetensors file nor a PyTorch checkpoint ({error}); "
                "download or export it again"
            ) from None
    for key, tensor in ((k, t) for tensors in networks.values() for k, t in tensors.items()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"'{path}' holds non-finite values in '{key}'; use an earlier checkpoint")
    return networks


def _arrays(blob: bytes, path: Path) -> dict[str, Tensor]:
    """The numeric arrays of a ``.npz``; arrays of objects, which are pickles, are not read."""
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        found = {name: torch.from_numpy(array.copy()) for name, array in arrays.items() if array.dtype.kind in "fiu"}
    except Exception as error:  # zipfile, zlib and numpy raise many types on broken input; all mean the same
        raise ModelError(f"'{path}' is no whole .npz of plain arrays ({first_line(error)}); export it again with "
                         "numpy.savez") from None
    if not found:
        raise ModelError(f"'{path}' holds no arrays of numbers; export the variables again with numpy.savez")
    return found


def _unpickle(blob: bytes, path: Path) -> Any:
    try:  # not from the path: torch.load goes by the suffix where it is .safetensors
        return torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here; all mean 'not loadable safely'
        # torch's own text goes on to recommend loading without the safety; do not repeat that.
        unsafe = "weights" in str(error).lower() and "only" in str(error).lower()
        reason = "it holds more than tensors" if unsafe else f"it is damaged: {type(error).__name__}"
        raise ModelError(
            f"'{path}' is not a safe, whole checkpoint and was not executed ({reason}); "
            "re-save its tensors with safetensors"
        ) from None


def _networks(content: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        content = {}
    parts = {name: content[name] for name in NETWORKS if isinstance(content.get(name), Mapping)} or {"": content}
    found = {}
    for name, part in parts.items():
        tensors = {k: v for k, v in part.items() if isinstance(v, Tensor)}
        if tensors and all(k.startswith("module.") for k in tensors):
            tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
        if tensors:
            found[name] = tensors
    if not found:
        raise ModelError(f"'{path}' holds no named tensors; give the file of one network's state dict")
    return found


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> int:
    """Write `tensors` as safetensors and return the file's bytes; OutputError if that is impossible."""
    path = Path(path)
    # One copy per name: safetensors refuses tensors that share storage.
    blob = save_safetensors({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, blob)
    return len(blob)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object; ModelError if it is missing or broken."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read as JSON ({error}); restore it or export again") from None
    if not isinstance(content, dict):
        raise ModelError(f"'{path}' holds no JSON object; restore it or export again")
    return content


def write_json(content: Mapping[str, Any], path: str | Path) -> None:
    """Write readable UTF-8 JSON; OutputError if that is impossible."""
    write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)


def write_text(text: str, path: str | Path) -> None:
    """Write UTF-8, bytes of paths that are none as backslash escapes, which JSON and YAML read back as they were;
    OutputError if that is impossible."""
    with writing(path):
        replace_file(Path(path), text.encode("utf-8", "backslashreplace"))


def replace_file(path: Path, blob: bytes) -> None:
    """Write `path` whole or not at all, whatever dies meanwhile (OSError if that is impossible)."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as handle:
            handle.write(blob)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes of one tensor."""
    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over the names and contents of all parameters and buffers: a model's identity."""
    return tensors_sha256(module.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and contents, whatever their order."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key}:{tensor_sha256(tensor)}\n".encode())
    return digest.hexdigest()


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """``load_state_dict`` with every difference in one sentence (ModelError)."""
    check_fit(module, tensors, what)
    module.load_state_dict(dict(tensors))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """That `tensors` are `module`'s by name and shape, every difference in one sentence (ModelError)."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or wrong:
        parts = [f"{len(n)} {w} (first: {n[0]})" for w, n in
                 (("missing", missing), ("unexpected", extra), ("of another shape", sorted(wrong))) if n]
        raise ModelError(f"{what} does not fit its network: tensors " + ", ".join(parts) + "; check the config")
