"""The verbs about models as files: models, inspect, convert, extend, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantransfer.cli.screen import say, say_json, table
from gantransfer.errors import UsageError
from gantransfer.report.formatting import size

Settings = dict[str, Any]


def models(settings: Settings) -> None:
    """``gantransfer models``: what is shipped, without loading any weights."""
    import json

    from gantransfer import shipped
    from gantransfer.sources import SHIPPED, shipped_models

    found = []
    for name in shipped_models():
        meta = json.loads((SHIPPED / name / "config.json").read_text(encoding="utf-8"))
        bytes_ = sum(file.stat().st_size for file in (SHIPPED / name).iterdir())
        found.append({"name": name, "arch": meta["arch"], "resolution": meta["network"]["resolution"],
                      "channels": meta["network"]["channels"], "classes": meta["classes"], "bytes": bytes_,
                      "sha256": meta["sha256"], "card": meta.get("card", {})})
    if settings.get("json"):
        say_json({"models": found, "data": shipped.data_names()})
        return
    if not found:
        say("no models are shipped with this installation")
    for model in found:
        say(f"{model['name']}: {model['arch']}, {model['resolution']} px, {model['channels']} channel(s), "
            f"{len(model['classes'])} classes, {size(model['bytes'])}")
        say(f"    classes: {' '.join(model['classes'])}")
        for key in ("description", "license"):
            if model["card"].get(key):
                say(f"    {key}: {model['card'][key]}")
    say(f"data sets: {', '.join(shipped.data_names()) or 'none'}")
    say("anything else: a directory made by 'gantransfer pretrain', 'convert', 'merge' or 'extend'")


def inspect(settings: Settings) -> None:
    """``gantransfer inspect``."""
    from gantransfer import api
    from gantransfer.errors import ModelError
    from gantransfer.sources import shipped_models

    path = Path(settings["path"])
    if not path.exists() and path.suffix in (".pth", ".pt", ".safetensors", ".pkl"):
        raise ModelError(f"file '{path}' does not exist; check the path")
    found = api.inspect(settings["path"] if settings["path"] in shipped_models() else path if path.exists()
                        else settings["path"])
    if settings.get("json"):
        say_json(found)
        return
    if found["kind"] == "run":
        _print_run(found)
        return
    tensors = found.pop("tensors", None)
    for key, value in found.items():
        _entry(key, value)
    if tensors is not None:
        rows = [(name, " x ".join(map(str, shape)) or "scalar") for name, shape in sorted(tensors.items())]
        table(("tensor", "shape"), rows)


def _print_run(found: Settings) -> None:
    """The state of a run, its settings, and its result if there is one."""
    from gantransfer.cli.training import print_result

    where = "finished" if found["finished"] else "not finished"
    say(f"run: {found['run_kind']}, {where}, at step {found['step']} of {found['train']['steps']}")
    for key in ("command", "source", "method", "train"):
        _entry(key, found[key])
    if found["finished"]:
        print_result(found["result"])


def _entry(key: str, value: Any, indent: int = 0) -> None:
    """One ``name: value`` line; mappings and lists of mappings below each other."""
    pad = " " * indent
    if isinstance(value, dict) and value:
        say(f"{pad}{key}:")
        for inner, item in value.items():
            _entry(str(inner), item, indent + 2)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        say(f"{pad}{key}:")
        for item in value:
            say(f"{pad}  - {', '.join(f'{k} {v}' for k, v in item.items())}")
    else:
        text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        say(f"{pad}{key}: {'–' if text in (None, '', {}) else text}")


def convert(settings: Settings) -> None:
    """``gantransfer convert``."""
    import gantransfer as gt

    out = _new(settings.pop("out"))
    gan = gt.convert(**settings)
    for line in gan.notes:
        say(f"- {line}")
    gan.save_pretrained(out)
    which = "generator and discriminator" if gan.discriminator is not None else "generator only"
    say(f"{out}: {which}, {len(gan.classes)} classes, sha256 {gan.sha256[:12]}")


def extend(settings: Settings) -> None:
    """``gantransfer extend``."""
    from gantransfer import api

    out, rename = _new(settings["out"]), {}
    for pair in settings.get("rename", ()):
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--rename is '{pair}'; give OLD=NEW")
        rename[old] = new
    before = api.load(settings["model"])
    gan = api.extend(before, *settings["adapters"], rename=rename)
    gan.save_pretrained(out)
    added = gan.classes[len(before.classes) :]
    say(f"{out}: {len(before.classes)} old classes, untouched, and {len(added)} new ones: {' '.join(added)}")


def merge(settings: Settings) -> None:
    """``gantransfer merge``."""
    from gantransfer import api

    out = _new(settings["out"])
    gan = api.merge(settings["model"], settings["adapter"])
    gan.save_pretrained(out)
    say(f"{out}: {len(gan.classes)} classes: {' '.join(gan.classes)}")


def _new(out: str) -> Path:
    """A directory that is absent or empty (UsageError otherwise)."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"output '{folder}' exists and is not empty; choose another --out")
    return folder
