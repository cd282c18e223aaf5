"""The help texts, made from the verbs' tables."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection, Iterable, Sequence

from gantransfer.cli.flags import Flag, Verb, kind_name, plain_kind
from gantransfer.cli.parsing import all_flags

INDENT = 26


def overview(verbs: Iterable[Verb], version: str) -> str:
    """What ``gantransfer --help`` prints."""
    lines = [f"gantransfer {version}: adapt a pre-trained GAN to a few images", "",
             "usage: gantransfer VERB [flags]        gantransfer VERB --help shows examples", ""]
    chapter = None
    for verb in verbs:
        if verb.chapter != chapter:
            chapter = verb.chapter
            lines += [f"{chapter}:"]
        lines += _entry(verb.name, verb.summary, 16)
    lines += ["", "start with: gantransfer demo"]
    return "\n".join(lines)


def of_group(word: str, verbs: Sequence[Verb]) -> str:
    """What ``gantransfer WORD --help`` prints for the first word of several verbs."""
    lines = [f"gantransfer {word} is followed by one of:", ""]
    for verb in verbs:
        lines += _entry(verb.name, verb.summary, 16)
    return "\n".join([*lines, "", f"gantransfer {verbs[0].name} --help shows its flags"])


def of_verb(verb: Verb, fields: Sequence[Flag] = (), unused: Collection[str] = ()) -> str:
    """What ``gantransfer VERB --help`` prints; `fields`: flags of the chosen method, which has no use for those called
    `unused`."""
    words = [f"[{a.name.upper()}]" if a.config else a.name.upper() + (f" [{a.name.upper()} ...]" if a.many else "")
             for a in verb.arguments]
    by_name = {flag.name: flag for flag in verb.flags}
    words += [f"{by_name[name].option} {kind_name(by_name[name])}" for name in verb.required]
    usage = " ".join(["gantransfer", verb.name, *words, "[flags]"])
    lines = [f"gantransfer {verb.name}: {verb.summary}", "", f"usage: {usage}", "", "examples:"]
    lines += [f"  {example}" for example in verb.examples]
    if verb.arguments:
        lines += ["", "arguments:"]
        for argument in verb.arguments:
            lines += _entry(argument.name.upper(), argument.help, INDENT)
    groups: dict[str, list[Flag]] = {}
    mine = [flag for flag in all_flags(verb) if flag.name not in unused]
    first = [flag for flag in mine if flag.group == "flags"]
    for flag in [*first, *fields, *(flag for flag in mine if flag.group != "flags")]:
        groups.setdefault(flag.group, []).append(flag)
    for group, flags in groups.items():
        lines += ["", f"{group}:"]
        for flag in flags:
            lines += _entry(_left(flag), _right(flag), INDENT)
    if verb.fields_help and not fields:
        lines += ["", verb.fields_help]
    return "\n".join(lines)


def _left(flag: Flag) -> str:
    short = f"{flag.short}, " if flag.short else ""
    if plain_kind(flag.kind) is bool and flag.default is True:
        return f"--no-{flag.option[2:]}"
    return f"{short}{flag.option} {kind_name(flag)}".rstrip()


def _right(flag: Flag) -> str:
    text = flag.help
    if plain_kind(flag.kind) is bool and flag.default is True:
        text = f"turn off: {text}"
    elif flag.default is not None and flag.default is not False and flag.default not in ("", ()) \
            and "(default" not in text:
        value = ",".join(map(str, flag.default)) if isinstance(flag.default, (tuple, list)) else flag.default
        text += f" (default: {value:g})" if isinstance(value, float) else f" (default: {value})"
    return text + (" (may be repeated)" if flag.repeat else "")


def _entry(left: str, right: str, indent: int) -> list[str]:
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))
    lines = textwrap.wrap(right, width - indent) or [""]
    pad = " " * indent
    if len(left) + 4 > indent:
        return [f"  {left}", *(pad + line for line in lines)]
    return [f"  {left}".ljust(indent) + lines[0], *(pad + line for line in lines[1:])]
