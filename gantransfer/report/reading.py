"""Read a run directory that may be unfinished, interrupted or damaged.

A missing file gives an empty value; a file that is there but cannot be read gives an empty value and a note,
so that the report says what it could not show.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from gantransfer.report.formatting import counted
from gantransfer.report.pictures import DETAILS, Detail, data_uri

Row = dict[str, Any]


def as_dict(value: Any) -> Row:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_rows(value: Any) -> list[Row]:
    """The mappings among the items of a list."""
    return [item for item in as_list(value) if isinstance(item, dict)]


class RunFiles:
    """The files of one run; `notes` collects one sentence for each that could not be read.

    detail: how much of large pictures the page keeps.
    """

    def __init__(self, path: Path, detail: Detail = DETAILS[0]) -> None:
        self.path = path
        self.detail = detail
        self.notes: list[str] = []

    def _text(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as problem:
            self.notes.append(f"{name} could not be read: {problem}")
            return None

    def json(self, name: str) -> Row:
        """One JSON object."""
        text = self._text(name)
        if text is None:
            return {}
        try:
            return as_dict(json.loads(text))
        except ValueError as problem:
            self.notes.append(f"{name} is not valid JSON ({problem}); what it records is missing here.")
            return {}

    def yaml(self, name: str) -> Row:
        """One YAML mapping."""
        import yaml

        text = self._text(name)
        if text is None:
            return {}
        try:
            return as_dict(yaml.safe_load(text))
        except yaml.YAMLError:
            self.notes.append(f"{name} is not valid YAML; what it records is missing here.")
            return {}

    def lines(self, name: str) -> list[Row]:
        """One JSON object per line; a torn last line (the run was killed while writing) is left out."""
        rows, bad = [], 0
        for line in (self._text(name) or "").split("\n"):  # names may hold other separators
            if not line.strip():
                continue
            try:
                rows.append(as_dict(json.loads(line)))
            except ValueError:
                bad += 1
        if bad:
            self.notes.append(f"{name}: {counted(bad, 'line', 'lines')} could not be read.")
        return rows

    def picture(self, name: str) -> Image.Image | None:
        """A decoded picture, mode L where it holds no colour, else RGB."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            with Image.open(path) as image:
                return image.convert("L" if image.mode in ("1", "L", "LA", "I;16") else "RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            self.notes.append(f"{name} could not be read as a picture: {problem}")
            return None

    def uri(self, image: Image.Image) -> str:
        """A picture of the run as a data URI, in this page's detail."""
        return data_uri(image, self.detail)

    def names(self, pattern: str) -> list[str]:
        """Files matching a glob pattern, relative to the run, sorted."""
        return sorted(p.relative_to(self.path).as_posix() for p in self.path.glob(pattern) if p.is_file())

    def bytes(self, name: str) -> int | None:
        """Size of one file, None when it is absent."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None
