"""Places that one process at a time may write to: a comparison, and each of its runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gantransfer.errors import writing

STUDY = ".lock"


class Taken(Exception):
    """Another process has the place."""


def beside(folder: Path) -> Path:
    """The lock of a run: not in its directory, which a run that starts anew removes."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def claim(lock: Path) -> Iterator[None]:
    """Hold the file `lock`; the system lets go of it however the process ends.

    Raises:
        Taken: another process holds it. OutputError: it cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire()
        except Timeout:
            raise Taken from None
        except NotImplementedError:  # a file system without locks: as it was before there were any
            pass
    try:
        yield
    finally:
        held.release()
