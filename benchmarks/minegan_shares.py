"""Where p ended in the runs of a comparison with several sources, and how far from the target's own shares.

    python benchmarks/minegan_shares.py results/minegan/two

prints a line for every finished run, and for the mean over a row's seeds: p of the adapter, which samples are picked by
(that of the iteration with the best distance), p at the last iteration, the shares of supersamples won there
(p of ``--p-update ema``; they are logged, whatever p is) and, where the target's folder is called
``<kind>-<n>-<kind>-<n>``, the largest |p_i - share_i| of the adapter's over its sources, and the sum of those that the
target has nothing of.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import yaml


def shares(run: Path) -> dict[str, Any] | None:
    """Sources' ``names``, ``p`` of the adapter and the ``last`` one, shares of wins (``won``) and the target's ``own``
    shares (None: not known); None for a run with one source."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    names = [Path(source["name"]).parent.name for source in (config["source"], *config["source"].get("others", ()))]
    if len(names) < 2:
        return None
    p = json.loads((run / "samples" / "mining.json").read_text(encoding="utf-8"))["p"]
    last = json.loads((run / "stats.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    logged = {key: [last[f"D/{key}{i}"] for i in range(1, 1 + len(names))] for key in ("p", "won")}
    found = re.fullmatch(r"(\w+)-(\d+)-(\w+)-(\d+)", Path(config["data"]["path"]).name)
    counts = {found[1]: int(found[2]), found[3]: int(found[4])} if found else {}
    own = [counts.get(name, 0) / sum(counts.values()) for name in names] if counts else None
    return {"names": names, "p": p, "last": logged["p"], "won": logged["won"], "own": own}


def told(label: str, names: list[str], p: list[float], own: list[float] | None, more: str = "") -> str:
    """A line: p by source, how far it is from the target's shares at most, and what falls to sources without one."""
    text = f"{label}: " + ", ".join(f"{name} {share:.3f}" for name, share in zip(names, p, strict=True)) + more
    if own is None:
        return text
    text += f"; off by {max(abs(x - y) for x, y in zip(p, own, strict=True)):.3f}"
    rest = [x for x, y in zip(p, own, strict=True) if not y]
    return text + (f"; irrelevant sources {sum(rest):.3f} together" if rest else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in sorted(arguments.comparison.glob("**/result.json")):
        if "replaced" in result.parts or (found := shares(result.parent)) is None:
            continue
        cell = str(result.parent.relative_to(arguments.comparison))
        rows[re.sub(r"-seed\d+$", "", cell)].append(found)
        last, won = (", ".join(f"{share:.3f}" for share in found[key]) for key in ("last", "won"))
        print(told(cell, found["names"], found["p"], found["own"], f" (last {last}; won {won})"))
    for row, of in rows.items():
        if len(of) > 1:
            for key in ("p", "won"):
                means = [mean(values) for values in zip(*(found[key] for found in of), strict=True)]
                print(told(f"mean {key} of {len(of)} seeds, {row}", of[0]["names"], means, of[0]["own"]))


if __name__ == "__main__":
    main()
