"""What a verb takes: flags and arguments as tables, and the conversion of their values.

The same table serves the command line, YAML files and the help text, so that an unknown name is refused alike
everywhere. Nothing here imports torch: ``--help`` is instant.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gantransfer.errors import UsageError, did_you_mean

TRUE, FALSE, NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null")


@dataclass(frozen=True)
class Flag:
    """One setting of a verb.

    Attributes:
        name: with underscores; ``--name`` is accepted with dashes and with underscores.
        kind: type of the value: int, float, str, bool, a tuple or list of them, optionally with None.
        default: what the library takes when the flag is absent, for the help text only.
        choices: the allowed values, if few. low: the smallest allowed number.
        repeat: may be given several times; the value is then a list. words: every word up to the next flag
            belongs to the list.
        group: heading in the help text.
    """

    name: str
    help: str
    kind: Any = str
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    short: str = ""
    metavar: str = ""
    repeat: bool = False
    words: bool = False
    group: str = "flags"

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class Argument:
    """A positional argument; `many`: one or more, a list; `config`: may be left out, and names the YAML file as
    ``--config`` does."""

    name: str
    help: str
    many: bool = False
    config: bool = False


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        action: ``module:function`` in `gantransfer.cli`, imported only when the verb runs.
        required: names of flags that must be set, by flag or config.
        fields: from the settings known so far, the flags of the chosen method or architecture.
        layered: has ``--config FILE`` (a YAML mapping under the flags).
    """

    name: str
    summary: str
    action: str
    examples: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()
    flags: tuple[Flag, ...] = ()
    required: tuple[str, ...] = ()
    fields: Callable[[dict[str, Any]], list[Flag]] | None = None
    fields_help: str = ""
    layered: bool = True
    chapter: str = ""


CONFIG = Flag("config", "settings as 'name: value' lines; flags given here win", metavar="FILE", group="general")
TRACEBACK = Flag("traceback", "show the whole traceback if the program fails", bool, False, group="general")
JSON = Flag("json", "print one JSON object instead of text", bool, False, group="general")


def plain_kind(kind: Any) -> Any:
    """`kind` without None: ``float | None`` -> float."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None))
    return kind


def convert(flag: Flag, value: Any, what: str) -> Any:
    """`value`, text from the command line or anything YAML knows, as `flag.kind`.

    Raises:
        UsageError: not of that type, not one of the choices, or too small.
    """
    if flag.repeat:
        values = value if isinstance(value, list) else [value]
        return [_checked(flag, v, what) for v in values]
    return _checked(flag, value, what)


def _checked(flag: Flag, value: Any, what: str) -> Any:
    converted = _typed(value, flag.kind, what)
    if flag.choices and converted is not None and converted not in flag.choices:
        near = did_you_mean(str(value), flag.choices)
        shown = ", ".join(choice for choice in flag.choices if choice)
        raise UsageError(f"{what} is '{value}'{near}; choose one of: {shown}")
    if flag.low is not None and isinstance(converted, (int, float)) and converted < flag.low:
        raise UsageError(f"{what} is {value}; give {flag.low:g} or more")
    return converted


def _typed(value: Any, kind: Any, what: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind == dict | str:
        return value if isinstance(value, dict) else str(value)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in NONE):
            return None
        return _typed(value, plain_kind(kind), what)
    if origin in (list, tuple):
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if isinstance(items, (int, float, bool)):
            items = [items]
        if not isinstance(items, Sequence):
            raise UsageError(f"{what} is {value!r}; give a list, with commas between the values")
        if args[0] is int:
            items = [number for item in items for number in _range(item)]
        return origin(_typed(item, args[0], what) for item in items if item != "")
    if kind is bool:
        return _truth(value, what)
    if kind is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{what} is {value!r}; give a mapping, in a YAML file with --config")
        return value
    if isinstance(value, (dict, list)) or value is None:
        raise UsageError(f"{what} is {value!r}; give one value")
    return _number(value, kind, what) if kind in (int, float) else str(value)


def _range(item: Any) -> Sequence[Any]:
    """The numbers that an item like "5-8" stands for, else the item alone."""
    found = re.fullmatch(r"(\d+)-(\d+)", item) if isinstance(item, str) else None
    return range(int(found[1]), int(found[2]) + 1) if found and int(found[1]) <= int(found[2]) else [item]


def _truth(value: Any, what: str) -> bool:
    text = str(value).lower()
    if text not in TRUE + FALSE:
        raise UsageError(f"{what} is '{value}'; give true or false")
    return text in TRUE


def _number(value: Any, kind: type, what: str) -> Any:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if kind is float:
            return number
        if number != int(number):
            raise ValueError
        return int(value) if not isinstance(value, str) or value.strip().lstrip("+-").isdigit() else int(number)
    except (ValueError, OverflowError, TypeError):
        noun = "a whole number" if kind is int else "a number"
        raise UsageError(f"{what} is '{value}'; give {noun}") from None


def kind_name(flag: Flag) -> str:
    """The placeholder of the flag's value in help texts."""
    kind = plain_kind(flag.kind)
    if flag.metavar or kind is bool:
        return flag.metavar
    if flag.choices:
        return "|".join(flag.choices)
    names = {int: "N", float: "X", str: "TEXT"}
    if typing.get_origin(kind) in (list, tuple):
        one = names.get(typing.get_args(kind)[0], "X")
        return f"{one},{one},..."
    return names.get(kind, "TEXT")
