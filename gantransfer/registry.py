"""Names to objects: methods, architectures, metrics and feature extractors register here.

Adding one is adding one file that registers itself when imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from gantransfer.errors import UsageError, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, Any]):
    """A read-only mapping with a decorator to add entries and errors that suggest a name.

    Args:
        kind: what the entries are, in the singular, for messages (``"method"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files the decorated object under `name`; a taken name is refused."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise UsageError(f"{self.kind} '{name}' is registered already; choose another name")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> Any:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            have = ", ".join(sorted(self._entries)) or "none"
            raise UsageError(
                f"{self.kind} '{name}' not found{did_you_mean(name, self._entries)}; have: {have}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


methods = Registry("method")
architectures = Registry("architecture")
metrics = Registry("metric")
features = Registry("feature extractor")

register_method = methods.register
register_architecture = architectures.register
register_metric = metrics.register
register_features = features.register
