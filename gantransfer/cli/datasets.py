"""The verbs ``data check`` and ``data glyph100``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gantransfer.cli.common import data_options
from gantransfer.cli.screen import counter, note, say, say_json, table
from gantransfer.errors import DataError, UsageError
from gantransfer.report.formatting import size

Settings = dict[str, Any]


def check(settings: Settings) -> int:
    """``gantransfer data check``: the scan's report, and exit code 3 if any file is bad."""
    from gantransfer.data import ImageData

    as_json = settings.pop("json", False)
    if "seed" in settings:
        settings["data_seed"] = settings.pop("seed")
    path, options = settings.pop("path"), data_options(settings)
    error = None
    try:
        found = ImageData(path, **options, **settings, progress=partial(counter, "images")).report
    except DataError as problem:
        found, error = getattr(problem, "report", None), problem
        if found is None:
            raise
    if as_json:
        say_json({**found, "error": str(error) if error else None})
        return DataError.exit_code if error or found["bad"] else 0
    _print_report(path, found)
    if error is not None:
        raise error
    return DataError.exit_code if found["bad"] else 0


def _print_report(path: str, found: Settings) -> None:
    per_split = found["splits"]
    splits = [s for s in ("train", "val", "test") if s in per_split] if len(per_split) > 1 else []
    table(
        ("class", "images used", *splits),
        [(name, count, *(per_split[s].get(name, 0) for s in splits)) for name, count in found["counts"].items()],
    )
    say(f"{path}: {found['n']} images in {len(found['counts'])} classes, as {found['size']} x {found['size']} px "
        f"with {found['channels']} channel(s)")
    for what in ("sizes", "modes"):
        shown = [f"{name} ({count})" for name, count in list(found[what].items())[:8]]
        say(f"{what}: {', '.join(shown) or 'none'}{', ...' if len(found[what]) > 8 else ''}")
    for sentence in found["conversions"]:
        say(f"conversion: {sentence}")
    say(f"duplicates: {len(found['duplicates'])} groups" + (":" if found["duplicates"] else ""))
    for group in found["duplicates"][:10]:
        say(f"    {' = '.join(group)}")
    say(f"bad files: {len(found['bad'])}" + (":" if found["bad"] else ""))
    for bad in found["bad"]:
        say(f"    {bad['path']}: {bad['reason']}")
    if found["ignored"]:
        ignored = found["ignored"]
        say(f"ignored: {len(ignored) if isinstance(ignored, list) else ignored} files that are no images")
    for warning in found["warnings"]:
        note(warning)


def glyph100(settings: Settings) -> None:
    """``gantransfer data glyph100``."""
    from gantransfer.glyph100 import build_glyph100

    as_json, out = settings.pop("json", False), Path(settings.pop("out"))
    if out.suffix.lower() != ".zip":
        raise UsageError(f"--out is '{out}'; give a name that ends in .zip")
    classes = settings.pop("classes", None)
    if classes is not None:
        settings["classes"] = classes[0] if len(classes) == 1 else classes
    summary = build_glyph100(out, **settings, progress=partial(counter, "faces"))
    if as_json:
        say_json(summary)
        return
    say(f"{summary['path']}: {summary['images']} images of {summary['size']} px, {len(summary['classes'])} classes x "
        f"{summary['faces']} faces, {size(summary['bytes'])}, sha256 {summary['sha256'][:12]}")

