"""The verb compare: from flags or a plan to a comparison, and its outcome on the screen."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gantransfer.cli.common import DATA, RHYTHM, TRAINING, data_options
from gantransfer.cli.flags import convert
from gantransfer.cli.progress import progress
from gantransfer.cli.screen import note, say, say_json, shown, table
from gantransfer.errors import DataError, ModelError, UsageError, did_you_mean
from gantransfer.report.formatting import counted, duration

INTERRUPTED = 130
OF_A_ROW = ("method", "seeds", "targets")  # what a plan says of a row beside its settings
Settings = dict[str, Any]


def compare(settings: Settings) -> int:
    """``gantransfer compare``; the exit code is that of the first cell that failed, or 130."""
    from gantransfer import compare as comparing

    as_json, quiet = settings.pop("json", False), settings.pop("quiet", False)
    jobs, threads = settings.pop("jobs", 1), settings.pop("threads", None)
    slurm = settings.pop("slurm", None)
    if isinstance(slurm, str):
        slurm = _slurm(slurm)
    dry_run, run = settings.pop("dry_run", False), settings.pop("run", True)
    plan = comparison(settings)
    if dry_run:
        _dry_run(plan, jobs, threads, slurm, as_json)
        return 0
    with progress(quiet or as_json) as show:
        outcome = comparing.compare(plan, jobs=jobs, threads=threads, slurm=slurm, run=run,
                                    progress=None if quiet or as_json else show)
    if as_json:
        say_json(outcome)
    else:
        _print_outcome(outcome)
    if not run:
        return 0
    codes = [cell["exit_code"] for cell in outcome["cells"] if cell["status"] != "finished"]
    if INTERRUPTED in codes:
        note("the same command goes on where this one stopped")
        return INTERRUPTED
    return next(iter(codes), 0)


def comparison(settings: Settings) -> Any:
    """The comparison that the settings describe."""
    from gantransfer.compare import Comparison, Variant, tasks_of

    given = _fields(settings.pop("fields", ()))
    named = list(settings.pop("methods", ()))
    variants = [Variant(method, method, {}) for method in named]
    for label, values in (settings.pop("variants", None) or {}).items():
        if not isinstance(values, dict) or "method" not in values:
            raise UsageError(f"variant '{label}' in the plan is {values!r}; give a mapping with at least 'method'")
        rest = {k.replace("-", "_"): v for k, v in values.items() if k not in OF_A_ROW}
        variants.append(Variant(str(label), str(values["method"]), rest, _seeds(values.get("seeds"), f"'{label}'"),
                                _targets(values.get("targets"), str(label))))
    for method, values in given.items():
        matching = [v for v in variants if v.label == method]
        if not matching:
            raise UsageError(f"--fields names '{method}', which is not one of the compared methods: "
                             f"{', '.join(v.label for v in variants) or 'none'}")
        matching[0].settings.update(values)
    if not variants:
        raise UsageError("gantransfer compare needs --methods A,B,... or a plan with 'variants'")
    for variant in variants:
        _convert(variant, () if variant.label in named else OF_A_ROW)
    sources = {str(k): ",".join(map(str, v)) if isinstance(v, list) else str(v)
               for k, v in (settings.pop("sources", None) or {}).items()}
    targets = {str(k): _target(str(k), v) for k, v in (settings.pop("targets", None) or {}).items()}
    tasks = tasks_of(sources, targets, settings.pop("source", None), settings.pop("data", None),
                     data_options(settings))
    return Comparison(
        tasks, tuple(variants), Path(settings.pop("out")), tuple(settings.pop("seeds", [0])),
        pairs=_pairs(settings.pop("pairs", None)), levels=tuple(settings.pop("levels", ())),
        title=settings.pop("title", ""), about=settings.pop("about", ""),
        expected=_expected(settings.pop("expected", None) or {}), settings=settings,
    )


def _target(name: str, values: Any) -> Settings:
    """A target's mapping with checked values; arguments of `ImageData` under its names."""
    flags = {flag.name: flag for flag in DATA}
    if not isinstance(values, Mapping):
        raise UsageError(f"target '{name}' in the plan is {values!r}; give a mapping, as in "
                         "{data: faces.zip, classes: [a, b], per_class: 100}")
    found: Settings = {}
    for key, value in values.items():
        key = str(key).replace("-", "_")
        if key == "seeds":
            found[key] = _seeds(value, f"target '{name}'")
        elif key in ("source", "data"):
            found[key] = str(value)
        elif key in flags:
            found[key] = convert(flags[key], value, f"{key} of target '{name}'")
        else:
            raise UsageError(f"target '{name}' in the plan has a key '{key}' that is not known"
                             f"{did_you_mean(key, [*flags, 'source', 'data', 'seeds'])}")
    own = {key: found.pop(key) for key in ("source", "data", "seeds") if key in found}
    return {**data_options(found), **own}


def _seeds(value: Any, of: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and value and all(type(seed) is int for seed in value)):
        raise UsageError(f"seeds of {of} are {value!r}; give whole numbers in brackets, as in [0, 1, 2]")
    return tuple(value)


def _targets(value: Any, label: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and value):
        raise UsageError(f"targets of '{label}' are {value!r}; give names of the plan's targets in brackets")
    return tuple(map(str, value))


def _pairs(texts: list[str] | None) -> tuple[tuple[str, str], ...] | None:
    """``["A=B"]`` -> (("A", "B"),)."""
    if texts is None:
        return None
    found = []
    for text in texts:
        a, equals, b = (part.strip() for part in str(text).partition("="))
        if not (equals and a and b):
            raise UsageError(f"pairs has '{text}'; give ROW=ROW, as in cgantransfer=bsa")
        found.append((a, b))
    return tuple(found)


def _expected(values: Any) -> dict[str, dict[str, Any]]:
    if not all(isinstance(of_row, Mapping) for of_row in values.values()):
        raise UsageError("expected in the plan has a row without a mapping; give {ROW: {TARGET: figure}}")
    return {str(row): {str(task): figure for task, figure in of_row.items()} for row, of_row in values.items()}


def _slurm(text: str) -> Settings:
    """``"slurm_partition=gpu timeout_min=60"`` -> submitit's parameters, numbers as numbers."""
    import yaml

    found: Settings = {}
    for item in text.replace(",", " ").split():
        name, equals, value = item.partition("=")
        if not (equals and name and value):
            raise UsageError(f"--slurm has '{item}'; give NAME=VALUE, as in timeout_min=60")
        found[name] = yaml.safe_load(value)
    return found


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


def _convert(variant: Any, beside: Sequence[str]) -> None:
    """Check a variant's settings against its method's fields and the training flags, in place; `beside`: what else can
    be said of it."""
    from gantransfer.cli.fields import flag_names, method_flags

    fields = {flag: field for field, flag in flag_names(variant.method).items()}
    own = {fields.get(flag.name, flag.name): flag for flag in method_flags({"method": variant.method})}
    flags = {**own, **{flag.name: flag for flag in (*TRAINING, *RHYTHM)}}
    for name, value in variant.settings.items():
        if name not in flags or name == "seed":
            near = did_you_mean(name, [*(flag for flag in flags if flag != "seed"), *beside])
            raise UsageError(f"'{variant.label}' (method {variant.method}) has no setting '{name}'{near}; 'gantransfer "
                             f"adapt --method {variant.method} --help' lists them")
        variant.settings[name] = convert(flags[name], value, f"{name} of '{variant.label}'")


def _dry_run(plan: Any, jobs: int, threads: int | None, slurm: Settings | None, as_json: bool) -> None:
    """Print the cells, what is missing for them, and how long they will take (as Slurm jobs: all together)."""
    from gantransfer.compare import changed_cells, inputs, missing_inputs, recorded_calls
    from gantransfer.compare.estimate import estimate

    plan.check()
    recorded = recorded_calls(plan.out)
    if slurm is not None:
        from gantransfer.compare.slurm import Slurm

        with tempfile.TemporaryDirectory() as folder:  # submitit makes it at once
            try:
                Slurm(Path(folder), slurm)
            except UsageError as error:  # the plan may be for another machine
                note(f"not possible here: {error}")
    lacking: list[str] = []
    try:
        planned = inputs(plan)
    except (ModelError, DataError):  # what is wrong with the plan itself is said as ever
        planned, lacking = plan.cells(), missing_inputs(plan)
        if not lacking:  # all is here and does not fit together
            raise
    changed = {cell.name for cell in changed_cells(planned, recorded)}
    times = estimate(planned, 1 if slurm else jobs, trial=not lacking, threads=threads, changed=changed)
    entries = [{"name": c.name, "task": c.task, "label": c.label, "method": c.method, "seed": c.seed, "call": c.call,
                "status": "changed" if c.name in changed else "finished" if c.finished else
                "begun" if c.folder.exists() else "waiting", "seconds": times["cells"][c.name]} for c in planned]
    if as_json:
        say_json({"cells": entries, "seconds": times["total"], "jobs": jobs, "basis": times["basis"],
                  "missing": lacking})
        return
    table(("run", "state", "iterations", "time"),
          [(e["name"], e["status"], shown(e["call"]["steps"]) if e["call"].get("steps") else "by size",
            "" if e["seconds"] is None else duration(e["seconds"])) for e in entries])
    waiting = sum(e["status"] != "finished" for e in entries)
    say(f"{len(entries)} runs, {waiting} to do")
    if lacking:
        for sentence in lacking:
            note(f"not here yet: {sentence}")
        say("the time is unknown until then")
    elif times["total"] is not None:
        say(f"about {duration(times['total'])} {'one after another' if slurm else f'with --jobs {jobs}'}, judged by "
            f"{' and '.join(sorted(set(times['basis'].values())))} on this machine")
    say("nothing was written (--dry-run)")


def _print_outcome(outcome: Settings) -> None:
    for task in outcome["tasks"]:
        if task["name"]:
            say(f"\n{task['name']}")
        rows = []
        tests = {ranked["label"]: ranked["to_best"] for ranked in task["ranking"]}
        for row in task["rows"]:
            spread = "" if row["distance_spread"] is None else f" ± {shown(row['distance_spread'])}"
            test = tests.get(row["label"])
            best = bool(task["ranking"]) and task["ranking"][0]["label"] == row["label"]
            remark = "best" if best else "" if not test or test["count"] < 2 else \
                "different" if test["different"] else "not distinguishable"
            rows.append((row["label"], f"{row['finished']}/{row['seeds']}", shown(row["before"]),
                         f"{shown(row['distance'])}{spread}", shown(row["best_step"]), shown(row["seconds"]), remark))
        table(("", "runs", "before", "distance", "best at iteration", "seconds", "from the best"), rows)
        for pair in task["pairs"]:
            say(_speed(pair))
            if pair["difference"] and pair["difference"]["count"] > 1:
                say(f"  distance of {pair['a']} less that of {pair['b']}: {_said(pair['difference'])}")
        floor = "" if task["floor"] is None else f"; real against real {shown(task['floor'])}"
        say(f"mean ± standard deviation over seeds{floor}; {task['protocol'] or 'not measured'}")
    for pair in outcome["pairs_over_tasks"]:
        if pair["difference"] and pair["difference"]["count"] > 1:
            say(f"over {pair['difference']['count']} tasks the distance of {pair['a']} over that of {pair['b']}: "
                f"{_said(pair['difference'])}, the smaller in {pair['ahead']}")
    not_begun = 0
    for cell in outcome["cells"]:
        if cell["status"] == "waiting" and not cell["begun"]:
            not_begun += 1
        elif cell["status"] != "finished":
            note(f"{cell['name']} {cell['status']}: {cell['error']}")
    if not_begun:
        note(f"{not_begun} of {len(outcome['cells'])} runs have not begun")
    for name in ("html", "csv", "json"):
        say(f"{name + ':':6}{outcome['files'][name]}")


def _speed(pair: Settings) -> str:
    reach, factor = pair["reach_step"], pair["reach_ratio"]["mean"]
    earlier = "" if factor is None else f" ({shown(factor)} times earlier)"
    never = reach["of"] - reach["count"]
    when = "never"
    if reach["count"]:
        when = f"at iteration {shown(reach['mean'])}{earlier} and after {duration(pair['reach_seconds']['mean'])}"
    missed = f", {never} of {reach['of']} seeds never" if reach["count"] and never else ""
    names = " and ".join(pair[key] for key in pair["short"])
    short = f" ({names} ended before twice the later best)" if names else ""
    early = f"; {pair['b']} stopped at {pair['a']}'s best: {shown(pair['b_early']['mean'])}"
    return (f"{pair['a']} against {pair['b']}: ratio of the bests' iterations {shown(pair['best_ratio']['mean'])}; as "
            f"good as its best {when}{missed}{early}{short}")


def _said(test: Settings) -> str:
    what = "different" if test["different"] else "not distinguishable"
    interval = f"({shown(test['low'])} to {shown(test['high'])})"
    pairs = counted(test["of"], "pair", "pairs")
    return f"{shown(test['mean'])} {interval}, {what}, p {shown(test['p'])} among {pairs}"
