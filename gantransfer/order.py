"""Orders that must never change: resumed runs and published few-shot subsets depend on them.

Both come from SHA-256 and a counter-based generator's raw output, which are fixed by definition; the shuffles of numpy
and torch may change with a version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=8)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n images in one epoch: int64 [n], a pure function of its arguments."""
    key = int.from_bytes(hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()[:16], "little")
    order = np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")
    order.flags.writeable = False  # it is cached
    return order


def shuffled(indices: Iterable[int], name: Callable[[int], str], seed: int, label: str) -> list[int]:
    """`indices` of one class in the order of a hash of (seed, class, file name).

    Other classes and further files do not change the order of these.
    """

    def key(index: int) -> str:
        file = name(index).rpartition("/")[2]
        return hashlib.sha256(f"{seed}:{label}:{file}".encode()).hexdigest()

    return sorted(indices, key=key)
