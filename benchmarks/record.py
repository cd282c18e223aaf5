"""Keep what matters of a `gantransfer compare` directory for the repository.

    python benchmarks/record.py runs/first-study-paper results/first-study/paper

Copies the plan and the tables, and of every finished cell its configuration, curve and result, the picture of seed 0,
and with miners the log. It can be called while the comparison runs; copied back to `runs/`, the record is continued by
`gantransfer compare`, which then trains only the cells that are missing. A cell whose settings have changed since then
is taken out of the record until it has run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from gantransfer.compare.cells import unlike

TABLES = ("plan.json", "compare.csv", "compare.json", "convergence.csv", "rows.csv", "pairs.csv")
OF_A_CELL = ("config.yaml", "env.json", "metrics.jsonl", "result.json")
OF_MINERS = ("samples/mining.json", "stats.jsonl")  # which source a sample comes from, and why


def record(runs: Path, out: Path) -> int:
    """Copy; the number of finished cells."""
    planned = json.loads((runs / "plan.json").read_text(encoding="utf-8"))
    finished = [name for name in planned if (runs / name / "result.json").is_file()]
    out.mkdir(parents=True, exist_ok=True)
    before = json.loads((out / "plan.json").read_text(encoding="utf-8")) if (out / "plan.json").is_file() else {}
    for name in planned.keys() - set(finished):
        if name in before and unlike(before[name], planned[name], finished=True) and (out / name).is_dir():
            shutil.rmtree(out / name)
    for name in finished:
        cell, kept = runs / name, out / name
        (kept / "samples").mkdir(parents=True, exist_ok=True)
        for file in OF_A_CELL:
            shutil.copy(cell / file, kept / file)
        for file in OF_MINERS if (cell / OF_MINERS[0]).is_file() else ():
            shutil.copy(cell / file, kept / file)
        if name.endswith("seed0"):
            shutil.copy(cell / "samples" / "after.png", kept / "samples" / "after.png")
    for name in TABLES:
        if (runs / name).is_file():
            shutil.copy(runs / name, out / name)
    return len(finished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(f"{record(arguments.runs, arguments.out)} finished cells in {arguments.out}")


if __name__ == "__main__":
    main()
