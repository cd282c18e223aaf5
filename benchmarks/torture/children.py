"""Child processes by fork: everything is imported once, so a process that is killed costs milliseconds."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

LIMIT_SECONDS = 1200  # after which a child counts as hanging


def prepare() -> None:
    """One thread, before the first fork: a forked process has no other."""
    torch.set_num_threads(1)


def start(work: Callable[[], int | None], log: Path) -> int:
    """Run `work` in a child, its screen into the file `log`; returns the process id. The child exits with what `work`
    returns, 99 for an error that is nobody's."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(LIMIT_SECONDS)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def end(pid: int) -> int:
    """Wait for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(work: Callable[[], int | None], log: Path) -> int:
    """`start` and `end`."""
    return end(start(work, log))
