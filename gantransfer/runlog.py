"""The logs of a run: one JSON object per line, appended as it goes, cut back when a run is taken up again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gantransfer.errors import OutputError


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add one object (OutputError if that is impossible)."""
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from None


def cut_after(path: Path, step: int) -> None:
    """Drop the lines after `step`, and one that a crash cut short; an absent file stays absent."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write '{path}' ({error.strerror}); free space, then 'gantransfer resume "
                       f"{path.parent}'")
