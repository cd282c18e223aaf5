"""Which rows of a comparison differ: a paired bootstrap over seeds, guarded against few seeds and many rows.

With n seeds the plain bootstrap calls a difference whenever all n agree in sign, which chance alone does in 2^(1-n)
of the cases: 25 % for three. And with many rows some pair looks different by chance. A difference is therefore called
only if the bootstrap interval excludes zero *and* Student's paired p-value of the log ratio, with a spread judged by
all pairs (`gantransfer.compare.student`) and adjusted by Holm over them, is below 5 %: in a table of equal rows a
false call anywhere is then that rare, whichever row came out best.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gantransfer.compare.student import p_values, two_sided

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
    p = two_sided(mean / error, n - 1) if error else 1.0  # equal differences: no spread to judge by
    return {"mean": mean, "low": float(low), "high": float(high), "p": p, "count": n}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm, 1979): the family's error rate is kept."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


Pair = tuple[str, str]
Test = dict[str, Any]


def differences(values: Mapping[str, Mapping[Any, float]], pairs: Iterable[Pair]) -> dict[Pair, list[float]]:
    """For every (A, B) of `pairs` A's minus B's values of the units (seeds, tasks) that both have."""
    return {(a, b): [values[a][unit] - values[b][unit] for unit in values.get(a, ()) if unit in values.get(b, ())]
            for a, b in pairs}


def tested(found: Mapping[Pair, Sequence[float]], logs: Mapping[Pair, Sequence[float]] | None = None,
           family: Collection[Pair] | None = None) -> dict[Pair, Test]:
    """`paired` of every pair that has differences, with ``p`` that of all pairs together, adjusted over them,
    ``different``, and ``of``: over how many pairs it is adjusted.

    Args:
        found: the differences of each pair, of which mean and interval are.
        logs: the same pairs' log ratios, of which p is; None: `found` are such.
        family: the pairs asked about, over which p is adjusted and of which the tests are; the others only lend their
            spread, so that a pair has one p before adjustment wherever it is shown. None: all.
    """
    judged = found if logs is None else logs
    asked = found.keys() if family is None else set(family)
    tests = {pair: paired(values) for pair, values in found.items() if len(values) and pair in asked}
    scattered = [pair for pair, values in judged.items() if len(values) > 1]
    possible = [pair for pair in scattered if pair in asked]
    if possible:
        independent = min(len(scattered), len(set(itertools.chain(*scattered))) - 1)
        of_all = dict(zip(scattered, p_values([judged[pair] for pair in scattered], independent), strict=True))
        for pair, p in zip(possible, holm([of_all[pair] for pair in possible]), strict=True):
            tests[pair]["p"] = p
    for pair, test in tests.items():
        apart = test["low"] is not None and (test["low"] > 0 or test["high"] < 0)
        agree = test["mean"] * statistics.fmean(judged[pair]) > 0
        test["different"] = apart and agree and test["p"] < 1 - LEVEL
        test["of"] = len(possible)
    return tests


def tested_distances(distances: Mapping[str, Mapping[Any, float]],
                     family: Collection[Pair] | None = None) -> dict[Pair, Test]:
    """`tested` of rows, row -> seed -> distance: of all pairs, or of those of `family`."""
    logs = {row: {seed: _log(distance) for seed, distance in of.items()} for row, of in distances.items()}
    pairs = _all_pairs(distances, family)
    return tested(differences(distances, pairs), differences(logs, pairs), family)


def tested_over_tasks(distances: Mapping[str, Mapping[str, Mapping[Any, float]]],
                      family: Collection[Pair] | None = None) -> dict[Pair, Test]:
    """`tested` of rows over tasks, task -> row -> seed -> distance, in log ratios."""
    labels = dict.fromkeys(label for rows in distances.values() for label, of in rows.items() if of)
    pairs = _all_pairs(labels, family)
    return tested({(a, b): list(log_ratios(distances, a, b).values()) for a, b in pairs}, family=family)


def _all_pairs(labels: Iterable[str], family: Collection[Pair] | None) -> list[Pair]:
    """Every pair of `labels` once, those of `family` as they stand there."""
    named = list(dict.fromkeys(family or ()))
    return named + [(a, b) for a, b in itertools.combinations(labels, 2) if (a, b) not in named and (b, a) not in named]


def _turned(test: Test) -> Test:
    """The test of B - A from that of A - B."""
    ends = (None, None) if test["low"] is None else (-test["high"], -test["low"])
    return {**test, "mean": -test["mean"], "low": ends[0], "high": ends[1]}


def _ranked(means: Mapping[str, float], tests: Mapping[Pair, Test], able: Collection[str]) -> list[dict[str, Any]]:
    """The best of the rows `able`, to which the fewest are ahead on what both have and then of the smallest mean, and
    the others by their means, each with its test against the best."""
    tests = dict(tests)
    tests |= {(b, a): _turned(test) for (a, b), test in tests.items()}
    behind = {label: sum(test["mean"] > 0 for (a, _), test in tests.items() if a == label) for label in able}
    best = min(able, key=lambda label: (behind[label], means[label]))
    order = sorted(means, key=lambda label: (label != best, means[label]))
    return [{"label": label, "mean": means[label], "to_best": tests.get((label, best))} for label in order]


def rank(distances: Mapping[str, Mapping[Any, float]]) -> list[dict[str, Any]]:
    """Rows, the best first, then by mean distance, each with its difference to the best row.

    Args:
        distances: row -> seed -> distance; rows without any are left out.

    Returns:
        label, mean (over the row's own seeds), and ``to_best``: None for the best row, else `paired` of the differences
        to it over their common seeds, with ``p`` adjusted and ``different``; None too where there is no common seed.
        The best has the smallest mean of those that no row is ahead of on common seeds, as rows may differ in seeds.
    """
    means = {label: statistics.fmean(of.values()) for label, of in distances.items() if of}
    return _ranked(means, tested_distances({label: distances[label] for label in means}), means) if means else []


def log_ratios(distances: Mapping[str, Mapping[str, Mapping[Any, float]]], a: str, b: str) -> dict[str, float]:
    """task -> mean log of A's over B's distance, over the seeds that both have there."""
    found = {}
    for task, rows in distances.items():
        if common := [seed for seed in rows.get(a, ()) if seed in rows.get(b, ())]:
            found[task] = statistics.fmean(_log(rows[a][seed]) - _log(rows[b][seed]) for seed in common)
    return found


def _log(distance: float) -> float:
    return math.log(max(distance, 1e-12))


def as_factor(test: Test) -> Test:
    """A test of log ratios in factors."""
    return test | {key: None if test[key] is None else math.exp(test[key]) for key in ("mean", "low", "high")}


def rank_over_tasks(distances: Mapping[str, Mapping[str, Mapping[Any, float]]]) -> list[dict[str, Any]]:
    """`rank` over tasks: the unit is a task, its value the mean log ratio of two rows' distances over the seeds that
    both have there, so that every task counts alike however large its distances are, and a row that misses a task or a
    seed takes it from no other pair. Tasks that share classes or seeds are not independent, and the p-values are then
    too small.

    Args:
        distances: task -> row -> seed -> distance.

    Returns:
        as `rank`, in factors; ``tasks``: how many the row has. The best is one of those that have more than half of
        what the fullest has: a failed run shall not cost a row its place, nor one lucky task win it. Rows stand by
        their factor to it, those without a common task last; ``mean`` is the geometric mean distance over the row's own
        tasks.
    """
    labels = list(dict.fromkeys(label for rows in distances.values() for label, of in rows.items() if of))
    own = {label: [statistics.fmean(map(_log, rows[label].values())) for rows in distances.values() if rows.get(label)]
           for label in labels}
    means = {label: statistics.fmean(values) for label, values in own.items()}
    if not means:
        return []
    most = max(map(len, own.values()))
    rows = _ranked(means, tested_over_tasks(distances), [label for label in labels if 2 * len(own[label]) > most])
    for row in rows:
        row["mean"], row["tasks"] = math.exp(row["mean"]), len(own[row["label"]])
        row["to_best"] = row["to_best"] and as_factor(row["to_best"])
    return rows[:1] + sorted(rows[1:], key=lambda row: row["to_best"]["mean"] if row["to_best"] else math.inf)
