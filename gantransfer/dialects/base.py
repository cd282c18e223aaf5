"""What the readers of other code bases' checkpoints share.

A dialect is a function ``(generator tensors | None, discriminator tensors | None, settings) -> networks``, of a
`WITH_MINER` one with the miner's tensors behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.registry import Registry

State = dict[str, Tensor]
WITH_MINER = ("minegan",)  # dialects that take a miner's file too
dialects = Registry("dialect")


@dataclass(frozen=True)
class Converted:
    """Networks in eval mode, what was inferred, one line each, and the architecture's name."""

    generator: nn.Module
    discriminator: nn.Module | None
    notes: tuple[str, ...]
    arch: str = "biggan"


def numbered(state: Mapping[str, Tensor], pattern: str) -> dict[int, Tensor]:
    found = {}
    for key, tensor in state.items():
        if match := re.fullmatch(pattern, key):
            found[int(match[1])] = tensor
    return found


def setting(settings: Mapping[str, Any], name: str, kind: Callable[[Any], Any], default: Any = None) -> Any:
    """A setting as a number or whole number, however the JSON spells it (ModelError if it is none)."""
    if name not in settings:
        return default
    try:
        return kind(settings[name])
    except (TypeError, ValueError):
        raise ModelError(f"config says {name} {settings[name]!r}, which is no "
                         f"{'number' if kind is float else 'whole number'}; correct it or leave it out") from None


def refuse_contradictions(said: Mapping[str, tuple[str, Any]], found: Mapping[str, Any]) -> None:
    for ours, (theirs, value) in said.items():
        if ours in found and value != found[ours]:
            raise ModelError(f"config says {theirs} {value} but the tensors have {found[ours]}; "
                             "give the config that belongs to these files or none")


def read_settings(config: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """A config given as mapping, path of a JSON file, or None."""
    from gantransfer.weights import read_json

    if config is None:
        return {}
    return dict(config) if isinstance(config, Mapping) else read_json(config)


Dialect = Callable[..., Converted]
