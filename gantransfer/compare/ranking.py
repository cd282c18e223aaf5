"""Which rows of a comparison differ: a paired bootstrap over seeds, guarded against few seeds and many rows.

With n seeds the plain bootstrap calls a difference whenever all n agree in sign, which chance alone does in 2^(1-n)
of the cases: 25 % for three. And with many rows some pair looks different by chance. A difference is therefore called
only if the bootstrap interval excludes zero *and* Student's paired p-value, adjusted by Holm over all pairs of rows, is
below 5 %: in a table of equal rows a false call anywhere is then that rare, whichever row came out best.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


def paired(differences: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES,
           seed: int = 0) -> dict[str, Any]:
    """Is the mean of paired `differences` (one per seed) other than zero?

    Returns:
        mean; low, high: the bootstrap's percentile interval (None with one seed); p: Student's two-sided p-value (1
        with one seed); count.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "p": 1.0, "count": n}
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    tail = (1 - level) / 2
    low, high = np.quantile(values[drawn].mean(1), [tail, 1 - tail])
    error = statistics.stdev(values.tolist()) / math.sqrt(n)
    p = two_sided(mean / error, n - 1) if error else float(mean == 0)
    return {"mean": mean, "low": float(low), "high": float(high), "p": p, "count": n}


def two_sided(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's distribution for whole degrees of freedom (Abramowitz and Stegun, 26.7.3, 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return max(0.0, 1 - inside)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm, 1979): the family's error rate is kept."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def rank(distances: Mapping[str, Mapping[Any, float]]) -> list[dict[str, Any]]:
    """Rows by mean distance, each with its difference to the best row.

    Args:
        distances: row -> seed -> distance; rows without any are left out.

    Returns:
        label, mean (over the row's own seeds), and ``to_best``: None for the best row, else `paired` of the differences
        to it over their common seeds, with ``p`` adjusted and ``different``; None too where there is no common seed.
    """
    means = {label: statistics.fmean(of.values()) for label, of in distances.items() if of}
    order = sorted(means, key=lambda label: means[label])
    tests = {}
    for first, second in itertools.combinations(order, 2):
        if common := [seed for seed in distances[second] if seed in distances[first]]:
            tests[first, second] = paired([distances[second][seed] - distances[first][seed] for seed in common])
    possible = [pair for pair, test in tests.items() if test["count"] > 1]
    for pair, p in zip(possible, holm([tests[pair]["p"] for pair in possible]), strict=True):
        tests[pair]["p"] = p
    for test in tests.values():
        apart = test["low"] is not None and (test["low"] > 0 or test["high"] < 0)
        test["different"] = apart and test["p"] < 1 - LEVEL
    return [{"label": label, "mean": means[label], "to_best": tests.get((order[0], label))} for label in order]


def rank_over_tasks(distances: Mapping[str, Mapping[str, Mapping[Any, float]]]) -> list[dict[str, Any]]:
    """`rank` over tasks: the unit is a task, its value the mean log distance over the seeds that all rows have there,
    so that every task counts alike however large its distances are. Tasks that share classes or seeds are not
    independent, and the p-values are then too small.

    Args:
        distances: task -> row -> seed -> distance.

    Returns:
        as `rank`, for rows that all tasks have; ``mean`` is the geometric mean distance, and ``to_best`` in factors.
    """
    rows = [{label for label, of in of_task.items() if of} for of_task in distances.values()]
    everywhere = sorted(set.intersection(*rows)) if rows else []
    logs: dict[str, dict[str, float]] = {label: {} for label in everywhere}
    for task, of_task in distances.items():
        common = set.intersection(*(set(of_task[label]) for label in everywhere)) if everywhere else set()
        for label in everywhere if common else ():
            logs[label][task] = statistics.fmean(math.log(max(of_task[label][seed], 1e-12)) for seed in common)
    found = rank(logs)
    for row in found:
        row["mean"] = math.exp(row["mean"])
        if row["to_best"]:
            for key in ("mean", "low", "high"):
                if row["to_best"][key] is not None:
                    row["to_best"][key] = math.exp(row["to_best"][key])
    return found
