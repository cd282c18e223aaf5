"""The verb that helps to choose a source: rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantransfer.cli.common import data_options, use_threads
from gantransfer.cli.screen import note, say, say_json, shown, table
from gantransfer.errors import UsageError

Settings = dict[str, Any]
NO_DATA = "-"  # of a source in --source-data


def rank(settings: Settings) -> None:
    """``gantransfer rank``."""
    from gantransfer.choosing import rank_sources
    from gantransfer.report.choice import HEADS, cells

    use_threads(settings)
    as_json, out = settings.pop("json", False), settings.get("out")
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out is '{out}'; give the name of an .html page")
    if out is not None and Path(out).exists():
        raise UsageError(f"output '{out}' exists; choose another --out")
    options = data_options(settings)
    given = settings.pop("source_data", None) or ()
    found = rank_sources(
        settings.pop("sources"), settings.pop("data"), data_options=options,
        source_data=[None if name == NO_DATA else name for name in given],
        progress=None if as_json else lambda event: note(event["text"]), **settings,
    )
    if as_json:
        say_json(found)
        return
    table(HEADS, [cells(row) for row in found["sources"]], left=2)
    say(f"ordered by: {', '.join(found['ordered_by'])}")
    if not all(row["told_apart"] for row in found["sources"]):
        say("* differs from the next by no more than two draws of the same source do")
    for sentence in found["says"]:
        say(f"- {sentence}")
    say(f"floor of the distance, the target against itself: {shown(found['floor'])}; measured: {found['protocol']}")
    for warning in found["warnings"]:
        note(warning)
    if out is not None:
        say(f"page: {out}")
