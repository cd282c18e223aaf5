"""Shared fixtures: one torch thread per process, and the folder of golden tensors where it exists."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # short versions of the torture are tests
torch.set_num_threads(1)
for helper in ("api_run", "tiny"):  # they assert, or hold fixtures
    pytest.register_assert_rewrite(helper)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developers' folder of papers and golden fixtures; tests that need it skip without it."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip(f"the golden fixtures are not on this machine ({SHARED} is absent)")
    return SHARED
