"""What can go wrong, as types that carry the command line's exit code.

Every message is one sentence: the offending value, what is allowed, the way out.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class GanTransferError(Exception):
    """Base of all errors a user can cause; anything else is a bug of ours (exit code 1)."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(GanTransferError, ValueError):
    """A wrong flag, key, name or combination; an existing non-empty ``--out`` too."""

    exit_code = 2


class DataError(GanTransferError, ValueError):
    """Missing, empty, unreadable or wrongly laid out images."""

    exit_code = 3


class ModelError(GanTransferError, ValueError):
    """A model, adapter or weights file that is missing, unsafe, broken or does not fit."""

    exit_code = 4


class DivergedError(GanTransferError, RuntimeError):
    """Training produced non-finite values and one roll-back did not help."""

    exit_code = 5


class OutputError(GanTransferError, OSError):
    """The output cannot be written: full disk or read-only folder."""

    exit_code = 6


class Interrupted(GanTransferError):
    """SIGINT or SIGTERM arrived; the step was finished and everything saved."""

    exit_code = 130


def printable(text: str) -> str:
    """`text` in one line with nothing in it that steers a terminal: line breaks, control and direction characters and
    bytes that are no UTF-8 as backslash escapes. File and class names come from anybody."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters; its type where it has none."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn the operating system's refusals into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, GanTransferError):
            raise
        reason = error.strerror or str(error) or type(error).__name__
        raise OutputError(f"cannot write '{path}' ({reason}); free space or choose another folder") from None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the one of `choices` that `name` begins, else the nearest, or an empty string."""
    known = [str(c) for c in choices]
    begun = [c for c in known if name and c.startswith(str(name))]
    near = begun if len(begun) == 1 else difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
