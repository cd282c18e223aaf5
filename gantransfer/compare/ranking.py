"""Which rows of a comparison differ: a paired bootstrap over seeds, with a guard for few of them.

With n seeds the plain bootstrap calls a difference whenever all n agree in sign, which chance alone does in 2^(1-n) of
the cases: 25 % for three. A difference is therefore called only if the bootstrap interval *and* Student's paired
interval exclude zero; the second has the right error rate for few, roughly normal differences.
"""

from __future__ import annotations

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
        mean; low, high: the wider of the two intervals on each side (None with one seed); different: both exclude
        zero; count.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "different": False, "count": n}
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    tail = (1 - level) / 2
    low, high = np.quantile(values[drawn].mean(1), [tail, 1 - tail])
    reach = student_quantile(1 - tail, n - 1) * statistics.stdev(values.tolist()) / math.sqrt(n)
    low, high = min(float(low), mean - reach), max(float(high), mean + reach)
    return {"mean": mean, "low": low, "high": high, "different": low > 0 or high < 0, "count": n}


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution for whole degrees of freedom, by bisection of its closed form
    (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""

    def below(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        cosine = math.cos(angle)
        odd = freedom % 2 == 1
        term = cosine if odd else 1.0
        total = 0.0 if freedom == 1 else term
        for k in range(2 + odd, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        area = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
        return 0.5 + area / 2

    low, high = 0.0, 1e6
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < probability else (low, middle)
    return (low + high) / 2


def rank(distances: Mapping[str, Mapping[Any, float]]) -> list[dict[str, Any]]:
    """Rows by mean distance, each with its difference to the best row.

    Args:
        distances: row -> seed -> distance; rows without any are left out.

    Returns:
        label, mean, and ``to_best``: `paired` of the differences to the best row over their common seeds (None for
        the best itself, and where there is no common seed); ``tied``: not distinguishable from the best.
    """
    means = {label: statistics.fmean(of.values()) for label, of in distances.items() if of}
    order = sorted(means, key=lambda label: means[label])
    rows = []
    for label in order:
        common = [seed for seed in distances[label] if seed in distances[order[0]]] if label != order[0] else []
        test = paired([distances[label][s] - distances[order[0]][s] for s in common]) if common else None
        rows.append({"label": label, "mean": means[label], "to_best": test,
                     "tied": label == order[0] or test is None or not test["different"]})
    return rows


def rank_over_tasks(distances: Mapping[str, Mapping[str, Mapping[Any, float]]]) -> list[dict[str, Any]]:
    """`rank` over tasks: the unit is a task, its value the mean over seeds of log distance, so that every task counts
    alike however large its distances are.

    Args:
        distances: task -> row -> seed -> distance.

    Returns:
        as `rank`, for rows that all tasks have; ``mean`` is the geometric mean distance, and ``to_best`` in factors.
    """
    rows = [set(of_task) for of_task in distances.values()]
    everywhere = set.intersection(*rows) if rows else set()
    logs = {label: {task: statistics.fmean(math.log(max(d, 1e-12)) for d in of[label].values())
                    for task, of in distances.items()}
            for label in sorted(everywhere) if all(of[label] for of in distances.values())}
    found = rank(logs)
    for row in found:
        row["mean"] = math.exp(row["mean"])
        if row["to_best"]:
            for key in ("mean", "low", "high"):
                if row["to_best"][key] is not None:
                    row["to_best"][key] = math.exp(row["to_best"][key])
    return found
