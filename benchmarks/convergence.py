"""How much faster one method converges than another, from the finished runs of a `gantransfer compare` directory.

    python benchmarks/convergence.py runs/study --pairs "cgantransfer 2e-4=bsa 2e-4,cgantransfer 1e-3=bsa 1e-3"

For every pair A=B and seed, on the selection split: the iterations of each method's own best (the paper's measure,
its Figure 5), their ratio, the first iteration at which A reaches B's best distance and the ratio of B's best
iteration to it, and B's distance at A's best iteration (the paper's 'BSA-early'). The minimum of a noisy curve is
noisy: read the spread over seeds.
"""

from __future__ import annotations

import argparse
import glob
import json
import statistics
from pathlib import Path
from typing import Any

from gantransfer.compare import cell_stem

Curve = list[tuple[int, float]]


def curves(folder: Path, label: str) -> dict[int, Curve]:
    """seed -> [(iteration, distance)] of the finished cells of one row."""
    found: dict[int, Curve] = {}
    for result in sorted(folder.glob(f"{glob.escape(cell_stem(label))}-seed*/result.json")):
        lines = (result.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        points = [json.loads(line) for line in lines]
        found[int(result.parent.name.rpartition("-seed")[2])] = [(p["step"], p["frechet"]) for p in points]
    return found


def best(curve: Curve) -> tuple[int, float]:
    """(iteration, distance) of the smallest distance."""
    return min(curve, key=lambda point: (point[1], point[0]))


def compare(a: Curve, b: Curve, level: float | None = None) -> dict[str, Any]:
    """The measures of one pair of curves."""
    (step_a, best_a), (step_b, best_b) = best(a), best(b)
    reached = next((step for step, distance in a if distance <= best_b), None)
    at_level = {name: next((step for step, distance in curve if distance <= level), None)
                for name, curve in (("a", a), ("b", b))} if level is not None else {}
    early = min(b, key=lambda point: abs(point[0] - step_a))[1]
    return {
        "best_a": best_a, "step_a": step_a, "best_b": best_b, "step_b": step_b,
        "ratio_of_best_iterations": step_b / max(step_a, 1),
        "a_reaches_b_at": reached,
        "speedup_to_b": None if reached is None else step_b / max(reached, 1),
        "b_at_a_best": early,
        **{f"{name}_reaches_level_at": step for name, step in at_level.items()},
    }


def mean_and_range(values: list[float]) -> str:
    """'3.1 (2.5 to 3.9)'."""
    return f"{statistics.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})" if values else "never"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", required=True, help="A=B,A=B: labels of the comparison")
    parser.add_argument("--level", type=float, help="also the first iterations at or below this distance")
    arguments = parser.parse_args()
    table = {}
    for pair in arguments.pairs.split(","):
        a, _, b = (part.strip() for part in pair.partition("="))
        of_a, of_b = curves(arguments.folder, a), curves(arguments.folder, b)
        rows = {seed: compare(of_a[seed], of_b[seed], arguments.level) for seed in sorted(of_a.keys() & of_b.keys())}
        table[f"{a} against {b}"] = rows
        print(f"{a} against {b} ({len(rows)} seeds)")
        for name in next(iter(rows.values()), {}):
            values = [row[name] for row in rows.values() if row[name] is not None]
            missed = f", {len(rows) - len(values)} never" if len(values) < len(rows) else ""
            print(f"  {name:26s} {mean_and_range(values)}{missed}")
    (arguments.folder / "convergence.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
