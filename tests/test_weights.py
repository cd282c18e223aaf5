"""Reading and writing tensors: formats told by content, nothing executed, every defect one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gantransfer.errors import ModelError, OutputError
from gantransfer.weights import (
    load_strictly,
    read_json,
    read_tensors,
    state_sha256,
    tensor_sha256,
    write_json,
    write_tensors,
)

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor(0.5).bfloat16()}


def same(read: dict[str, torch.Tensor]) -> bool:
    return read.keys() == TENSORS.keys() and all(
        v.dtype == TENSORS[k].dtype and torch.equal(v, TENSORS[k]) for k, v in read.items())


WRITERS = {
    "safetensors": lambda path: save_file(TENSORS, path),
    "pth": lambda path: torch.save(TENSORS, path),
    "legacy pth": lambda path: torch.save(TENSORS, path, _use_new_zipfile_serialization=False),
    "nested": lambda path: torch.save({"state_dict": TENSORS, "epoch": 3, "config": {"lr": 0.1}}, path),
    "DataParallel": lambda path: torch.save({f"module.{k}": v for k, v in TENSORS.items()}, path),
    "both": lambda path: torch.save({"model": {f"module.{k}": v for k, v in TENSORS.items()}, "itr": 1}, path),
    "parameters": lambda path: torch.save(
        {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in TENSORS.items()}, path),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("writer", list(WRITERS))
def test_formats_are_told_by_content(writer: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    WRITERS[writer](path)
    assert same(read_tensors(path)) and same(read_tensors(str(path)))


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "legacy", "inside", "pickle", "protocol 0"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(writer: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / "evil.pth"
    payload = Payload(proof)
    if writer in ("torch", "legacy"):
        torch.save(payload, path, _use_new_zipfile_serialization=writer == "torch")
    elif writer == "inside":
        torch.save({**TENSORS, "meta": payload}, path)
    else:
        path.write_bytes(pickle.dumps({"w": payload}, protocol=0 if writer == "protocol 0" else 2))
    with pytest.raises(ModelError, match="evil.pth"):
        read_tensors(path)
    assert not proof.exists()
    with open(path, "rb") as handle:  # the payload is a working one
        torch.load(handle, weights_only=False) if writer in ("torch", "legacy", "inside") else pickle.load(handle)
    assert proof.exists()


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    made: dict[str, tuple[Path, str]] = {}

    def add(name: str, content: bytes, message: str) -> None:
        path = folder / name
        path.write_bytes(content)
        made[name] = path, message

    save_file(TENSORS, folder / "whole.safetensors")
    torch.save(TENSORS, folder / "whole.pth")
    torch.save(TENSORS, folder / "old.pth", _use_new_zipfile_serialization=False)
    whole, zipped, old = ((folder / n).read_bytes() for n in ("whole.safetensors", "whole.pth", "old.pth"))
    again = "download or export it again"
    add("short.safetensors", whole[:-5], again)
    add("header.safetensors", whole[:20], again)
    add("empty.safetensors", b"", again)
    add("noise.pth", np.random.default_rng(0).bytes(300), again)
    add("page.pth", b"<html>Not found</html>", again)
    add("short.pth", zipped[: len(zipped) // 2], "not a safe, whole checkpoint")
    add("short_old.pth", old[: len(old) // 2], "not a safe, whole checkpoint")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"epoch": 3}, folder / "numbers.pth")
    torch.save(TENSORS["b"], folder / "tensor.pth")
    for name in ("list.pth", "numbers.pth", "tensor.pth"):
        made[name] = folder / name, "no named tensors"
    made["missing"] = folder / "missing.pth", "does not exist"
    made["folder"] = folder, "does not exist"
    return made


def test_broken_files_are_one_sentence(tmp_path: Path) -> None:
    for name, (path, message) in broken_files(tmp_path).items():
        with pytest.raises(ModelError, match=message) as caught:
            read_tensors(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_non_finite_weights_are_refused(value: float, suffix: str, tmp_path: Path) -> None:
    bad = {**TENSORS, "blocks.0.weight": torch.tensor([0.0, value])}
    path = tmp_path / f"bad{suffix}"
    save_file(bad, path) if suffix == ".safetensors" else torch.save(bad, path)
    with pytest.raises(ModelError, match="non-finite values in 'blocks.0.weight'"):
        read_tensors(path)


def test_writing(tmp_path: Path) -> None:
    shared = torch.randn(4, 4)
    tensors = {"x": shared, "alias": shared, "view": shared[:2].t(), "scalar": torch.tensor(3.0, requires_grad=True)}
    size = write_tensors(tensors, tmp_path / "new" / "w.safetensors")
    assert size == (tmp_path / "new" / "w.safetensors").stat().st_size
    read = read_tensors(tmp_path / "new" / "w.safetensors")
    assert all(torch.equal(read[k], v) for k, v in tensors.items())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_tensors(tensors, tmp_path / "file" / "w.safetensors")
    with pytest.raises(OutputError, match="cannot write"):
        write_json({}, tmp_path / "file" / "c.json")
    write_json({"name": "Ж"}, tmp_path / "c.json")
    assert read_json(tmp_path / "c.json") == {"name": "Ж"} and "Ж" in (tmp_path / "c.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"{", b"[1]", b"\xff\xfe"])
def test_broken_json_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="config.json"):
        read_json(path)


def test_identities() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert tensor_sha256(tensor) == tensor_sha256(tensor.t().contiguous().t())  # layout is not content
    others = [tensor.reshape(3, 2), tensor.double(), tensor + 1, -tensor]
    assert len({tensor_sha256(t) for t in [tensor, *others]}) == 5
    assert tensor_sha256(torch.zeros(())) != tensor_sha256(torch.zeros(1))
    a, b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    assert state_sha256(a) == state_sha256(b)
    b.running_mean[0] = 1e-6  # buffers count
    assert state_sha256(a) != state_sha256(b)
    assert state_sha256(nn.ModuleDict({"x": a})) != state_sha256(nn.ModuleDict({"y": a}))


def test_loading_strictly() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"'f' does not fit its network: tensors 1 missing \(first: bias\), "
                                         r"1 unexpected \(first: c\), 1 of another shape \(first: weight\)"):
        load_strictly(layer, {"weight": torch.zeros(3, 2), "c": torch.zeros(1)}, "'f'")
    load_strictly(layer, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, "'f'")
    assert torch.equal(layer.weight, torch.ones(2, 2))


def test_a_safetensors_file_whose_first_byte_is_a_pickles(tmp_path: Path) -> None:
    """The first byte is the low byte of the header's length, which can be 0x80 or, with 'K' after it, b"PK"."""
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    header += b" " * (0x80 - len(header))
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x00\x00\x80\x3f")
    assert read_tensors(path)["x"].item() == 1.0
