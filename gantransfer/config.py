"""Settings from mappings: unknown keys are refused with the nearest valid name, values are checked by type."""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gantransfer.errors import UsageError, did_you_mean

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], what: str) -> T:
    """The dataclass `cls` with `values` over its defaults.

    Args:
        what: how messages call it ("method cgantransfer").

    Raises:
        UsageError: an unknown key, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    names = field_names(cls)
    checked = {}
    for key, value in values.items():
        if key not in names:
            raise UsageError(f"{what} has no setting '{key}'{did_you_mean(key, names)}; have: {', '.join(names)}")
        checked[key] = _coerce(value, hints[key], f"{what}: {key}")
    return cls(**checked)


def field_names(cls: type) -> list[str]:
    """Names of the dataclass's settings."""
    return [f.name for f in dataclasses.fields(cls)]


def _coerce(value: Any, hint: Any, what: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), what)
    if origin in (tuple, list):
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise UsageError(f"{what} is {reprlib.repr(value)}; give a list")
        return origin(_coerce(item, args[0], what) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool):
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise UsageError(f"{what} is {reprlib.repr(value)}; give a value of type {hint.__name__}")
    return value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the entries in which two JSON-ready mappings differ, with both values (None: absent)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= {f"{key}.{inner}": pair for inner, pair in differences(a, b).items()}
        elif a != b:
            found[key] = (a, b)
    return found


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping (UsageError if it is missing, broken, something else, or has a key twice, of which YAML would
    keep the last without a word)."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if (key.tag, key.value) in seen:
                        line = key.start_mark.line + 1
                        raise yaml.YAMLError(f"'{key.value}' appears twice, the second time in line {line}")
                    seen.add((key.tag, key.value))
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UsageError(f"config '{path}' cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no UTF-8, a number of 5,000 digits, a deep nest
        raise UsageError(f"config '{path}' is not valid YAML ({str(error).splitlines()[0]}); mend it") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"config '{path}' is no mapping of names to values; write 'key: value' lines")
    return content
