"""Tables of a comparison, rows x targets, as Markdown.

    python benchmarks/tables.py results/minegan/single --metrics frechet,kmmd,mv
    python benchmarks/tables.py results/transfergan/conditional --at 100,300,1000
    python benchmarks/tables.py results/papers/table1 --fewer transfergan=scratch

A cell is the mean over seeds, with the standard deviation where there are two or more: of final metrics (of the kept
generator), or with ``--at`` of the distance measured at these iterations. ``--fewer A=B`` tells, for targets called
``<anything>x<images per class>``, the fewest images per class with which row A is as good as B with each number.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Table = dict[str, dict[str, list[float]]]  # row -> target -> one value for each seed


def read(folder: Path) -> list[dict[str, Any]]:
    """The finished cells."""
    told = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    return [cell for cell in told["cells"] if cell["status"] == "finished"]


def of_metric(cells: list[dict[str, Any]], name: str) -> Table:
    """A final metric."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell["metrics"].get(name) is not None:
            table[cell["label"]][cell["task"]].append(cell["metrics"][name])
    return table


def of_iteration(folder: Path, cells: list[dict[str, Any]], step: int) -> Table:
    """The distance measured at iteration `step`."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        lines = (folder / cell["name"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        for line in map(json.loads, lines):
            if line["step"] == step and line["split"] == "select":
                table[cell["label"]][cell["task"]].append(line["frechet"])
    return table


def markdown(table: Table, title: str) -> str:
    """`table` under a heading; a dash where nothing was run."""
    targets = list(dict.fromkeys(target for row in table.values() for target in row))
    lines = [f"| {title} | " + " | ".join(targets) + " |", "|---" * (1 + len(targets)) + "|"]
    for label, row in table.items():
        lines.append(f"| {label} | " + " | ".join(_cell(row.get(target, [])) for target in targets) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def fewer(table: Table, row: str, other: str) -> list[str]:
    """How many images per class `row` needs to be as good as `other`, for every group of targets and size."""
    sizes: dict[str, dict[int, str]] = defaultdict(dict)
    for target in table[row]:
        if found := re.fullmatch(r"(.*)x(\d+)", target):
            sizes[found[1]][int(found[2])] = target
    lines = []
    for group, targets in sizes.items():
        for size, target in sorted(targets.items()):
            if not table[other].get(target):
                continue
            wanted = mean(table[other][target])
            enough = [n for n, t in sorted(targets.items()) if mean(table[row][t]) <= wanted]
            lines.append(f"{group}: {other} with {size} images per class {wanted:.3g}; {row} is as good "
                         + (f"with {enough[0]}" if enough else "with none of these sizes"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--metrics", default="frechet")
    parser.add_argument("--at", default="", help="iterations, with commas")
    parser.add_argument("--fewer", default="", help="A=B")
    arguments = parser.parse_args()
    cells = read(arguments.comparison)
    if arguments.fewer:
        print("\n".join(fewer(of_metric(cells, "frechet"), *arguments.fewer.split("="))))
    elif arguments.at:
        for step in map(int, arguments.at.split(",")):
            print(markdown(of_iteration(arguments.comparison, cells, step), f"at iteration {step}") + "\n")
    else:
        for name in arguments.metrics.split(","):
            print(markdown(of_metric(cells, name), name) + "\n")


if __name__ == "__main__":
    main()
