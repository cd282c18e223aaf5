"""Is everything in place? Versions, device, optional parts, shipped files, folders that can be written."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import tempfile
import zipfile
from pathlib import Path
from typing import Any

CORE = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "accelerate", "pyyaml", "rich", "jinja2")
# The extra, the module that must be importable, and what it is for.
EXTRAS = (
    ("hf", "datasets", "images from Hugging Face data sets"),
    ("tb", "tensorboard", "--track tensorboard"),
    ("wandb", "wandb", "--track wandb"),
    ("features", "transformers", "dinov2 and clip features"),
    ("slurm", "submitit", "comparisons as Slurm jobs"),
    ("dev", "pytest", "running the tests"),
)

EXIT_CODES = {"versions": 2, "shipped files": 4, "folders": 6}  # of the first thing needed that is not there
Finding = dict[str, Any]


def examine() -> list[Finding]:
    """One finding per matter: chapter, name, value, ok, optional, advice (what to do; empty if nothing)."""
    return [*_versions(), *_device(), *_extras(), *_shipped(), *_folders()]


def exit_code(findings: list[Finding]) -> int:
    """0 if everything needed is in place."""
    wrong = [f for f in findings if not f["ok"] and not f["optional"]]
    return EXIT_CODES.get(wrong[0]["chapter"], 1) if wrong else 0


def _finding(chapter: str, name: str, value: Any, ok: bool = True, optional: bool = False, advice: str = "") -> Finding:
    return {"chapter": chapter, "name": name, "value": value, "ok": ok, "optional": optional, "advice": advice}


def _versions() -> list[Finding]:
    import gantransfer

    found = [
        _finding("versions", "gantransfer", gantransfer.__version__),
        _finding("versions", "python", platform.python_version()),
    ]
    for package in CORE:
        try:
            found.append(_finding("versions", package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            found.append(_finding("versions", package, "not installed", False, advice=f"pip install {package}"))
    return found


def _device() -> list[Finding]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        _finding("device", "GPU", ", ".join(gpus) or "none; everything runs on the processor"),
        _finding("device", "processor cores", os.cpu_count()),
        _finding("device", "torch threads", torch.get_num_threads()),
    ]


def _extras() -> list[Finding]:
    found = []
    for extra, module, purpose in EXTRAS:
        there = importlib.util.find_spec(module) is not None
        advice = "" if there else f"pip install 'gantransfer[{extra}]' for {purpose}"
        found.append(_finding("extras", extra, "installed" if there else "not installed", there, True, advice))
    return found


def _shipped() -> list[Finding]:
    from gantransfer import shipped
    from gantransfer.errors import GanTransferError
    from gantransfer.features import load_features
    from gantransfer.fontfaces import face_list
    from gantransfer.sources import GAN, shipped_models

    found = []

    def check(name: str, action: Any) -> None:
        try:
            found.append(_finding("shipped files", name, action()))
        except (GanTransferError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            found.append(_finding("shipped files", name, f"broken: {error}", False, advice="install gantransfer again"))

    for name in shipped_models():  # loading compares the weights with their recorded hash
        check(f"model {name}", lambda name=name: f"intact, {len(GAN.from_pretrained(name).classes)} classes")
    for name in shipped.data_names():
        check(f"data {name}", lambda name=name: _archive(shipped.DATA / f"{name}.zip"))
    check("features glyph-cnn", lambda: f"intact, {load_features('glyph-cnn').dim} features")
    check("face list", lambda: f"intact, {len(face_list())} faces")
    if not shipped_models():
        found.append(_finding("shipped files", "models", "none", False, advice="install gantransfer again"))
    return found


def _archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"member {broken} is damaged")
        return f"intact, {len(archive.namelist())} members"


def _folders() -> list[Finding]:
    found = []
    for name, folder in (("current folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
            found.append(_finding("folders", name, f"{folder} can be written"))
        except OSError as error:
            found.append(_finding("folders", name, f"{folder} cannot be written ({error.strerror})", False,
                                  name == "current folder", "give another place with --out"))
    return found
