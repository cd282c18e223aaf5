"""How often `compare` calls a difference that is chance, and how often it finds one that is real.

    python benchmarks/false_calls.py

Made-up tables: log distances are normal, a row's standard deviation is 0.13 (what rows of results/baselines have)
times a log-normal factor, seeds have an effect that rows share. Printed for each kind of table: false calls, the
share of tables of equal rows in which any difference to the best is called; power, the share of rows called behind a
best one whose distance is 0.6 of theirs. Beside it plain Student's tests with Holm's correction, what each pair says
alone.
"""

from __future__ import annotations

import argparse
import itertools
import math

import numpy as np

from gantransfer.compare import ranking

SPREAD, SEEDS, AHEAD = 0.13, 0.05, 0.6
KINDS = {"even rows": 0.0, "uneven rows": 0.5, "very uneven rows": 0.8, "one row five times as noisy": None}
Table = dict[str, dict[int, float]]


def table(rng: np.random.Generator, rows: int, seeds: int, uneven: float | None, ahead: float = 1.0) -> Table:
    """row -> seed -> distance; the first row's are `ahead` times what the others' are."""
    noise = np.full(rows, SPREAD) if uneven is None else SPREAD * np.exp(rng.normal(0, uneven, rows))
    if uneven is None:
        noise[-1] *= 5
    logs = math.log(12) + rng.normal(size=(rows, seeds)) * noise[:, None] + rng.normal(0, SEEDS, seeds)
    logs[0] += math.log(ahead)
    return {str(row): dict(enumerate(np.exp(values))) for row, values in enumerate(logs)}


def called(found: Table) -> list[str]:
    """The rows that differ from the best one."""
    return [row["label"] for row in ranking.rank(found) if row["to_best"] and row["to_best"]["different"]]


def alone(found: Table) -> list[str]:
    """The same by each pair's own spread."""
    pairs = list(itertools.combinations(found, 2))
    values = ranking.differences({k: {s: math.log(d) for s, d in of.items()} for k, of in found.items()}, pairs)
    p = dict(zip(pairs, ranking.holm([ranking.paired(values[pair])["p"] for pair in pairs]), strict=True))
    best = min(found, key=lambda label: sum(found[label].values()))
    return [b if a == best else a for a, b in pairs if best in (a, b) and p[a, b] < 1 - ranking.LEVEL]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=400, help="of each kind")
    tables = parser.parse_args().tables
    ranking.RESAMPLES = 200  # over hundreds of tables the intervals' own noise averages out
    print("| rows | seeds | | false calls | power | false calls, each pair alone | power |")
    print("|---" * 7 + "|")
    for rows, seeds, (name, uneven) in itertools.product((2, 4, 8, 17), (3, 5), KINDS.items()):
        rng = np.random.default_rng(rows * 100 + seeds)
        equal = [table(rng, rows, seeds, uneven) for _ in range(tables)]
        apart = [table(rng, rows, seeds, uneven, AHEAD) for _ in range(tables // 4)]
        cells = []
        for test in (called, alone):
            cells.append(f"{np.mean([bool(test(found)) for found in equal]):.1%}")
            cells.append(f"{np.mean([len(set(test(found))) / (rows - 1) for found in apart]):.0%}")
        print(f"| {rows} | {seeds} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
