"""Memory that stays with the process: given back at the end of the outermost block, and never against the user."""

import subprocess
import sys

import pytest

from gantransfer import kept_memory as module
from gantransfer.kept_memory import KEPT, RESTORED, kept_memory


class Library:
    """What the C library was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, number: int, value: int) -> None:
        self.calls.append((number, value))

    def malloc_trim(self, pad: int) -> None:
        self.calls.append((pad,))


def test_only_the_outermost_block_tells_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(module, "_glibc", lambda: library)
    with pytest.raises(ZeroDivisionError), kept_memory():
        with kept_memory():
            pass
        assert library.calls == list(KEPT.items())
        1 / 0  # noqa: B018
    assert library.calls == [*KEPT.items(), *RESTORED.items(), (0,)]


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_an_allocator_that_the_user_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert module._glibc.__wrapped__() is None


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ctypes, "CDLL", lambda _: object())
    assert module._glibc.__wrapped__() is None
    monkeypatch.setattr(module, "_glibc", lambda: None)
    with kept_memory():
        pass


RESIDENT = """
import os
import torch
from gantransfer.kept_memory import _glibc, kept_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

with kept_memory():
    torch.ones(64 << 18)  # 64 MB, gone at once
    inside = resident()
print(_glibc() is not None, inside - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_stays_inside_and_goes_after() -> None:
    """In a process of its own, whose memory is its own."""
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    applies, given_back = done.stdout.split()
    if applies == "False":
        pytest.skip("the C library is not glibc, or the environment sets its allocator")
    assert float(given_back) > 60
