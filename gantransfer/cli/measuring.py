"""The verbs that measure and report: evaluate, report, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantransfer.cli.common import data_options, use_device
from gantransfer.cli.progress import progress
from gantransfer.cli.screen import counter, note, say, say_json, shown, table
from gantransfer.errors import UsageError

Settings = dict[str, Any]
INTERRUPTED = 130


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
    for warning in result["warnings"]:
        note(warning)


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


def compare(settings: Settings) -> int:
    """``gantransfer compare``; the exit code is that of the first cell that failed, or 130."""
    from gantransfer import compare as comparing

    as_json, quiet = settings.pop("json", False), settings.pop("quiet", False)
    jobs = settings.pop("jobs", 1)
    threads = settings.pop("threads", None)
    plan = _plan(settings)
    with progress(quiet or as_json) as show:
        outcome = comparing.compare(plan, jobs=jobs, threads=threads, progress=None if quiet or as_json else show)
    if as_json:
        say_json(outcome)
    else:
        _print_outcome(outcome)
    codes = [cell["exit_code"] for cell in outcome["cells"] if cell["status"] != "finished"]
    if INTERRUPTED in codes:
        note("the same command goes on where this one stopped")
        return INTERRUPTED
    return next(iter(codes), 0)


def _plan(settings: Settings) -> Any:
    """The comparison that the settings describe."""
    from gantransfer.compare import Comparison, Variant

    given = _fields(settings.pop("fields", ()))
    variants = [Variant(method, method, {}) for method in settings.pop("methods", ())]
    for label, values in (settings.pop("variants", None) or {}).items():
        if not isinstance(values, dict) or "method" not in values:
            raise UsageError(f"variant '{label}' in the config is {values!r}; give a mapping with at least 'method'")
        rest = {k.replace("-", "_"): v for k, v in values.items() if k not in ("method", "seeds")}
        own = values.get("seeds")
        if own is not None and not (isinstance(own, list) and own and all(type(seed) is int for seed in own)):
            raise UsageError(f"seeds of '{label}' are {own!r}; give whole numbers in brackets, as in [0, 1, 2]")
        variants.append(Variant(str(label), str(values["method"]), rest, None if own is None else tuple(own)))
    for method, values in given.items():
        matching = [v for v in variants if v.label == method]
        if not matching:
            raise UsageError(f"--fields names '{method}', which is not one of the compared methods: "
                             f"{', '.join(v.label for v in variants) or 'none'}")
        matching[0].settings.update(values)
    if not variants:
        raise UsageError("gantransfer compare needs --methods A,B,... or, in a config, 'variants'")
    for variant in variants:
        _convert(variant)
    source, data, out = (settings.pop(name) for name in ("source", "data", "out"))
    seeds = settings.pop("seeds", [0])
    return Comparison(source, data, Path(out), tuple(variants), tuple(seeds), data_options(settings), settings)


def _fields(texts: Any) -> dict[str, dict[str, str]]:
    """``["bsa.lr=1e-3 bsa.init=mean"]`` -> {"bsa": {"lr": "1e-3", "init": "mean"}}."""
    found: dict[str, dict[str, str]] = {}
    for item in " ".join(texts).replace(";", " ").split():
        place, equals, value = item.partition("=")
        method, dot, name = place.rpartition(".")
        if not (equals and dot and method and name):
            raise UsageError(f"--fields has '{item}'; give METHOD.NAME=VALUE, as in bsa.lr=1e-3")
        found.setdefault(method, {})[name.replace("-", "_")] = value
    return found


def _convert(variant: Any) -> None:
    """Check a variant's settings against its method's fields and the training flags, in place."""
    from gantransfer.cli.common import RHYTHM, TRAINING
    from gantransfer.cli.fields import method_flags
    from gantransfer.cli.flags import convert
    from gantransfer.errors import did_you_mean

    flags = {flag.name: flag for flag in (*method_flags({"method": variant.method}), *TRAINING, *RHYTHM)}
    for name, value in variant.settings.items():
        if name not in flags or name == "seed":
            raise UsageError(f"'{variant.label}' (method {variant.method}) has no setting '{name}'"
                             f"{did_you_mean(name, flags)}; 'gantransfer adapt --method {variant.method} --help' "
                             "lists them")
        variant.settings[name] = convert(flags[name], value, f"{name} of '{variant.label}'")


def _print_outcome(outcome: dict[str, Any]) -> None:
    rows = []
    for row in outcome["rows"]:
        spread = "" if row["distance_spread"] is None else f" ± {shown(row['distance_spread'])}"
        rows.append((row["label"], f"{row['finished']}/{row['seeds']}", shown(row["before"]),
                     f"{shown(row['distance'])}{spread}", shown(row["best_step"]), shown(row["seconds"])))
    table(("", "runs", "before", "distance", "best at iteration", "seconds"), rows)
    say(f"mean ± standard deviation over seeds; {outcome['protocol'] or 'not measured'}")
    for cell in outcome["cells"]:
        if cell["status"] != "finished":
            note(f"{cell['name']} {cell['status']}: {cell['error']}")
    for name in ("html", "csv", "json"):
        say(f"{name + ':':6}{outcome['files'][name]}")
