"""The progress of a run: a bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from gantransfer.cli.screen import console, say, silent
from gantransfer.report.formatting import duration

Event = dict[str, Any]
LINES = 20  # plain lines of losses in a whole run


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[Event], None]]:
    """A function that takes the events of `gantransfer.api` and shows them."""
    screen = console()
    if quiet or silent():
        yield lambda event: None
    elif screen.is_terminal:
        with _bar(screen) as bar:
            yield Bar(bar)
    else:
        yield Lines()


def _bar(screen: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}", style="dim"), TextColumn("{task.fields[distance]}", style="bold"),
        TextColumn("{task.fields[speed]}", style="dim"), TimeRemainingColumn(), console=screen,
    )


class Bar:
    """Events onto a rich bar: losses, distance, images/s and time left."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.task: int | None = None
        self.ringing = Alarms()

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "start":
            for sentence in (f"run directory: {event['out']}", *_plan(event)):
                self.bar.console.print(sentence, markup=False, highlight=False)
            self.task = self.bar.add_task("training", total=event["steps"], completed=event.get("step", 0), losses="",
                                          distance="", speed="")
        elif self.task is None or kind in ("message", "rolled back"):
            self.bar.console.print(_words(event), markup=False, highlight=False)
        elif kind == "trained":
            self.bar.update(self.task, completed=event["step"], losses=_losses(event), speed=_speed(event))
        elif kind == "evaluated":
            self.bar.update(self.task, completed=event["step"], distance=_distance(event))
        for sentence in self.ringing(event):
            self.bar.console.print(sentence, markup=False, highlight=False)


class Lines:
    """Events as lines: every evaluation, and the losses at most `LINES` times per run."""

    def __init__(self) -> None:
        self.steps = 0
        self.next = 0
        self.ringing = Alarms()

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "start":
            self.steps, self.next = event["steps"], event.get("step", 0) + 1
            for sentence in (f"run directory: {event['out']}", *_plan(event)):
                say(sentence)
            say(f"training from step {event.get('step', 0)} to {event['steps']}")
        elif kind == "trained":
            if event["step"] >= self.next or event["step"] == self.steps:
                self.next = event["step"] + max(1, self.steps // LINES)
                say(f"{self._place(event)}  {_losses(event)}  {_speed(event)}{self._left(event)}")
        elif kind == "evaluated":
            say(f"{self._place(event)}  {_distance(event)}")
        else:
            say(_words(event))
        for sentence in self.ringing(event):
            say(sentence)

    def _place(self, event: Event) -> str:
        return f"step {event['step']:>{len(str(self.steps))}}/{self.steps}"

    def _left(self, event: Event) -> str:
        if event["step"] >= self.steps or not event["seconds"]:
            return ""
        return f"  {duration((self.steps - event['step']) * event['seconds'] / event['step'])} left"


class Alarms:
    """The sentences of alarms that did not ring in the event of the same kind before."""

    def __init__(self) -> None:
        self.last: dict[str, set[str]] = {}

    def __call__(self, event: Event) -> list[str]:
        if event["event"] not in ("trained", "evaluated"):
            return []
        alarms, before = event.get("alarms", {}), self.last.get(event["event"], set())
        self.last[event["event"]] = set(alarms)
        return [f"warning: step {event['step']}: {text}" for name, text in alarms.items() if name not in before]


def _plan(event: Event) -> list[str]:
    """What a run that begins copies, combines, initialises and trains."""
    return [] if event.get("step", 0) else [f"- {sentence}" for sentence in event.get("plan", ())]


def _losses(event: Event) -> str:
    if not any(k.startswith(("D/", "G/")) for k in event):  # no game: the first term of every phase
        terms = {k.partition("/")[0]: f"{k.partition('/')[2]} {v:.3g}" for k, v in reversed(event.items()) if "/" in k}
        return " ".join(reversed(terms.values()))
    d = sum(v for k, v in event.items() if k.startswith("D/") and "logits" not in k)
    g = sum(v for k, v in event.items() if k.startswith("G/") and "logits" not in k)
    return f"D {d:.2f} G {g:+.2f}"


def _distance(event: Event) -> str:
    if "frechet" not in event:
        return ""
    return f"distance {event['frechet']:.3g}" + (" (best so far)" if event.get("best") else "")


def _speed(event: Event) -> str:
    return f"{event.get('images_per_second', 0):.0f} images/s"


def _words(event: Event) -> str:
    if event["event"] == "rolled back":
        return f"non-finite updates: back to step {event['step']}, at half the learning rate"
    return str(event.get("text") or " ".join(f"{k}={v}" for k, v in event.items()))
