"""The command line: ``gantransfer VERB``.

Exit codes: 0 done, 1 a bug of ours, 2 usage or config, 3 data, 4 model or weights, 5 diverged, 6 cannot write,
130 interrupted (and saved). Errors are one sentence on the standard error.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence

from gantransfer.cli.flags import Verb
from gantransfer.errors import GanTransferError, Interrupted, UsageError, did_you_mean

__all__ = ["main"]

INTERRUPTED = 130
CANNOT_WRITE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EFBIG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # class names are any letters, terminals are not
    debug = "--traceback" in words or bool(os.environ.get("GANTRANSFER_DEBUG"))
    try:
        return _run(words)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("before anything new was to be saved", INTERRUPTED, "stopped")
    except Interrupted as error:
        return _fail(str(error), INTERRUPTED, "stopped")
    except GanTransferError as error:
        if debug:
            _traceback()
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if debug:
            _traceback()
        return _unforeseen(error, debug)


def _run(words: list[str]) -> int:
    from gantransfer.cli import help as helps
    from gantransfer.cli.verbs import VERBS

    if not words or words[0] in ("--help", "-h", "help"):
        if len(words) > 1:
            return _run([*words[1:], "--help"])
        print(helps.overview(VERBS, _version()))
        return 0
    if words[0] in ("--version", "-V"):
        print(f"gantransfer {_version()}")
        return 0
    if len(words) == 2 and words[1] in ("--help", "-h") and (of_two := _second(words[0])):
        print(helps.of_group(words[0], of_two))
        return 0
    verb, rest = _choose(words)
    if "--help" in rest or "-h" in rest:
        print(helps.of_verb(verb, *_fields_for_help(verb, rest)))
        return 0
    from gantransfer.cli.parsing import parse
    from gantransfer.cli.screen import clean_warnings

    with clean_warnings(), _quiet_libraries():
        settings = parse(verb, rest)
        module, function = verb.action.split(":")
        action = getattr(importlib.import_module(f"gantransfer.cli.{module}"), function)
        return int(action(settings) or 0)


def _choose(words: list[str]) -> tuple[Verb, list[str]]:
    """The verb and the words after it."""
    from gantransfer.cli.verbs import BY_NAME

    for length in (2, 1):
        if (name := " ".join(words[:length])) in BY_NAME:
            return BY_NAME[name], words[length:]
    if words[0].startswith("-"):
        raise UsageError(f"'{words[0]}' stands before the verb; write gantransfer VERB {words[0]} ...")
    second = [verb.name.split()[1] for verb in _second(words[0])]
    if second:
        given = f", not '{words[1]}'" if len(words) > 1 and not words[1].startswith("-") else ""
        raise UsageError(f"gantransfer {words[0]} is followed by one of: {', '.join(second)}{given}; "
                         f"e.g. gantransfer {words[0]} {second[0]} --help")
    raise UsageError(f"verb '{words[0]}' does not exist{did_you_mean(words[0], BY_NAME)}; "
                     "'gantransfer --help' lists them")


def _second(word: str) -> list[Verb]:
    """The verbs of two words that begin with `word`, if it is none by itself."""
    from gantransfer.cli.verbs import VERBS

    return [] if any(verb.name == word for verb in VERBS) else [v for v in VERBS if v.name.startswith(f"{word} ")]


def _fields_for_help(verb: Verb, words: list[str]) -> tuple[list, Collection[str]]:
    """The flags of the method or architecture that is named beside ``--help``, and those that the method has no use
    for."""
    named = [w.lstrip("-").partition("=") for w in words if w.startswith(("--method", "--arch"))]
    if verb.fields is None or not named:
        return [], ()
    name, _, value = named[-1]
    index = words.index(f"--{name}") + 1 if not value else 0
    value = value or (words[index] if index < len(words) else "")
    found = verb.fields({name: value})  # refuses an unknown one
    from gantransfer.registry import methods

    return found, getattr(methods[value], "unused", {}) if name == "method" else ()


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep other packages' log lines off the screen."""
    import logging

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _version() -> str:
    from gantransfer import __version__

    return __version__


def _fail(text: str, code: int, label: str = "error") -> int:
    """Say what happened in one line; returns `code`."""
    from gantransfer.cli.screen import silent

    if silent():
        # The first of several processes most likely fails alike and says so, whereupon we are terminated. If it
        # does not, this process alone knows what is wrong.
        time.sleep(5)
        label = f"{label} (process {os.environ.get('RANK')})"
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    text = " ".join(text.split()).removeprefix("stopped ")
    print(f"{label}: {text}", file=sys.stderr, flush=True)
    return code


def _unforeseen(error: Exception, debug: bool) -> int:
    """An error that is not one of ours: out of memory, no space, or a bug."""
    kind = type(error).__name__
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError):
        return _fail("out of memory; use a smaller --batch-size, with --accumulate to make up for it", 2)
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        where = f"'{error.filename}'" if error.filename else "the output"
        return _fail(f"cannot write {where} ({error.strerror}); free space or choose another folder", 6)
    first = (str(error).strip().splitlines() or [""])[0]
    more = "" if debug else " (run it again with --traceback for the details)"
    return _fail(f"this is a bug of gantransfer: {kind}: {first}; please report it with the command you gave{more}", 1)


def _traceback() -> None:
    import traceback

    traceback.print_exc()
