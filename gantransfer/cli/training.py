"""The verbs that train: demo, adapt, pretrain, resume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gantransfer.cli.common import data_options, use_device, use_threads
from gantransfer.cli.progress import progress
from gantransfer.cli.screen import note, say, shown, table
from gantransfer.errors import UsageError
from gantransfer.report.formatting import duration, percent, size

Settings = dict[str, Any]


def adapt(settings: Settings) -> None:
    """``gantransfer adapt``."""
    from gantransfer import api
    from gantransfer.cli.fields import as_fields

    quiet = settings.pop("quiet", False)
    _check(settings)
    settings["data_options"] = data_options(settings)
    settings = as_fields(settings)
    if settings.pop("dry_run", False):
        _print_plan(api.plan(**settings))
        return
    with progress(quiet) as show:
        run = api.adapt(**settings, progress=show)
    summary(run)


def pretrain(settings: Settings) -> None:
    """``gantransfer pretrain``."""
    from gantransfer import api
    from gantransfer.cli.fields import network_names

    quiet = settings.pop("quiet", False)
    _check(settings)
    names = network_names(settings.get("arch", "biggan"))
    settings["network"] = {name: settings.pop(name) for name in list(settings) if name in names}
    settings["data_options"] = data_options(settings)
    with progress(quiet) as show:
        run = api.pretrain(**settings, progress=show)
    summary(run)
    say(f"the model: {run.path / 'model'}")


def resume(settings: Settings) -> None:
    """``gantransfer resume``."""
    from gantransfer import api, runs

    use_threads(settings)
    folder = Path(settings["run"])
    if runs.finished(folder, runs.Job.from_config(runs.read_config(folder))):
        note(f"run '{folder}' is finished already; this is its result")
    with progress(settings.get("quiet", False)) as show:
        run = api.resume(folder, progress=show)
    summary(run)


def demo(settings: Settings) -> None:
    """``gantransfer demo``: the main job with recorded settings."""
    from gantransfer import api, shipped
    from gantransfer.config import read_yaml

    quiet = settings.pop("quiet", False)
    chosen = {**read_yaml(shipped.ROOT / "demo.yaml"), **settings}
    chosen.setdefault("out", str(_free_folder(Path("runs/demo"))))
    _check(chosen)
    chosen["data_options"] = data_options(chosen)
    say(f"{chosen['source']} learns {chosen['data']}, by {chosen.get('method', 'cgantransfer')}")
    with progress(quiet) as show:
        run = api.adapt(**chosen, progress=show)
    summary(run)
    say(f"more pictures: gantransfer sample {run.path} --out letters.png")


def _free_folder(wanted: Path) -> Path:
    """`wanted`, or wanted-2, -3, ... if something is there."""
    number, folder = 1, wanted
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    if folder != wanted:
        note(f"'{wanted}' exists, so this run goes to '{folder}'")
    return folder


def _check(settings: Settings) -> None:
    """What can be known before the source and the data are read."""
    from gantransfer.features import load_features
    from gantransfer.runs import check_trackers

    if os.environ.get("WORLD_SIZE", "1") != "1" and "out" not in settings:
        raise UsageError("a run over several processes needs --out, so that all of them mean the same directory")
    use_device(dict(settings))
    check_trackers(settings.get("track", ""))
    if settings.get("evaluate", True):
        load_features(settings.get("features", "glyph-cnn"))


def _print_plan(plan: Settings) -> None:
    """What ``--dry-run`` shows: the resolved settings, and what trains."""
    import yaml

    for line in plan.get("plan", ()):
        say(f"- {line}")
    say(f"- {plan['images']} images; the generator starts from {plan['generator_parameters']:,} parameters")
    trained = plan["trained_parameters"]
    table(("group", "parameters trained"), [(name, f"{count:,}") for name, count in trained.items()])
    hidden = ("plan", "images", "generator_parameters", "trained_parameters", "command")
    config = {key: value for key, value in plan.items() if key not in hidden}
    say(yaml.safe_dump(config, allow_unicode=True, sort_keys=False).rstrip())
    say("nothing was written (--dry-run)")


def summary(run: Any) -> None:
    """The result, and where things are."""
    print_result(run.result)
    say(f"pictures: {run.path / 'samples' / 'after.png'}")
    say(f"report:   {run.path / 'report.html'}")


def print_result(result: Settings) -> None:
    """The table before/after, its protocol, and what the run took."""
    from gantransfer.report.names import metric_name

    rows = [
        (metric_name(row["metric"], row.get("label")), row["before"], row["after"], row.get("floor"), row.get("better"))
        for row in result.get("rows", ())
    ]
    if rows:
        table(("", "before", "after", "floor", "better"), [tuple(map(shown, row)) for row in rows])
        say(f"measured: {result['protocol']}")
    for warning in result.get("warnings", ()):
        note(warning)
    facts = [f"{result['steps']} iterations in {duration(result['seconds'])}"]
    if rows:
        facts.append(f"best at {result['best_step']}")
    if result.get("adapter_bytes"):
        share = percent(result["adapter_bytes"], result["generator_bytes"])
        facts.append(f"adapter {size(result['adapter_bytes'])} ({share} of the generator)")
    say(", ".join(facts))
