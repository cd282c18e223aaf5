"""Memory that stays with the process while it computes on a CPU.

glibc hands memory back to the system as soon as it is freed (blocks above 32 MB always, smaller ones once the end of
the heap is free), and every page that comes anew is zeroed and faulted in: up to a third of an iteration, as
``benchmarks/means.py`` measures. Other allocators have settings of their own and are left alone, as is glibc where the
environment already sets it.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # numbers of mallopt(3)
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
# Where glibc's own thresholds end after the first large blocks; those that were set do not move any more.
RESTORED = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}

_depth = 0


@functools.cache
def _glibc() -> Any:
    """The C library if it is glibc and nobody has set its allocator, else None."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError):  # no such thing on this system
        return None


@contextmanager
def kept_memory() -> Iterator[None]:
    """Freed memory stays with the process until the outermost of these blocks ends, which gives it back; a decorator
    of functions too.

    The setting is the process's. The peak of memory grows by the gaps between blocks in use (``benchmarks/speed.py``).
    """
    global _depth
    library = _glibc()
    _depth += 1
    try:
        if library is not None and _depth == 1:
            for number, value in KEPT.items():
                library.mallopt(number, value)
        yield
    finally:
        _depth -= 1
        if library is not None and _depth == 0:
            for number, value in RESTORED.items():
                library.mallopt(number, value)
            library.malloc_trim(0)
