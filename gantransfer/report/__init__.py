"""One self-contained HTML page from a run directory alone.

Nothing here knows models or training: the page is made from the JSON, YAML and PNG files of a run, on any
machine. Files that are missing leave their section out; files that cannot be read are named in its warnings.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from gantransfer.errors import OutputError, UsageError
from gantransfer.report import curves, formatting, sections
from gantransfer.report.contributions import borrowed
from gantransfer.report.datafacts import data_facts
from gantransfer.report.filters import mixed, modulated
from gantransfer.report.headline import cards, headline
from gantransfer.report.mining import mined
from gantransfer.report.pictures import DETAILS
from gantransfer.report.reading import Row, RunFiles, as_dict, as_list

__all__ = ["write_report"]

HERE = Path(__file__).parent
LARGEST = 3_000_000  # characters of a page; large pictures lose detail before it grows beyond
EXPECTED = ("config.yaml", "result.json", "metrics.jsonl", "stats.jsonl", "samples")


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path.

    The page needs no other file, no network and no script. It can be written at any time: during a run, after
    an interruption, and again later.

    Raises:
        UsageError: `run_dir` is not a run directory.
        OutputError: the page cannot be written.
    """
    run_dir = Path(run_dir)
    if not any((run_dir / name).exists() for name in EXPECTED):
        raise UsageError(
            f"'{run_dir}' is not a run directory: it holds none of {', '.join(EXPECTED)}; give the "
            "folder that 'gantransfer adapt --out' wrote"
        )
    for detail in DETAILS:
        page = _render(_view(RunFiles(run_dir, detail)))
        if len(page) < LARGEST:
            break
    target, draft = run_dir / "report.html", run_dir / ".report.html.part"
    try:
        draft.write_text(page, encoding="utf-8", errors="backslashreplace")
        os.replace(draft, target)
    except OSError as problem:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise OutputError(
            f"'{target}' cannot be written ({problem.strerror}); free some space or make the folder writable"
        ) from problem
    return target


def _render(view: Row) -> str:
    import jinja2

    script = (HERE / "copy.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (HERE / "style.css").read_text(encoding="utf-8")
    return environment.get_template("template.html").render(**view, script=script, digest=digest, style=style)


def _view(run: RunFiles) -> Row:
    """Everything the template shows. The warnings come last: reading the files adds to them."""
    config, result, data = run.yaml("config.yaml"), run.json("result.json"), run.json("data.json")
    stats, evaluations = run.lines("stats.jsonl"), run.lines("metrics.jsonl")
    best = curves.best_row(evaluations, result)
    best_step = best["step"] if best else result.get("best_step")
    classes, columns = sections.classes_of(run, config, data)
    charts = curves.distance_chart(evaluations, stats, result, curves.floor_of(result))
    view = {
        **headline(config, data, classes),
        "cards": cards(result, evaluations, stats, best_step),
        "classes": max(len(classes), len(as_list(data.get("classes")))),
        "grids": sections.grids(run, classes, columns),
        "time": sections.timeline(run, classes, columns, best_step),
        "distance": charts,
        "charts": curves.small_charts(evaluations, stats),
        "metrics": sections.metrics_table(result, evaluations),
        "per_class": sections.per_class(result, data),
        "nearest": sections.nearest(run),
        "borrowed": borrowed(run),
        "modulated": modulated(run),
        "mixed": mixed(run),
        "mined": mined(run, stats),
        "data": data_facts(data),
        "settings": _settings(config),
        "environment": sections.facts("", run.json("env.json")),
        "files": [(name, formatting.size(run.bytes(name))) for name in run.names("adapter/*") + run.names("model/*")],
    }
    return view | {"warnings": _warnings(run, config, result, data, stats, evaluations)}


def _settings(config: Row) -> list[Row]:
    """One block per group of settings, the known ones first."""
    titles = {"source": "Source", "data": "Target", "method": "Method", "train": "Training"}
    groups = [*titles, *(k for k in config if k not in titles)]
    found = [(titles.get(k, str(k).capitalize()), config.get(k)) for k in groups]
    return [{"title": title, "items": [("", formatting.plain(item, 1000)) for item in values]}
            if isinstance(values, list) else sections.facts(title, values)
            for title, values in found if values and isinstance(values, (list, dict))]


def _alarms(rows: list[Row]) -> list[str]:
    """Each alarm once, with the first and last step at which it rang and what it said last."""
    rang: dict[str, tuple[Any, Any, Any]] = {}
    for row in rows:
        for name, text in as_dict(row.get("alarms")).items():
            rang[name] = (rang.get(name, (row.get("step"),))[0], row.get("step"), text)
    return [
        f"Alarm from step {formatting.number(first)} to {formatting.number(last)}: {formatting.plain(text, 1000)}."
        for first, last, text in rang.values()
    ]


def _warnings(
    run: RunFiles, config: Row, result: Row, data: Row, stats: list[Row], evaluations: list[Row]
) -> list[str]:
    """What a reader must know before believing the page, most important first, each once."""
    found = [formatting.plain(w, 1000) for w in as_list(result.get("warnings"))]
    if not result and not run.notes:
        found.insert(0, "The run has not finished: there is no result.json. Shown is what was recorded so far.")
    bad = as_list(data.get("bad"))
    if bad:
        found.append(
            f"{formatting.counted(len(bad), 'image', 'images')} could not be read; see the section Target images."
        )
    found += [f"Data: {formatting.plain(w, 1000)}" for w in as_list(data.get("warnings"))]
    skipped = max((r["skipped"] for r in stats if formatting.finite(r.get("skipped"))), default=0)
    if skipped:
        found.append(f"{formatting.counted(skipped, 'update was', 'updates were')} not finite and left out.")
    halved = [r["step"] for r in stats if formatting.finite(r.get("lr_scale")) and formatting.finite(r.get("step"))]
    if halved:
        found.append(f"Training went back to an earlier checkpoint once and continued at half the learning rate (from "
                     f"step {formatting.number(min(halved))} on).")
    found += _alarms(stats) + _alarms(evaluations)
    for row in evaluations:
        found += [formatting.plain(w, 1000) for w in as_list(row.get("warnings"))]
    if not config:
        found.append("config.yaml is missing or empty, so what was run is not known.")
    return list(dict.fromkeys(found + run.notes))
