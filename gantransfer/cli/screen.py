"""What the program prints: results on the standard output, notes and errors on the standard error.

In a run over several processes only the first one prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gantransfer.errors import printable
from gantransfer.report.formatting import number

PACKAGE = str(Path(__file__).resolve().parents[1])
PLAIN_WIDTH = 120  # of tables when the output is no terminal


def silent() -> bool:
    """Whether this is one of several processes and not the first."""
    return os.environ.get("RANK", "0") != "0"


def say(text: str = "") -> None:
    """A line of the result."""
    if not silent():
        print("\n".join(printable(line) for line in text.split("\n")), flush=True)


def note(text: str) -> None:
    """A remark beside the result."""
    if not silent():
        print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    """One JSON object, the whole standard output of a ``--json`` call."""
    text = json.dumps(value, ensure_ascii=False, indent=1, default=str)
    if not silent():  # JSON escapes control characters itself; bytes that are no UTF-8 become escapes of the same kind
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)


def console() -> Any:
    """A rich console on the standard output."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else PLAIN_WIDTH, highlight=False, soft_wrap=False,
                   quiet=silent())


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "", left: int = 1) -> None:
    """Print `rows` under `headings`; columns from `left` on are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if column < left else "right", overflow="fold")
    for row in rows:
        # Text, not markup: class names and paths are anything.
        grid.add_row(*(cell if isinstance(cell, Text) else Text(printable(shown(cell))) for cell in row))
    console().print(grid)


def shown(value: Any) -> str:
    """A cell's text: numbers with three significant digits, a dash for what is absent."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else number(value)


def counter(what: str, done: int, total: int) -> None:
    """A line that counts up beside the result, on a terminal only."""
    if sys.stderr.isatty() and not silent():
        end = "\r\x1b[K" if done == total else ""
        print(f"\r\x1b[K{what}: {done}/{total}{end}", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def clean_warnings() -> Iterator[None]:
    """Warnings of this package become notes, each once; those of other packages stay hidden."""
    said: set[str] = set()

    def show(message: Any, category: type, filename: str, *rest: Any) -> None:
        text = " ".join(str(message).split())
        ours = os.path.abspath(filename).startswith(PACKAGE)
        if ours and issubclass(category, UserWarning) and text not in said:
            said.add(text)
            note(text)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
