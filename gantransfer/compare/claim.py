"""Places that one process at a time may write to: a comparison, and each of its runs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gantransfer.errors import writing

STUDY = ".lock"
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class Taken(Exception):
    """Another process has the place."""


def beside(folder: Path) -> Path:
    """The lock of a run: not in its directory, which a run that starts anew removes."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def claim(lock: Path) -> Iterator[None]:
    """Hold the file `lock`. Where the file system has locks it is free again however the process ends; where it has
    none, nobody is kept out.

    Raises:
        Taken: another process holds it; its text is the file. OutputError: it cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire()
        except Timeout:
            raise Taken(lock) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    try:
        yield
    finally:
        held.release()
