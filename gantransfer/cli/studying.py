"""The verbs ``study new`` and ``study score``: preference studies."""

from __future__ import annotations

from typing import Any

from gantransfer.cli.screen import note, say, say_json, table
from gantransfer.report.formatting import percent

Settings = dict[str, Any]


def new(settings: Settings) -> None:
    """``gantransfer study new``: writes the page."""
    from gantransfer.preference import new_study

    out = settings.pop("out", "study.html")
    page = new_study(settings.pop("a"), settings.pop("b"), out, **settings)
    say(f"{page}: open it in a browser, or hand it to subjects; each saves a JSON file for 'gantransfer study score'")


def score(settings: Settings) -> None:
    """``gantransfer study score``: preference rates."""
    from gantransfer.preference import score_study

    found = score_study(settings["files"])
    if settings.get("json"):
        say_json(found)
        return
    say(f"A is {found['a']}, B is {found['b']}")
    low, high = found["interval"]
    say(f"A was preferred in {percent(found['rate'], 1)} of {found['valid']} valid answers (95 % interval over "
        f"{found['interval_of']} {percent(low, 1)} to {percent(high, 1)}, p {found['p']:.2g}); {found['skipped']} "
        f"pairs skipped; the left image was chosen in {percent(found['left'], 1)}")
    table(("subject", "A preferred", "valid", "skipped"), [
        (row["subject"] or "–", "–" if row["rate"] is None else percent(row["rate"], 1), str(row["valid"]),
         str(row["skipped"])) for row in found["subjects"]])
    if found["per_class"]:
        table(("class", "A preferred", "95 %", "valid"), [
            (name, percent(row["rate"], 1), " to ".join(percent(end, 1) for end in row["interval"]), str(row["valid"]))
            for name, row in found["per_class"].items()])
    for warning in found["warnings"]:
        note(warning)
