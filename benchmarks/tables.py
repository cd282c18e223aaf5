"""Tables of a comparison, rows x targets, as Markdown.

    python benchmarks/tables.py results/minegan/single --metrics frechet,kmmd,mv --by-target
    python benchmarks/tables.py results/transfergan/conditional --at 100,300,1000
    python benchmarks/tables.py results/papers/table1 --fewer transfergan=scratch --at 1000
    python benchmarks/tables.py results/papers/table1 --best --group random
    python benchmarks/tables.py results/papers/table1 --earlier "cgantransfer matched=bsa"

A cell is the mean over seeds, with the standard deviation where there are two or more: of final metrics of the kept
generator, or with ``--at`` of the distance at these iterations, on the split of the curves. The last row is that of
real images against real ones. ``--by-target`` puts all metrics into one table, the form of MineGAN's Table 1.

``--fewer A=B`` tells, for targets called ``<anything>x<images per class>``, the fewest images per class with which row
A is as good as B with each number, and how many times fewer that is. Sizes that were measured against training images,
where nothing was left to hold out, say nothing of that and are left out.

``--best`` prints the distance and behind it the iteration of the best, the mean over seeds, as cGANTransfer's Table 1.
``--earlier A=B`` tells how much sooner row A was as good as row B's best, for each target, over all and for each group.
Targets called ``<group>-<anything>`` belong to a group; ``--group`` prints those of one alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import geometric_mean, mean, stdev
from typing import Any

REAL = "real images"
Values = dict[str, dict[str, list[float]]]  # row -> target -> one value for each seed


class Missing(Exception):
    """What was asked for is not in the record."""


def read(folder: Path) -> list[dict[str, Any]]:
    """The finished cells, with their results and the lines of their curves."""
    told = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    cells = [cell for cell in told["cells"] if cell["status"] == "finished"]
    for cell in cells:
        place = folder / cell["name"]
        lines = map(json.loads, (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        cell["curve"] = [line for line in lines if line["split"] in ("select", "training")]
        rows = json.loads((place / "result.json").read_text(encoding="utf-8")).get("rows", [])
        cell["floors"] = {row["metric"]: row["floor"] for row in rows}
    return cells


def of_metric(cells: list[dict[str, Any]], name: str) -> Values:
    """A final metric, and what real images have of it."""
    found: Values = defaultdict(lambda: defaultdict(list))
    floors: Values = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell["metrics"].get(name) is not None:
            found[cell["label"]][cell["task"]].append(cell["metrics"][name])
            if cell["floors"].get(name) is not None:
                floors[REAL][cell["task"]] = [cell["floors"][name]]
    if not found:
        names = sorted({name for cell in cells for name in cell["metrics"]})
        raise Missing(f"no run has metric '{name}'; have: {', '.join(names)}")
    return {**found, **floors}


def of_iteration(cells: list[dict[str, Any]], step: int) -> Values:
    """The distance measured at iteration `step`, on the split of the curves."""
    found: Values = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        for line in cell["curve"]:
            if line["step"] == step:
                found[cell["label"]][cell["task"]].append(line["frechet"])
    if not found:
        steps = sorted({line["step"] for cell in cells for line in cell["curve"]})
        near = sorted(steps, key=lambda other: abs(other - step))[:3]
        raise Missing(f"no run was measured at iteration {step}; nearest are {', '.join(map(str, sorted(near)))}")
    return found


def markdown(values: Values, title: str, steps: Values | None = None) -> str:
    """A table under a heading, a dash where nothing was run; behind a cell the mean of its `steps`, if it has any."""
    targets = list(dict.fromkeys(target for row in values.values() for target in row))
    lines = [f"| {title} | " + " | ".join(targets) + " |", "|---" * (1 + len(targets)) + "|"]
    for label, row in values.items():
        of = (steps or {}).get(label, {})
        lines.append(f"| {label} | " + " | ".join(
            _cell(row.get(target, [])) + (f" ({mean(of[target]):,.0f})" if target in of else "")
            for target in targets) + " |")
    return "\n".join(lines)


def by_target(metrics: dict[str, Values]) -> Values:
    """Several metrics as columns: target by target, metric by metric."""
    targets = list(dict.fromkeys(target for of in metrics.values() for row in of.values() for target in row))
    labels = list(dict.fromkeys(label for of in metrics.values() for label in of if label != REAL)) + [REAL]
    return {label: {f"{target}: {name}": of.get(label, {}).get(target, []) for target in targets
                    for name, of in metrics.items()} for label in labels}


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def fewer(values: Values, row: str, other: str) -> list[str]:
    """How many images per class `row` needs to be as good as `other`, for every group of targets and size."""
    for label in (row, other):
        if label not in values:
            raise Missing(f"no row is called '{label}'; have: {', '.join(label for label in values if label != REAL)}")
    sizes: dict[str, dict[int, str]] = defaultdict(dict)
    for target in values[row]:
        if found := re.fullmatch(r"(.*)x(\d+)", target):
            sizes[found[1]][int(found[2])] = target
    lines = []
    for group, targets in sizes.items():
        own = {n: mean(values[row][target]) for n, target in sorted(targets.items())}
        steady = all(b <= a for a, b in zip(own.values(), list(own.values())[1:], strict=False))
        shown = ", ".join(f"{n} images per class {value:.3g}" for n, value in own.items())
        lines.append(f"{group}: {row} with {shown}" + ("" if steady else " (not better with every image more)"))
        for size, target in sorted(targets.items()):
            if not values[other].get(target):
                continue
            wanted = mean(values[other][target])
            enough = [n for n, value in own.items() if value <= wanted]
            told = f"with {enough[0]}, {size / enough[0]:.3g} times fewer" if enough else "with none of these sizes"
            lines.append(f"  {other} with {size} images per class {wanted:.3g}; {row} is as good {told}")
    return lines


def bests(cells: list[dict[str, Any]]) -> str:
    """Distances, each with the iteration of its best."""
    steps: Values = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell["metrics"].get("frechet") is not None:
            steps[cell["label"]][cell["task"]].append(cell["best_step"])
    return markdown(of_metric(cells, "frechet"), "distance (best iteration)", steps)


def earlier(folder: Path, pair: str) -> str:
    """How many times sooner a row was as good as another's best, by the records of `compare`'s pairs: for every target
    a line of a table, then over targets."""
    told = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    found = [(task["name"], of) for task in told["tasks"] for of in task["pairs"] if f"{of['a']}={of['b']}" == pair]
    if not found:
        raise Missing(f"no pair is called '{pair}' in compare.json; name it among the plan's `pairs`, compare again")
    a, b = found[0][1]["a"], found[0][1]["b"]
    lines = [f"| | ratio of bests | in seconds | as good as {b}'s best at iteration | times earlier | in seconds | {b} "
             f"at {a}'s best iteration | its best |", "|---" * 8 + "|"]
    names = ("best_ratio", "best_ratio_seconds", "reach_step", "reach_ratio", "reach_ratio_seconds", "b_early",
             "b_best_distance")
    lines += [f"| {name} | " + " | ".join(_spread(of[key], "never" if key == "reach_step" else "-") for key in names)
              + " |" for name, of in found]
    groups: dict[str, list[dict[str, Any]]] = {"all": [of for _, of in found]}
    for name, of in found:
        if "-" in name:
            groups.setdefault(name.split("-")[0], []).append(of)
    return "\n".join([*lines, "", *(f"{group}: {_over_targets(of)}" for group, of in groups.items())])


def _spread(value: dict[str, Any], none: str) -> str:
    """A mean over seeds with the least and largest, and of how many where not all have one; `none` where none has."""
    if value["mean"] is None:
        return none
    ends = "" if value["low"] == value["high"] else f" ({value['low']:.3g} to {value['high']:.3g})"
    some = "" if value["count"] == value["of"] else f", {value['count']} of {value['of']}"
    return f"{value['mean']:.3g}{ends}{some}"


def _over_targets(pairs: list[dict[str, Any]]) -> str:
    """In how many targets and runs one row was as good as the other's best, and the factors there."""
    reached = [of for of in pairs if of["reach_step"]["count"]]
    runs, all_runs = (sum(of["reach_step"][key] for of in pairs) for key in ("count", "of"))
    told = f"in {len(reached)} of {len(pairs)} targets ({runs} of {all_runs} runs)"
    iterations, seconds = ([of[key]["mean"] for of in reached if of[key]["mean"] is not None]
                           for key in ("reach_ratio", "reach_ratio_seconds"))
    if not iterations:  # nowhere, or where it was so from the start
        return told
    fraction = 1 / mean(1 / ratio for ratio in iterations)
    return (f"{told}, there {geometric_mean(iterations):.3g} times sooner ({min(iterations):.3g} to "
            f"{max(iterations):.3g}; the mean fraction of the other's iterations is 1/{fraction:.3g})"
            + (f", in seconds {geometric_mean(seconds):.3g} ({min(seconds):.3g} to {max(seconds):.3g})"
               if seconds else ""))


def tables(folder: Path, metrics: list[str], at: list[int], pair: str, one_table: bool, *, best: bool = False,
           sooner: str = "", group: str = "") -> list[str]:
    """What the command prints."""
    if sooner:
        return [earlier(folder, sooner)]
    cells = read(folder)
    if group:
        groups = sorted({cell["task"].split("-")[0] for cell in cells if "-" in cell["task"]})
        if group not in groups:
            raise Missing(f"no target belongs to the group '{group}'; have: {', '.join(groups) or 'none'}")
        cells = [cell for cell in cells if cell["task"].startswith(f"{group}-")]
    if best:
        return [bests(cells)]
    if pair:
        if pair.count("=") != 1:
            raise Missing(f"--fewer is '{pair}'; write A=B, two rows")
        held = [cell for cell in cells if "reference=training-images" not in (cell["protocol"] or "")]
        values = of_iteration(held, at[0]) if at else of_metric(held, "frechet")
        return ["\n".join(fewer(values, *pair.split("=")))]
    if at:
        return [markdown(of_iteration(cells, step), f"at iteration {step}") for step in at]
    found = {name: of_metric(cells, name) for name in metrics}
    return [markdown(by_target(found), "")] if one_table else [markdown(of, name) for name, of in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--metrics", default="frechet")
    parser.add_argument("--by-target", action="store_true")
    parser.add_argument("--at", default="", help="iterations, with commas")
    parser.add_argument("--fewer", default="", help="A=B")
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--earlier", default="", help="A=B")
    parser.add_argument("--group", default="", help="the first part of targets' names, before '-'")
    a = parser.parse_args()
    try:
        at = [int(step) for step in a.at.split(",") if step]
        print("\n\n".join(tables(a.comparison, a.metrics.split(","), at, a.fewer, a.by_target,
                                 best=a.best, sooner=a.earlier, group=a.group)))
    except Missing as error:
        raise SystemExit(f"tables: {error}") from None


if __name__ == "__main__":
    main()
