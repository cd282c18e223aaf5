"""Where p ended in the runs of a comparison with several sources, and how far from the target's own shares.

    python benchmarks/minegan_shares.py runs/minegan-two

prints a line for every finished run: p of the adapter, which samples are picked by (that of the iteration with the best
distance), p at the last iteration and, where the target's folder is called ``<kind>-<n>-<kind>-<n>``, the largest
|p_i - share_i| of the adapter's over its two sources.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import yaml
from safetensors import safe_open


def shares(run: Path) -> tuple[list[str], list[float], list[float], float | None]:
    """Sources' names, p of the adapter and the last one, and the largest distance of the adapter's to the target's
    shares (None: not known)."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    names = [Path(source["name"]).parent.name for source in (config["source"], *config["source"].get("others", ()))]
    with safe_open(run / "adapter" / "adapter_model.safetensors", "pt") as tensors:
        p = tensors.get_tensor(next(key for key in tensors.keys() if key == "p" or key.endswith(".p"))).tolist()
    last = json.loads((run / "stats.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    last_p = [last[f"D/p{i}"] for i in range(1, 1 + len(names))]
    found = re.fullmatch(r"(\w+)-(\d+)-(\w+)-(\d+)", Path(config["data"]["path"]).name)
    if not found:
        return names, p, last_p, None
    counts = {found[1]: int(found[2]), found[3]: int(found[4])}
    error = max(abs(x - counts.get(n, 0) / sum(counts.values())) for n, x in zip(names, p, strict=True))
    return names, p, last_p, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    arguments = parser.parse_args()
    for result in sorted(arguments.comparison.glob("**/result.json")):
        if "replaced" in result.parts:
            continue
        names, p, last, error = shares(result.parent)
        text = ", ".join(f"{name} {share:.3f}" for name, share in zip(names, p, strict=True))
        text += f" (last {', '.join(f'{share:.3f}' for share in last)})"
        print(f"{result.parent.relative_to(arguments.comparison)}: {text}"
              + (f"; off by {error:.3f}" if error is not None else ""))


if __name__ == "__main__":
    main()
