"""What `rank` said of every source before adapting, beside the distance that each reached.

    python benchmarks/transfergan_ranks.py runs/transfergan-sources --probe 100 --out results/transfergan/ranks.json

reads ``compare.json`` of a comparison in which every source met every target and prints, for each target, the distance
of each source's samples, its coverage and probe, the distance after adaptation (the row given), and Spearman's rank
correlation of each kind of evidence with it (1: the order was foreseen).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import gantransfer as gt

EVIDENCE = {"frechet": 1, "coverage": -1, "probe": 1, "mean_rank": 1}  # 1: small is good


def spearman(first: list[float], second: list[float]) -> float | None:
    """Correlation of ranks, of ties their mean; None where one of the two is constant."""
    ranks = [[sum(v < w for v in values) + sum(v == w for v in values) / 2 for w in values]
             for values in (first, second)]
    return None if any(len(set(r)) < 2 for r in ranks) else float(np.corrcoef(*ranks)[0, 1])


def evidence(found: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """What `rank_sources` returned, by source."""
    rows = {}
    for source in found["sources"]:
        probe = source["probe"]["frechet"] if source["probe"] else None
        rows[source["name"]] = {"frechet": source["frechet"], "coverage": source["coverage"], "probe": probe,
                                       "mean_rank": source["mean_rank"]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--row", default="transfergan", help="the row whose distances are foreseen")
    parser.add_argument("--probe", type=int, default=0, help="iterations of the mined probe")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    told = json.loads((arguments.comparison / "compare.json").read_text(encoding="utf-8"))
    targets: dict[str, dict[str, Any]] = defaultdict(dict)
    for task in told["tasks"]:
        row = next(row for row in task["rows"] if row["label"] == arguments.row)
        if row["distance"] is not None:
            targets[task["data"]][task["source"]] = {**task, "after": row["distance"]}
    result = {}
    for target, tasks in targets.items():
        options = next(iter(tasks.values()))["data_options"]
        rows = evidence(gt.rank_sources(list(tasks), target, data_options=options, probe=arguments.probe))
        after = {source: tasks[source]["after"] for source in rows}
        agreement = {
            kind: spearman([sign * row[kind] for row in rows.values()], list(after.values()))
            for kind, sign in EVIDENCE.items() if all(row[kind] is not None for row in rows.values())
        }
        result[target] = {"sources": {s: {**row, "after": after[s]} for s, row in rows.items()}, "spearman": agreement}
        print(target)
        for source, row in sorted(result[target]["sources"].items(), key=lambda item: item[1]["after"]):
            print(f"  {source:20}", "  ".join(f"{k} {v:.3g}" for k, v in row.items() if v is not None))
        print(f"  {'spearman':20}", "  ".join(f"{k} {v:.2f}" for k, v in agreement.items() if v is not None))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
