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
RATIOS = ("best_ratio", "best_ratio_seconds", "reach_ratio", "reach_ratio_seconds")


def best(curve: Curve) -> Point:
    """The point of the smallest distance, the first of several."""
    return min(curve, key=lambda point: (point["distance"], point["step"]))


def reached(curve: Curve, level: float) -> Point | None:
    """The first point at or below `level`."""
    return next((point for point in curve if point["distance"] <= level), None)


def at(curve: Curve, key: str, value: float) -> Point:
    """The last point not beyond `value` of `key`: what one would have, stopping there. Points that do not have `key`
    are none."""
    known = [point for point in curve if point.get(key) is not None]
    return max((point for point in known if point[key] <= value), key=lambda point: point[key], default=known[0])


def _ratio(a: float | None, b: float | None) -> float | None:
    """a / b where both are positive: with one of them at the very start there is no factor."""
    return a / b if a and b else None


def measures(a: Curve, b: Curve) -> dict[str, Any]:
    """Row A against row B, one seed.

    Returns:
        best_step, best_seconds, best_distance of each (``a_``, ``b_``); ``best_ratio`` (and ``_seconds``): B's best
        iteration over A's, the paper's measure; ``reach_step`` and ``reach_seconds``: A's first iteration at or below
        B's best (None: never); ``reach_ratio`` (and ``_seconds``): B's best iteration over it; ``b_early``: B's
        distance at A's best iteration, the paper's 'BSA-early' (``b_early_seconds``: at A's time); ``short``: rows
        whose runs ended before twice the later of the two bests, so that a later best is possible. Ratios with a
        point at iteration 0 are None.
    """
    best_a, best_b = best(a), best(b)
    there = reached(a, best_b["distance"]) or {"step": None, "seconds": None}
    wanted = 2 * max(best_a["step"], best_b["step"])
    found: dict[str, Any] = {}
    for name, point in (("a", best_a), ("b", best_b)):
        found |= {f"{name}_best_step": point["step"], f"{name}_best_seconds": point.get("seconds"),
                  f"{name}_best_distance": point["distance"]}
    seconds_a, seconds_b = best_a.get("seconds"), best_b.get("seconds")
    return found | {
        "best_ratio": _ratio(best_b["step"], best_a["step"]), "best_ratio_seconds": _ratio(seconds_b, seconds_a),
        "reach_step": there["step"], "reach_seconds": there.get("seconds"),
        "reach_ratio": _ratio(best_b["step"], there["step"]),
        "reach_ratio_seconds": _ratio(seconds_b, there.get("seconds")),
        "b_early": at(b, "step", best_a["step"])["distance"],
        "b_early_seconds": None if None in (seconds_a, seconds_b) else at(b, "seconds", seconds_a)["distance"],
        "short": [name for name, curve in (("a", a), ("b", b)) if curve[-1]["step"] < wanted],
    }


def compare(a: Mapping[int, Curve], b: Mapping[int, Curve], levels: Sequence[float] = ()) -> dict[str, Any] | None:
    """`measures` over the seeds that both rows have.

    Returns:
        None without a common seed. Every measure as `spread`; ``seeds``: how many; ``by_seed``: `measures` by seed;
        ``short``: rows with a run that may have ended too early; ``levels``: for every level the points at which A and
        B are first there (``a``, ``a_seconds``, ``b``, ``b_seconds``).
    """
    common = sorted(seed for seed in a.keys() & b.keys() if a[seed] and b[seed])
    if not common:
        return None
    by_seed = {seed: measures(a[seed], b[seed]) for seed in common}
    names = [name for name in next(iter(by_seed.values())) if name != "short"]
    found: dict[str, Any] = {name: spread([row[name] for row in by_seed.values()], name in RATIOS) for name in names}
    found["levels"] = {}
    for level in levels:
        found["levels"][str(level)] = {
            f"{name}{suffix}": spread([(reached(curves[seed], level) or {}).get(key) for seed in common])
            for name, curves in (("a", a), ("b", b)) for suffix, key in (("", "step"), ("_seconds", "seconds"))}
    return {"seeds": len(common), "by_seed": {str(seed): row for seed, row in by_seed.items()},
            "short": sorted({name for row in by_seed.values() for name in row["short"]}), **found}


def spread(values: Sequence[float | None], factors: bool = False) -> dict[str, Any]:
    """Mean (of factors the geometric one: 2 and 1/2 make 1), smallest and largest of the values that exist, how many
    they are, and of how many."""
    have = [value for value in values if value is not None]
    if not have:
        return {"mean": None, "low": None, "high": None, "count": 0, "of": len(values)}
    mean = statistics.geometric_mean(have) if factors else statistics.fmean(have)
    return {"mean": mean, "low": min(have), "high": max(have), "count": len(have), "of": len(values)}
