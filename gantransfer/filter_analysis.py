"""What a modulation of filters has learned: scale and shift by group, and side by side for several runs (limited-data
paper, Figure 11 and Appendix E)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantransfer.adapter import WEIGHTS
from gantransfer.errors import ModelError, UsageError
from gantransfer.filter_modulation import FilterModulation, bare_weight, filter_modulations
from gantransfer.weights import read_json, read_tensors, write_json, write_tensors

FILE, TENSORS = "modulation.json", "modulation.safetensors"
LOW, HIGH, MARGIN = 0.9, 1.1, 0.03  # Appendix E: values are clipped to these, and columns chosen by this lead
FIRST = 2  # number of the group next to the image layer, which is group 1


def record(generator: nn.Module, folder: Path) -> bool:
    """Keep effective scales and shifts of a modulated `generator` in ``folder/analysis``; False without modulation.

    ``modulation.safetensors``: ``CONVOLUTION.gamma`` and ``.beta``, float [out, in]. ``modulation.json``: box plots by
    group, as `box` gives them.
    """
    found = [entry for entry in filter_modulations(generator) if isinstance(entry[2], FilterModulation)]
    if not found:
        return False
    groups = {id(part): FIRST + i for i, block in enumerate(reversed(list(generator.blocks)))
              for part in block.modules()}
    tensors: dict[str, Tensor] = {}
    by_group: dict[int, list[tuple[str, Tensor, Tensor]]] = {}
    with torch.no_grad():
        for name, convolution, modulation in found:
            gamma, beta = (t.detach().clone() for t in modulation.scale_and_shift(bare_weight(convolution)))
            tensors |= {f"{name}.gamma": gamma, f"{name}.beta": beta}
            by_group.setdefault(groups[id(convolution)], []).append((name, gamma, beta))
    entries = [{"group": group, "convolutions": [name for name, _, _ in parts],
                "gamma": box(torch.cat([gamma.flatten() for _, gamma, _ in parts])),
                "beta": box(torch.cat([beta.flatten() for _, _, beta in parts]))}
               for group, parts in sorted(by_group.items())]
    write_tensors(tensors, folder / "analysis" / TENSORS)
    write_json({"kind": found[0][2].kind, "groups": entries}, folder / "analysis" / FILE)
    return True


def box(values: Tensor) -> dict[str, float]:
    """Median, quartiles, whiskers (the last value within 1.5 times the quartiles' distance of them) and extremes."""
    values = values.double().sort().values
    first, median, third = (float(values.quantile(q)) for q in (0.25, 0.5, 0.75))
    reach = 1.5 * (third - first)
    inside = values[(values >= first - reach) & (values <= third + reach)]
    found = {"low": inside[0], "first": first, "median": median, "third": third, "high": inside[-1], "min": values[0],
             "max": values[-1]}
    return {key: round(float(value), 6) for key, value in found.items()}


def compare(run: Path, others: Sequence[Path]) -> dict[str, Any]:
    """The sorted comparison of scales across runs (Appendix E), added to ``run/analysis/modulation.json``.

    Taken is the last convolution of group 2. Of another run its adapter will do. With M the scales clipped to [0.9,
    1.1] and scaled to [0, 1], a row for each run, run i shows the columns where it leads all others by more than 0.03,
    sorted by its values.

    Returns:
        ``runs``: as much of their paths as tells them apart; ``convolution``; ``columns``: for every run how many it
        leads in; ``rows``: the values of all these columns, by run.

    Raises:
        ModelError: a run without modulation of filters. UsageError: of other filters than the first.
    """
    places = [run, *others]
    record, own = _read(run)
    name = record["groups"][0]["convolutions"][-1]
    first = own[f"{name}.gamma"]
    scales = torch.stack([first.flatten(), *(_scales(other, name, first.shape, run).flatten() for other in others)])
    matrix = (scales.clamp(LOW, HIGH) - LOW) / (HIGH - LOW)
    order: list[int] = []
    counts = []
    for i in range(len(places)):
        rest = torch.cat([matrix[:i], matrix[i + 1 :]])
        leads = ((matrix[i] - rest) > MARGIN).all(0).nonzero().flatten()
        order += leads[matrix[i, leads].argsort(stable=True)].tolist()
        counts.append(len(leads))
    found = {"runs": distinct(places), "convolution": name, "columns": counts,
             "rows": [[round(float(v), 3) for v in row] for row in matrix[:, order]]}
    write_json({**record, "compared": found}, run / "analysis" / FILE)
    return found


def distinct(places: Sequence[Path]) -> list[str]:
    """The last parts of every path, as many as tell all apart (equal paths stay equal)."""
    parts = [place.absolute().parts for place in places]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _scales(place: Path, name: str, shape: torch.Size, run: Path) -> Tensor:
    """gamma [out, in] of the convolution `name` from a run's record or an adapter."""
    if (place / WEIGHTS).is_file():
        own = read_tensors(place / WEIGHTS)
        keys = (f"{name}.{inside}.gamma" for inside in ("modulation", "parametrizations.weight.0"))
        found = next((own[key][..., 0, 0] for key in keys if key in own), None)
        if found is None and not any(key.endswith(".gamma") for key in own):
            raise ModelError(f"adapter '{place}' holds no scales of filters to compare; give its run, or one of method "
                             "adafm")
    else:
        found = _read(place)[1].get(f"{name}.gamma")
    if found is None or found.shape[0] != shape[0] or found.shape[1] not in (1, shape[1]):
        raise UsageError(f"run '{place}' does not modulate the filters '{name}' of run '{run}'; compare runs of one "
                         "source")
    return found.expand(shape)


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (run / "analysis" / FILE).is_file():
        raise ModelError(f"run '{run}' has no modulated filters to compare; it takes runs of method adafm")
    return read_json(run / "analysis" / FILE), read_tensors(run / "analysis" / TENSORS)
