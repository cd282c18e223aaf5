"""How much sooner one row of a comparison is good than another (cGANTransfer, Figure 5 and Table 1).

All on the selection split, per seed. The minimum of a noisy curve is noisy, so the spread over seeds is part of the
answer, and so is whether a run went on long enough for its best to be its best.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]  # step, seconds, distance
Curve = Sequence[Point]


def best(curve: Curve) -> Point:
    """The point of the smallest distance, the first of several."""
    return min(curve, key=lambda point: (point["distance"], point["step"]))


def reached(curve: Curve, level: float) -> Point | None:
    """The first point at or below `level`."""
    return next((point for point in curve if point["distance"] <= level), None)


def at(curve: Curve, key: str, value: float) -> Point:
    """The last point not beyond `value` of `key`: what one would have, stopping there."""
    return max((point for point in curve if point[key] <= value), key=lambda point: point[key], default=curve[0])


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or b <= 0 else a / b


def measures(a: Curve, b: Curve) -> dict[str, Any]:
    """Row A against row B, one seed.

    Returns:
        best_step, best_seconds, best_distance of each (``a_``, ``b_``); ``best_ratio`` (and ``_seconds``): B's best
        iteration over A's, the paper's measure; ``reach_step``: A's first iteration at or below B's best (None: never)
        and ``reach_ratio`` = B's best iteration over it (and ``_seconds``); ``b_early``: B's distance at A's best
        iteration, the paper's 'BSA-early' (``b_early_seconds``: at A's time); ``short``: rows whose runs ended before
        twice the later of the two bests, so that a later best is possible.
    """
    best_a, best_b = best(a), best(b)
    there = reached(a, best_b["distance"])
    wanted = 2 * max(best_a["step"], best_b["step"])
    found: dict[str, Any] = {}
    for name, point in (("a", best_a), ("b", best_b)):
        found |= {f"{name}_best_step": point["step"], f"{name}_best_seconds": point.get("seconds"),
                  f"{name}_best_distance": point["distance"]}
    seconds = [point.get("seconds") for point in (best_a, best_b)]
    return found | {
        "best_ratio": _ratio(best_b["step"], best_a["step"]), "best_ratio_seconds": _ratio(seconds[1], seconds[0]),
        "reach_step": there and there["step"], "reach_seconds": there and there.get("seconds"),
        "reach_ratio": _ratio(best_b["step"], there and there["step"]),
        "reach_ratio_seconds": _ratio(seconds[1], there and there.get("seconds")),
        "b_early": at(b, "step", best_a["step"])["distance"],
        "b_early_seconds": at(b, "seconds", seconds[0])["distance"] if seconds[0] is not None else None,
        "short": [name for name, curve in (("a", a), ("b", b)) if curve[-1]["step"] < wanted],
    }


def compare(a: Mapping[int, Curve], b: Mapping[int, Curve], levels: Sequence[float] = ()) -> dict[str, Any] | None:
    """`measures` over the seeds that both rows have, each as mean, low, high and the number of seeds that have it.

    Returns:
        None without a common seed. ``seeds``: how many; ``by_seed``: `measures` by seed; ``short``: rows with a run
        that may have ended too early; ``levels``: for every level the iterations at which A and B are first there.
    """
    common = sorted(seed for seed in a.keys() & b.keys() if a[seed] and b[seed])
    if not common:
        return None
    by_seed = {seed: measures(a[seed], b[seed]) for seed in common}
    names = [name for name in next(iter(by_seed.values())) if name != "short"]
    found: dict[str, Any] = {name: spread([row[name] for row in by_seed.values()]) for name in names}
    found["levels"] = {str(level): {name: spread([_step(reached(curves[seed], level)) for seed in common])
                                    for name, curves in (("a", a), ("b", b))} for level in levels}
    return {"seeds": len(common), "by_seed": {str(seed): row for seed, row in by_seed.items()},
            "short": sorted({name for row in by_seed.values() for name in row["short"]}), **found}


def _step(point: Point | None) -> Any:
    return None if point is None else point["step"]


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, smallest and largest of the values that exist, how many they are, and of how many."""
    have = [value for value in values if value is not None]
    summary = {"mean": statistics.fmean(have), "low": min(have), "high": max(have)} if have else \
        {"mean": None, "low": None, "high": None}
    return {**summary, "count": len(have), "of": len(values)}
