"""The verbs that measure and report: evaluate, report, explain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantransfer.cli.common import data_options, use_device
from gantransfer.cli.screen import counter, note, say, say_json, shown, table
from gantransfer.report.formatting import percent

Settings = dict[str, Any]
RISING = 0.1  # growth in the last half of its iterations, from which a critic's budget is called small


def evaluate(settings: Settings) -> None:
    """``gantransfer evaluate``."""
    from gantransfer import api, metrics
    from gantransfer.features import load_features
    from gantransfer.registry import metrics as registry
    from gantransfer.report.names import metric_name

    as_json = settings.pop("json", False)
    for name in settings.get("metrics") or metrics.DEFAULT_METRICS:
        registry[name]  # an unknown name is a usage error, found before anything is loaded
    load_features(settings.get("features", "glyph-cnn"))
    budget = {"steps": settings.pop("budget", None), "seed": settings.pop("budget_seed", None)}
    settings["budget"] = {name: value for name, value in budget.items() if value is not None}
    options = data_options(settings)
    settings["device"] = use_device(settings)
    result = api.evaluate(settings.pop("model"), settings.pop("data"), data_options=options, **settings,
                          progress=counter)
    if as_json:
        say_json(result)
        return
    single = {name: value for name, value in result["metrics"].items() if not isinstance(value, dict)}
    table(("", "value", "floor", "training images", "better"), [
        (metric_name(name, result["labels"].get(name)), shown(value), shown(result["floor"].get(name)),
         shown(result["training_bound"].get(name)), result["better"].get(name, ""))
        for name, value in single.items()
    ])
    for value in result["metrics"].values():
        if isinstance(value, dict):
            _per_class(value)
    say(f"measured: {result['protocol']}")
    _trained(result.get("trained", {}))
    for warning in result["warnings"]:
        note(warning)


def _trained(found: dict[str, Any]) -> None:
    """What the measures that train networks found, each with its budget."""
    if iw := found.get("iw"):
        unseen = "" if iw["unseen"] is None else f"; on images it did not see {shown(iw['unseen'])}"
        say(f"independent Wasserstein critic (eq. 6, lower is better): {shown(iw['value'])}{unseen}; in the sign of "
            f"the paper's tables {shown(iw['table_value'])}")
        if iw["rise"] is not None and iw["rise"] > RISING:
            note(f"the critic's value grew by {iw['rise']:.0%} in the last half of its {iw['steps']} iterations: it "
                 "orders what is far apart, no more; give a larger --budget")
    if of := found.get("classifier"):
        say(f"classifier of real images: recognises {percent(of['recognised'], 1)} of the samples and "
            f"{percent(of['real_on_real'], 1)} of other real images; classifier of samples: "
            f"{percent(of['generated_on_real'], 1)} of these")
        _per_class({name: {"recognised": share} for name, share in of["per_class"].items()})
    for name, of in found.items():
        say(f"{name}: {of['steps']} iterations of {of['batch_size']} images, width {of['width']}, seed {of['seed']}")


def _per_class(rows: dict[str, Any]) -> None:
    """The table of a metric that has values for each class."""
    columns = list(next(iter(rows.values()), {}))
    if columns:
        table(("class", *columns), [(name, *(shown(row.get(c)) for c in columns)) for name, row in rows.items()])


def report(settings: Settings) -> None:
    """``gantransfer report``: prints the path of the page."""
    from gantransfer.errors import ModelError
    from gantransfer.report import write_report

    if not Path(settings["run"]).is_dir():
        raise ModelError(f"run '{settings['run']}' does not exist; give the --out of an earlier run")
    path = write_report(Path(settings["run"]))
    if settings.get("json"):
        say_json({"report": str(path)})
    else:
        say(str(path))


def explain(settings: Settings) -> None:
    """``gantransfer explain``: the pictures' paths and, for every class, its strongest contributors."""
    from gantransfer.explanation import explain as explain_run

    as_json = settings.pop("json", False)
    found = explain_run(**settings)
    if as_json:
        say_json(found)
        return
    if "groups" in found:
        table(("group", "scale: median", "quartiles", "shift: median", "quartiles"), [
            (row["group"], *(text for kind in ("gamma", "beta") for text in (
                f"{row[kind]['median']:.3f}", f"{row[kind]['first']:.3f} to {row[kind]['third']:.3f}")))
            for row in found["groups"]])
        for name, count in zip(*(found["compared"][key] for key in ("runs", "columns")), strict=True) \
                if found["compared"] else ():
            say(f"{name} leads the others in {count} scales of {found['compared']['convolution']}")
        say(found["files"][0])
        return
    first = {name: next(iter(layers.values())) for name, layers in found["classes"].items()}
    table(("class", "first layer: scale", "first layer: shift"), [
        (name, *("  ".join(f"{source} {score:+.2f}" for source, score in layer[kind]) for kind in ("scale", "shift")))
        for name, layer in first.items()
    ])
    for file in found["files"]:
        say(file)
