"""Flags that are not written down anywhere: the fields of the chosen method's or architecture's dataclass.

This module imports torch (through the registries); the parser calls it only for names it does not know itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import typing
from typing import Any

import gantransfer.methods
import gantransfer.networks  # noqa: F401  (both register on import)
from gantransfer.cli.flags import Flag
from gantransfer.registry import architectures, methods

FROM_DATA = ("num_classes", "extensions", "plain_convolutions")  # of an architecture: never a flag


def method_flags(settings: dict[str, Any]) -> list[Flag]:
    """The fields of the method that `settings` names (default cgantransfer).

    Raises:
        UsageError: unknown method.
    """
    name = str(settings.get("method", "cgantransfer"))
    renamed = flag_names(name)
    return [dataclasses.replace(flag, name=renamed.get(flag.name, flag.name))
            for flag in _flags(methods[name], f"method {name}")]


def flag_names(method: str) -> dict[str, str]:
    """Fields of a method whose flags are called otherwise, because another flag has the name: field -> flag."""
    return getattr(methods[method], "flag_names", {})


def as_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` of the verb adapt with the names of its method's fields."""
    back = {flag: field for field, flag in flag_names(str(settings.get("method", "cgantransfer"))).items()}
    return {back.get(name, name): value for name, value in settings.items()}


def pretrain_flags(settings: dict[str, Any]) -> list[Flag]:
    """The architecture's settings and the fields of the method that pre-training uses, scratch."""
    arch = str(settings.get("arch", "biggan"))
    network = [f for f in _flags(architectures[arch].config_class, f"architecture {arch}") if f.name not in FROM_DATA]
    short = [Flag(name, text, int, low=1, group=f"architecture {arch}")
             for name, text in architectures[arch].shorthand.items()]
    return short + [_official_default(flag) for flag in network] + _flags(methods["scratch"], "optimisers")


def _official_default(flag: Flag) -> Flag:
    """Widths follow the resolution unless they are given."""
    return dataclasses.replace(flag, default=None) if flag.name in ("g_widths", "d_widths") else flag


def network_names(arch: str) -> set[str]:
    """Names of the settings that describe a network of architecture `arch`."""
    return {field.name for field in dataclasses.fields(architectures[arch].config_class)} | {
        *architectures[arch].shorthand}


def owner(name: str) -> str | None:
    """The methods that have a field `name`, as words; None if none has."""
    found = [m for m in methods if name in {f.name for f in dataclasses.fields(methods[m])}]
    return " or ".join(found) or None


def _flags(cls: type, group: str) -> list[Flag]:
    hints, helps = typing.get_type_hints(cls), _attribute_docs(cls)
    choices = getattr(cls, "choices", {})
    return [
        Flag(field.name, helps.get(field.name, ""), hints[field.name],
             None if field.name == "init_seed" else field.default, tuple(choices.get(field.name, ())), group=group)
        for field in dataclasses.fields(cls)
    ]


def _attribute_docs(cls: type) -> dict[str, str]:
    """The entries of the docstring's ``Attributes:`` part: ``a, b: text. c: text.`` -> {a: text, b: text, c: text};
    what a class does not say, the one it goes on from does."""
    bases = [base for base in cls.__bases__ if dataclasses.is_dataclass(base)]
    inherited = {key: text for base in bases for key, text in _attribute_docs(base).items()}
    text = " ".join((inspect.cleandoc(cls.__doc__ or "")).partition("Attributes:")[2].split())
    names = "|".join(sorted((f.name for f in dataclasses.fields(cls)), key=len, reverse=True))
    entry = re.compile(rf"(?:^|(?<=[.;] ))((?:{names})(?:, (?:{names}))*):")
    starts = list(entry.finditer(text))
    docs = {}
    for start, following in itertools.zip_longest(starts, starts[1:]):
        words = text[start.end() : following.start() if following else None].strip(" .;")
        for name in start[1].split(", "):
            docs[name] = words
    return inherited | docs
