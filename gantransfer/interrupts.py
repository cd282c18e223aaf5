"""SIGINT and SIGTERM as a wish: the first asks to finish the step and save, the second quits at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Wish:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.stop = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the two signals over; outside the main thread they stay the caller's."""

        def handle(number: int, frame: Any) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True

        try:
            old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
