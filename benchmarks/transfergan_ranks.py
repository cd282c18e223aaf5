"""What `rank` said of every source before adapting, beside the distance that each reached.

    python benchmarks/transfergan_ranks.py runs/transfergan-sources --probe 100 --glyph100 glyph100.zip --against dense=diverse --out results/transfergan/ranks.json

reads ``compare.json`` of a comparison in which every source met every target and prints, for each target, every source's
evidence (distance of its samples and of its real images, its own quality, recall, coverage, probe), the distance after
adaptation (the row given), that of training from scratch, and Spearman's rank correlation of each kind of evidence with
what was reached (1: the order was foreseen); last the mean of these correlations over targets, and of the two sources
named with ``--against`` the difference of what they reached, tested over seeds and targets.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import gantransfer as gt
from gantransfer.choosing import OWN
from gantransfer.compare.ranking import paired

# 1: small is good
EVIDENCE = {"frechet": 1, "real_frechet": 1, "own": 1, "recall": -1, "coverage": -1, "probe": 1, "mean_rank": 1}
SHIPPED = "glyph80-32"


def spearman(first: list[float], second: list[float]) -> float | None:
    """Correlation of ranks, of ties their mean; None where one of the two is constant."""
    ranks = [[sum(v < w for v in values) + sum(v == w for v in values) / 2 for w in values]
             for values in (first, second)]
    return None if any(len(set(r)) < 2 for r in ranks) else float(np.corrcoef(*ranks)[0, 1])


def evidence(found: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """What `rank_sources` returned, by source."""
    rows = {}
    for source in found["sources"]:
        flat = {**source, **{kind: (source[kind] or {}).get("frechet") for kind in ("probe", "own")}}
        rows[source["name"]] = {kind: flat[kind] for kind in EVIDENCE}
    return rows


def agreement(rows: Mapping[str, Mapping[str, float | None]], after: Mapping[str, float]) -> dict[str, float | None]:
    """Spearman's correlation of every kind of evidence that all sources have with the distances reached `after`."""
    return {kind: spearman([sign * row[kind] for row in rows.values()], [after[source] for source in rows])
            for kind, sign in EVIDENCE.items() if all(row.get(kind) is not None for row in rows.values())}


def reached(told: Mapping[str, Any], label: str) -> dict[str, dict[str, list[float]]]:
    """target -> source -> distance by seed of a row."""
    tasks = {task["name"]: task for task in told["tasks"]}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in told["cells"]:
        if cell["label"] == label and cell["status"] == "finished":
            task = tasks[cell["task"]]
            found[task["data"]][task["source"]].append(cell["distance"])
    return found


def against(distances: Mapping[str, Mapping[str, list[float]]], first: str, second: str) -> dict[str, Any] | None:
    """The test of the log ratio of what two sources (their directories' names) reached, over targets and seeds; None
    where they met no target both."""
    ratios = []
    for sources in distances.values():
        mine = {Path(name).parent.name if Path(name).name == "model" else name: of for name, of in sources.items()}
        pairs = zip(mine.get(first, []), mine.get(second, []), strict=False)
        ratios += [float(np.log(a / b)) for a, b in pairs]
    if not ratios:
        return None
    test = paired(ratios)
    return test | {key: None if test[key] is None else float(np.exp(test[key])) for key in ("mean", "low", "high")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--row", default="transfergan", help="the row whose distances are foreseen")
    parser.add_argument("--probe", type=int, default=0, help="iterations of the mined probe")
    parser.add_argument("--glyph100", type=Path, help="glyph100.zip: the shipped source's real images")
    parser.add_argument("--against", default="", help="A=B, two sources")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    told = json.loads((arguments.comparison / "compare.json").read_text(encoding="utf-8"))
    distances, scratch = reached(told, arguments.row), reached(told, "scratch")
    options = {task["data"]: task["data_options"] for task in told["tasks"]}
    result: dict[str, Any] = {}
    for target, sources in distances.items():
        glyphs = arguments.glyph100 and gt.ImageData(arguments.glyph100, size=32, channels=1, classes="source80",
                                                     per_class=100)
        real = [glyphs if name == SHIPPED else OWN for name in sources]
        rows = evidence(gt.rank_sources(list(sources), target, data_options=options[target], probe=arguments.probe,
                                        source_data=real))
        after = {source: statistics.fmean(of) for source, of in sources.items()}
        found = agreement(rows, after)
        blank = [value for of in scratch.get(target, {}).values() for value in of]
        result[target] = {"sources": {s: {**row, "after": after[s]} for s, row in rows.items()}, "spearman": found,
                          "scratch": statistics.fmean(blank) if blank else None}
        print(target)
        for source, row in sorted(result[target]["sources"].items(), key=lambda item: item[1]["after"]):
            print(f"  {source:20}", "  ".join(f"{k} {v:.3g}" for k, v in row.items() if v is not None))
        if blank:
            print(f"  {'scratch':20} after {statistics.fmean(blank):.3g}")
        print(f"  {'spearman':20}", "  ".join(f"{k} {v:.2f}" for k, v in found.items() if v is not None))
    means = {kind: [told["spearman"][kind] for told in result.values() if told["spearman"].get(kind) is not None]
             for kind in EVIDENCE}
    print("mean over targets", "  ".join(f"{k} {statistics.fmean(v):.2f}" for k, v in means.items() if v))
    if arguments.against:
        first, second = arguments.against.split("=")
        test = against(distances, first, second)
        print(f"{first} over {second}: " + ("no target in common" if test is None else json.dumps(test)))
        result[""] = {"against": arguments.against, "test": test}
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
