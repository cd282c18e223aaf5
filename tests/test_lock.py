"""requirements.lock is in step with pyproject.toml: every dependency pinned, with hashes; `make lock` writes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml takes Python 3.11")
requirements = pytest.importorskip("packaging.requirements")
utils = pytest.importorskip("packaging.utils")

ROOT = Path(__file__).resolve().parents[1]


def _locked() -> dict[str, list[str]]:
    """Every pinned version by name; one pin has a marker where versions differ by Python or platform."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M):
        found.setdefault(utils.canonicalize_name(name), []).append(version)
    return found


def _wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    return [line for line in lines if not line.startswith(("gantransfer", "torch>="))]


@pytest.mark.parametrize("line", _wanted())
def test_every_dependency_is_pinned_within_its_limits(line: str) -> None:
    wanted = requirements.Requirement(line)
    versions = _locked().get(utils.canonicalize_name(wanted.name))
    assert versions, f"'{line}' is not in requirements.lock: run make lock"
    assert all(wanted.specifier.contains(version) for version in versions), (line, versions)


def test_every_pin_has_hashes_and_torch_has_none() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text(), flags=re.M)[1:]
    assert len(entries) > 50 and all("--hash=sha256:" in entry for entry in entries)
    names = set(_locked())
    assert not {"torch", "triton", "torchvision"} & names
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]


def test_the_core_asks_for_none_of_the_tools() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {requirements.Requirement(line).name for line in project["dependencies"]}
    assert not {"atheris", "pip-audit", "uv", "hypothesis"} & names
    assert "torture" not in project["optional-dependencies"]["all"][0]
