"""Compare methods on one task: every cell (a row of the table, a seed) is an ordinary run directory.

A finished cell is never run again, an interrupted one is resumed, a failed one is reported and does not stop the
others. `compare` can therefore be called again and again on the same directory, with more seeds or methods too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gantransfer import runs
from gantransfer.compare import cells, page, summary
from gantransfer.compare.cells import Cell
from gantransfer.config import field_names
from gantransfer.errors import OutputError, UsageError
from gantransfer.registry import methods

__all__ = ["Comparison", "Variant", "compare"]

PLAN = "plan.json"


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        label: what it is called. method: name of the method.
        settings: the method's fields, and training settings that differ from the comparison's.
        seeds: this row's, where it needs more or fewer than the comparison's.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        source, data: of every run, as in `gantransfer.adapt`. out: directory of the comparison.
        data_options: arguments of `ImageData`. settings: training settings of every run.
    """

    source: str
    data: str
    out: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0,)
    data_options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """All cells, seed by seed: a comparison that is interrupted has seen every row as often as any other."""
        found = []
        of_rows = [(variant, self.seeds if variant.seeds is None else variant.seeds) for variant in self.variants]
        for seed in dict.fromkeys([*self.seeds, *(seed for _, seeds in of_rows for seed in seeds)]):
            for variant in (variant for variant, seeds in of_rows if seed in seeds):
                name = f"{cell_stem(variant.label)}-seed{seed}"
                call = {"source": self.source, "data": self.data, "method": variant.method,
                        "data_options": self.data_options, **self.settings, **variant.settings, "seed": seed}
                found.append(Cell(name, variant.label, variant.method, seed, self.out / name, call))
        return found


def cell_stem(label: str) -> str:
    """What the directories of a row's cells are called, before ``-seed<n>``."""
    return re.sub(r"[^\w.+-]+", "_", label)


def compare(
    comparison: Comparison, *, jobs: int = 1, threads: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run what is missing and write ``compare.csv``, ``compare.json`` and ``compare.html``.

    Args:
        jobs: runs at a time, each in a process of its own where it is more than 1.
        threads: processor threads of each run (None: 1 with several jobs, else PyTorch's choice).
        progress: called with the events of `gantransfer.adapt` (one job), and a message for every cell.

    Returns:
        The content of ``compare.json``: rows (label, distance and its spread over seeds, ...), cells (status
        "finished", "failed", "interrupted" or "waiting", exit_code), protocol, files.

    Raises:
        UsageError, ModelError, DataError: in that order, before anything is written; a directory that holds
            something else, or cells that were run with other settings.
        OutputError: the tables cannot be written.
    """
    planned = comparison.cells()
    _check_variants(comparison, planned)
    recorded = _recorded(comparison.out)
    _check_unchanged(planned, recorded)
    _check_inputs(comparison)
    _write(comparison.out, PLAN, json.dumps({**recorded, **{c.name: c.call for c in planned}}, indent=1,
                                            ensure_ascii=False, default=str))
    outcomes = cells.run_all(planned, jobs, threads, progress or (lambda event: None))
    result = summary.summarise([v.label for v in comparison.variants], planned, outcomes)
    files = {kind: str(comparison.out / f"compare.{kind}") for kind in ("html", "csv", "json")}
    result["files"] = files
    _write(comparison.out, "compare.csv", summary.as_csv(result))
    _write(comparison.out, "compare.json", json.dumps(result, indent=1, ensure_ascii=False))
    _write(comparison.out, "compare.html", page.render(comparison.source, comparison.data, result, comparison.out))
    return result


def _check_variants(comparison: Comparison, planned: list[Cell]) -> None:
    for what, names in (("label", [v.label for v in comparison.variants]), ("seed", list(comparison.seeds)),
                        ("directory", [cell.name for cell in planned])):
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UsageError(f"{what} '{twice[0]}' appears twice in the comparison; name each row once")
    if wrong := [cell.seed for cell in planned if cell.seed < 0]:
        raise UsageError(f"seed {wrong[0]} is not possible; give 0 or more")
    for variant in comparison.variants:
        own = field_names(methods[variant.method])
        runs.make_method(variant.method, {k: v for k, v in variant.settings.items() if k in own})


def _recorded(out: Path) -> dict[str, Any]:
    """The calls of the cells that were planned here before."""
    if (out / PLAN).is_file():
        return json.loads((out / PLAN).read_text(encoding="utf-8"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"output '{out}' exists, is not empty and holds no comparison; choose another --out")
    return {}


def _check_unchanged(planned: list[Cell], recorded: Mapping[str, Any]) -> None:
    """A cell that exists was made with the same settings, or this is another experiment."""
    for cell in planned:
        before, now = recorded.get(cell.name), json.loads(json.dumps(cell.call, default=str))
        if before is None or not cell.folder.exists() or before == now:
            continue
        names = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        changes = ", ".join(f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in names)
        raise UsageError(f"cell '{cell.name}' was run with other settings ({changes}); restore them, or choose "
                         "another --out or label")


def _check_inputs(comparison: Comparison) -> None:
    """Source, data and every variant fit together (one load of each)."""
    from gantransfer import api
    from gantransfer.data import ImageData
    from gantransfer.results import load

    gan = load(comparison.source)
    for variant in comparison.variants:
        own = field_names(methods[variant.method])
        api.check_fit(gan, variant.method, {k: v for k, v in variant.settings.items() if k in own})
    images = ImageData(comparison.data, size=gan.config["resolution"], channels=gan.config["channels"],
                       **comparison.data_options)
    for variant in comparison.variants:
        api.plan(gan, images, variant.method, **{**comparison.settings, **variant.settings})


def _write(folder: Path, name: str, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write '{folder / name}' ({error.strerror}); free space or choose another "
                          "folder") from None
