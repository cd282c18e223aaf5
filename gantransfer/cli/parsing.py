"""From the words of a command line, and a YAML file under them, to checked settings.

Not argparse: flags come from three places (the verb's table, the chosen method's dataclass, YAML), and an unknown
name in any of them shall be refused with the nearest valid one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gantransfer.cli.flags import CONFIG, FALSE, TRACEBACK, TRUE, Flag, Verb, convert, plain_kind
from gantransfer.cli.runconfig import flatten
from gantransfer.config import read_yaml
from gantransfer.errors import UsageError, did_you_mean
from gantransfer.shipped import PRESETS, preset_names

NEGATIVE = re.compile(r"-(\d|\.\d|inf$|nan$).*")


class Words:
    """The command line of one verb, split: `given` (name, text) pairs in order, `rest` positional words.

    Boolean flags need no value: ``--x``, ``--x false``, ``--x=false`` and ``--no-x`` all work. A flag's name is
    resolved late (`flags`), because the method that owns it may itself be among the words.
    """

    def __init__(self, words: Sequence[str], flags: Iterable[Flag], command: str) -> None:
        self.command = command
        self.known = {flag.name: flag for flag in flags}
        self.shorts = {flag.short: flag for flag in self.known.values() if flag.short}
        self.given: list[tuple[str, str]] = []
        self.rest: list[str] = []
        self.unknown: list[str] = []
        queue = list(words)
        while queue:
            word = queue.pop(0)
            if word == "--":
                self.rest += queue
                break
            if word in self.shorts:
                self._flag(self.shorts[word].name, "", queue)
            elif word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                self._flag(name.replace("-", "_"), equals + value, queue)
            elif word.startswith("-") and len(word) > 1:
                raise UsageError(f"{command} has no flag '{word}'; see '{command} --help'")
            else:
                self.rest.append(word)

    def _flag(self, name: str, value: str, queue: list[str]) -> None:
        negated = name[3:] if name.startswith("no_") and name not in self.known else ""
        if negated and plain_kind(getattr(self.known.get(negated), "kind", None)) is bool:
            self.given.append((negated, "false"))
            return
        flag = self.known.get(name)
        if flag is None:
            self.unknown.append(name)
            if not value and queue and NEGATIVE.fullmatch(queue[0]):
                queue.pop(0)  # its value, not a flag
            return
        if value:
            self.given.append((name, value[1:]))
        elif plain_kind(flag.kind) is bool:
            explicit = bool(queue) and queue[0].lower() in TRUE + FALSE
            self.given.append((name, queue.pop(0) if explicit else "true"))
        elif queue and not (queue[0].startswith("--") and len(queue[0]) > 2):
            self.given.append((name, queue.pop(0)))
            while flag.words and queue and (queue[0] == "-" or not queue[0].startswith("-")):
                self.given.append((name, queue.pop(0)))
        else:
            raise UsageError(f"{flag.option} needs a value ({flag.help}); see '{self.command} --help'")

    def last(self, name: str) -> str | None:
        """The last value given for `name`."""
        return next((text for key, text in reversed(self.given) if key == name), None)


def all_flags(verb: Verb) -> list[Flag]:
    """The verb's own flags and the general ones."""
    return [*verb.flags, *([CONFIG] if verb.layered else []), TRACEBACK]


def parse(verb: Verb, words: Sequence[str]) -> dict[str, Any]:
    """The settings given for `verb`, by name; what was not given is absent.

    Raises:
        UsageError: an unknown or missing name, or a value of the wrong type.
    """
    command = f"gantransfer {verb.name}"
    flags = all_flags(verb)
    split = Words(words, flags, command)
    if split.unknown and not verb.fields:
        _refuse_unknown(split, flags, verb, command)
    config = _config(_config_file(verb, split, command)) if verb.layered else {}
    own = {flag.name for flag in flags} | {argument.name for argument in verb.arguments if not argument.config}
    if verb.fields and (split.unknown or set(config) - own):
        known_so_far = {**config, **dict(split.given)}
        flags += [flag for flag in verb.fields(known_so_far) if flag.name not in own]
        split = Words(words, flags, command)
    if split.unknown:
        _refuse_unknown(split, flags, verb, command)
    settings = {**_from_config(verb, config, flags), **_from_words(split), **_positional(verb, split.rest, command)}
    if verb.layered:  # else it is the verb's own flag
        settings.pop("config", None)
    settings.pop("traceback", None)
    _require(verb, settings, command)
    return settings


def _refuse_unknown(split: Words, flags: Sequence[Flag], verb: Verb, command: str) -> None:
    raise UsageError(f"{command} has no flag '--{split.unknown[0].replace('_', '-')}'"
                     f"{_hint(split.unknown[0], flags, verb, split.last('method'))}; see '{command} --help'")


def _config_file(verb: Verb, split: Words, command: str) -> Path | None:
    """The YAML file of ``--config``, or of the positional argument that stands for it (which may name a preset)."""
    given = split.last("config")
    if not (split.rest and any(argument.config for argument in verb.arguments)):
        return None if given is None else Path(given)
    name = split.rest[0]
    if given is not None:
        raise UsageError(f"{command} has two plans, '{name}' and --config '{given}'; give one")
    if name in preset_names() and not Path(name).exists():
        return PRESETS / f"{name}.yaml"
    if not Path(name).is_file():
        near = did_you_mean(name, preset_names())
        raise UsageError(f"plan '{name}' is neither a file nor a published experiment{near}; "
                         f"have: {', '.join(preset_names())}")
    return Path(name)


def _config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    content = flatten(read_yaml(path), path)
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _hint(name: str, flags: Sequence[Flag], verb: Verb, method: str | None) -> str:
    if verb.fields is not None:
        from gantransfer.cli.fields import owner

        if other := owner(name):
            return f" with method {method or 'cgantransfer'}: it belongs to method {other}"
    near = did_you_mean(name.replace("_", "-"), [flag.name.replace("_", "-") for flag in flags])
    return near.replace("mean '", "mean '--")


def _from_config(verb: Verb, config: dict[str, Any], flags: Sequence[Flag]) -> dict[str, Any]:
    known = {flag.name: flag for flag in flags if flag.name not in ("config", "traceback")}
    known |= {a.name: Flag(a.name, a.help, list[str] if a.many else str) for a in verb.arguments if not a.config}
    settings = {}
    for name, value in config.items():
        if name not in known:
            hint = _hint(name, list(known.values()), verb, config.get("method")).replace("'--", "'")
            raise UsageError(f"the config has a key '{name}' that 'gantransfer {verb.name}' does not know{hint}")
        settings[name] = convert(known[name], value, f"{name} in the config")
    return settings


def _from_words(split: Words) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, text in split.given:
        flag = split.known[name]
        value = convert(flag, text, flag.option)
        settings[name] = [*settings.get(name, []), *value] if flag.repeat or flag.words else value
    return settings


def _positional(verb: Verb, rest: Sequence[str], command: str) -> dict[str, Any]:
    queue, settings = list(rest), {}
    for argument in verb.arguments:
        if argument.config:
            queue = queue[1:]  # read already
            continue
        if argument.many:
            taken, queue = queue, []
        else:
            taken = queue[:1]
            queue = queue[1:]
        if taken:
            settings[argument.name] = taken if argument.many else taken[0]
    if queue:
        names = " ".join(a.name.upper() for a in verb.arguments) or "no arguments, only flags"
        raise UsageError(f"'{queue[0]}' is one argument too many: {command} takes {names}; see '{command} --help'")
    return settings


def _require(verb: Verb, settings: dict[str, Any], command: str) -> None:
    for argument in verb.arguments:
        if argument.name not in settings and not argument.config:
            raise UsageError(f"{command} needs {argument.name.upper()} ({argument.help}); see '{command} --help'")
    helps = {flag.name: flag for flag in verb.flags}
    for name in verb.required:
        if name not in settings:
            flag = helps[name]
            raise UsageError(f"{command} needs {flag.option} ({flag.help}); see '{command} --help'")
