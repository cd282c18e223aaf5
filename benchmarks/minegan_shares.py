"""Where p ended in the runs of a comparison with several sources, and how far from the target's own shares.

    python benchmarks/minegan_shares.py runs/minegan-two

prints a line for every finished run, and for the mean over a row's seeds: p of the adapter, which samples are picked by
(that of the iteration with the best distance), p at the last iteration and, where the target's folder is called
``<kind>-<n>-<kind>-<n>``, the largest |p_i - share_i| of the adapter's over its sources, and the sum of those that the
target has nothing of.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import yaml
from safetensors import safe_open


def shares(run: Path) -> tuple[list[str], list[float], list[float], list[float] | None] | None:
    """Sources' names, p of the adapter and the last one, and the target's own shares (None: not known); None for a run
    with one source."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    names = [Path(source["name"]).parent.name for source in (config["source"], *config["source"].get("others", ()))]
    if len(names) < 2:
        return None
    with safe_open(run / "adapter" / "adapter_model.safetensors", "pt") as tensors:
        p = tensors.get_tensor(next(key for key in tensors.keys() if key == "p" or key.endswith(".p"))).tolist()
    last = json.loads((run / "stats.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    last_p = [last[f"D/p{i}"] for i in range(1, 1 + len(names))]
    found = re.fullmatch(r"(\w+)-(\d+)-(\w+)-(\d+)", Path(config["data"]["path"]).name)
    if not found:
        return names, p, last_p, None
    counts = {found[1]: int(found[2]), found[3]: int(found[4])}
    return names, p, last_p, [counts.get(name, 0) / sum(counts.values()) for name in names]


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
    seeds: dict[str, list[tuple[list[str], list[float], list[float] | None]]] = defaultdict(list)
    for result in sorted(arguments.comparison.glob("**/result.json")):
        if "replaced" in result.parts or (found := shares(result.parent)) is None:
            continue
        names, p, last, own = found
        cell = str(result.parent.relative_to(arguments.comparison))
        seeds[re.sub(r"-seed\d+$", "", cell)].append((names, p, own))
        print(told(cell, names, p, own, f" (last {', '.join(f'{share:.3f}' for share in last)})"))
    for row, of in seeds.items():
        if len(of) > 1:
            means = [sum(p[i] for _, p, _ in of) / len(of) for i in range(len(of[0][0]))]
            print(told(f"mean of {len(of)} seeds, {row}", of[0][0], means, of[0][2]))


if __name__ == "__main__":
    main()
