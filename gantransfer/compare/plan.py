"""What is compared: rows (methods with settings) on tasks (a source, a target), each with several seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gantransfer import runs
from gantransfer.compare.cells import Cell
from gantransfer.compare.claim import STUDY
from gantransfer.config import field_names
from gantransfer.errors import UsageError, did_you_mean
from gantransfer.registry import methods
from gantransfer.sources import shipped_models

RESERVED = ("replaced", "slurm", STUDY)  # names of a comparison that are no runs
EVAL_EVERY = 25  # iterations between evaluations where the plan does not say: a best is known to that


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        label: what it is called. method: name of the method.
        settings: the method's fields, and training settings that differ from the comparison's.
        seeds: this row's, where it needs more or fewer than the task's.
        targets: names of the tasks it runs on; None: all.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    targets: tuple[str, ...] | None = None

    def runs_on(self, task: str) -> bool:
        """Whether the task called `task` is one of its own."""
        return self.targets is None or task in self.targets


@dataclass(frozen=True)
class Task:
    """One source and one target.

    Attributes:
        name: directory of its runs in the comparison; "" for the only task of one.
        source, data: as in `gantransfer.adapt`. data_options: arguments of `ImageData`.
        seeds: the task's, where it needs more or fewer than the comparison's.
    """

    name: str
    source: str
    data: str
    data_options: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything a comparison is made from.

    Attributes:
        out: its directory. settings: training settings of every run.
        pairs: (A, B), rows whose convergence is compared; None: every row with the first.
        levels: distances; for each the first iteration at or below it is reported.
        title, about, expected: for the page: what it is, and published figures, {row: {task: figure}}.
    """

    tasks: tuple[Task, ...]
    variants: tuple[Variant, ...]
    out: Path
    seeds: tuple[int, ...] = (0,)
    settings: dict[str, Any] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] | None = None
    levels: tuple[float, ...] = ()
    title: str = ""
    about: str = ""
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)

    def seeds_of(self, task: Task, variant: Variant) -> tuple[int, ...]:
        """A row's own seeds, else its task's, else the comparison's."""
        return variant.seeds or task.seeds or self.seeds

    def settings_of(self, variant: Variant) -> dict[str, Any]:
        """A row's training settings and fields: its own, and those of the comparison that its method has a use for."""
        unused = getattr(methods[variant.method], "unused", {})
        return {**{k: v for k, v in self.settings.items() if k not in unused}, **variant.settings}

    def cells(self) -> list[Cell]:
        """All cells, seed by seed: a comparison that is interrupted has seen every row as often as any other."""
        places = [(task, variant, self.seeds_of(task, variant)) for task in self.tasks for variant in self.variants
                  if variant.runs_on(task.name)]
        found = []
        for seed in dict.fromkeys([*self.seeds, *(seed for _, _, seeds in places for seed in seeds)]):
            for task, variant in ((task, variant) for task, variant, seeds in places if seed in seeds):
                name = "/".join(filter(None, (task.name, f"{stem(variant.label)}-seed{seed}")))
                call = {"source": task.source, "data": task.data, "method": variant.method,
                        "data_options": task.data_options, **self.settings_of(variant), "seed": seed}
                found.append(Cell(name, variant.label, variant.method, seed, self.out / name, call, task.name))
        return found

    def compared_pairs(self) -> list[tuple[str, str]]:
        """The pairs of rows whose convergence is compared."""
        if self.pairs is not None:
            return list(self.pairs)
        first, *others = [variant.label for variant in self.variants]
        return [(label, first) for label in others]

    def check(self) -> None:
        """Refuse what no data could make right (UsageError)."""
        labels = [variant.label for variant in self.variants]
        if not self.seeds:
            raise UsageError("the comparison has no seeds; give one or more, for example seeds: [0]")
        planned = self.cells()
        of_all = [("label", labels), ("target", [task.name for task in self.tasks]), ("seed", list(self.seeds)),
                  ("directory", [cell.name for cell in planned])]
        of_rows = [(f"seed of '{part}'", list(seeds)) for part, seeds in
                   [*((t.name, t.seeds or ()) for t in self.tasks), *((v.label, v.seeds or ()) for v in self.variants)]]
        for what, names in (*of_all, *of_rows):
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise UsageError(f"{what} '{twice[0]}' appears twice in the comparison; name each once")
        if wrong := [cell.seed for cell in planned if cell.seed < 0]:
            raise UsageError(f"seed {wrong[0]} is not possible; give 0 or more")
        for label in (label for pair in self.pairs or () for label in pair):
            if label not in labels:
                raise UsageError(f"pairs names '{label}', which is no row of the comparison"
                                 f"{did_you_mean(label, labels)}; have: {', '.join(labels)}")
            if (label, label) in (self.pairs or ()):
                raise UsageError(f"pairs has '{label}={label}', a row against itself; name two rows")
        self._check_expected(labels)
        tasks = [task.name for task in self.tasks]
        for variant in self.variants:
            for name in variant.targets or ():
                if name not in tasks:
                    raise UsageError(f"row '{variant.label}' names target '{name}', which the comparison does not have"
                                     f"{_known(name, tasks)}")
        for task in self.tasks:
            if task.name in RESERVED or not task.name.strip(".") and task.name:
                raise UsageError(f"a target cannot be called '{task.name}', which is no folder for runs; choose "
                                 "another name")
        for variant in self.variants:
            runs.make_method(variant.method, method_fields(variant))

    def _check_expected(self, labels: list[str]) -> None:
        tasks = [task.name for task in self.tasks]
        for label, figures in self.expected.items():
            if label not in labels:
                raise UsageError(f"expected names '{label}', which is no row of the comparison"
                                 f"{did_you_mean(label, labels)}; have: {', '.join(labels)}")
            for name in figures:
                if name not in tasks:
                    raise UsageError(f"expected names target '{name}' of '{label}', which the comparison does not have"
                                     f"{_known(name, tasks)}")


def _known(name: str, tasks: list[str]) -> str:
    """The end of a sentence on a target that is none: those there are."""
    if tasks == [""]:
        return "; its only target has no name, leave it out or give the plan 'targets'"
    return f"{did_you_mean(name, tasks)}; have: {', '.join(tasks)}"


def method_fields(variant: Variant) -> dict[str, Any]:
    """The settings of a row that are its method's own fields."""
    names = field_names(methods[variant.method])
    return {key: value for key, value in variant.settings.items() if key in names}


def stem(label: str) -> str:
    """What directories are called after a label."""
    return re.sub(r"[^\w.+-]+", "_", label)


def tasks_of(
    sources: Mapping[str, str] | None, targets: Mapping[str, Mapping[str, Any]] | None, source: str | None,
    data: str | None, data_options: Mapping[str, Any],
) -> tuple[Task, ...]:
    """The tasks that a plan's ``sources`` and ``targets`` mean, or the only one of ``source`` and ``data``.

    A target's mapping has ``data`` (default: the plan's), the arguments of `ImageData` over the plan's, ``source``
    (the name of one of `sources`, or what `gantransfer.adapt` takes) and ``seeds``. A target without a source is
    met by every one of `sources`, and the task is then called SOURCE-TARGET.

    Raises:
        UsageError: something is missing.
    """
    known = dict(sources or {})
    if known and source is not None:
        raise UsageError(f"the plan has both source '{source}' and sources {', '.join(known)}; give one of the two")
    found = []
    for name, values in (targets or {"": {}}).items():
        options = dict(values)
        own_source, own_data = options.pop("source", source), options.pop("data", data)
        seeds = options.pop("seeds", None)
        options = {**data_options, **options}
        if own_data is None:
            raise UsageError(f"target '{name}' has no data" if targets else
                             "gantransfer compare needs --data (images), or 'targets' in a plan")
        seeds = None if seeds is None else tuple(seeds)
        if known and own_source is not None and own_source not in known and _is_name(own_source) \
                and (hint := did_you_mean(own_source, known)):
            raise UsageError(f"target '{name}' has source '{own_source}', which is none of the plan's{hint}; have: "
                             f"{', '.join(known)}")
        if own_source is not None:
            found.append(Task(stem(name), known.get(own_source, own_source), own_data, options, seeds))
        elif known:
            found += [Task("-".join(filter(None, (stem(key), stem(name)))), place, own_data, options, seeds)
                      for key, place in known.items()]
        else:
            raise UsageError("gantransfer compare needs --source (the pre-trained GAN), or 'sources' in a plan")
    return tuple(found)


def _is_name(source: str) -> bool:
    """Whether `source` can only be meant as the name of one of a plan's."""
    return "/" not in source and source not in shipped_models() and not Path(source).exists()


def with_rhythm(cell: Cell, steps: int, shown: int) -> Cell:
    """`cell` with its number of iterations, each of `shown` images, and evaluated every `EVAL_EVERY` of them unless its
    settings say otherwise (at the start and the end alone where the method is slow to sample)."""
    given = {key: value for key, value in cell.call.items() if value is not None}
    slow = getattr(methods[cell.call["method"]], "slow_to_sample", False)
    call = {"eval_nimg": 0 if slow else EVAL_EVERY * shown, "steps": steps, **given}
    return replace(cell, call=call, shown=shown)


def unique(names: Sequence[str]) -> list[str]:
    """`names` without repetitions, in their order."""
    return list(dict.fromkeys(names))
