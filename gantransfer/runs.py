"""A run directory: what it records, how a run starts in it, and how it is taken up again.

``config.yaml`` alone rebuilds everything: source, data, method, schedule. `api` fills it from arguments.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gantransfer.methods  # noqa: F401  (registers the methods)
from gantransfer.config import field_names, from_mapping, read_yaml
from gantransfer.data import ImageData
from gantransfer.errors import GanTransferError, ModelError, OutputError, UsageError, did_you_mean
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Method, Plan, Target
from gantransfer.registry import architectures, methods
from gantransfer.sources import GAN
from gantransfer.trainer import Hooks, Schedule, Trainer
from gantransfer.weights import read_json, write_json, write_text


@dataclass(frozen=True)
class Job:
    """Everything a run is made from.

    Attributes:
        kind: "adapt" or "pretrain". source: name or directory of the source ("" in pre-training). others: of further
            sources.
        arch, network: architecture and its settings, in pre-training only.
        data: arguments of `ImageData`. method: its name. fields: its hyper-parameters.
        measure: what evaluation uses: features, n_fake, metrics; empty for none.
    """

    kind: str
    source: str
    data: dict[str, Any]
    method: str
    fields: dict[str, Any] = field(default_factory=dict)
    loss: AdversarialLoss = field(default_factory=AdversarialLoss)
    schedule: Schedule = field(default_factory=Schedule)
    measure: dict[str, Any] = field(default_factory=dict)
    arch: str = "biggan"
    network: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    others: tuple[str, ...] = ()

    def to_config(self, gan: GAN | Sequence[GAN]) -> dict[str, Any]:
        """The resolved configuration as written to ``config.yaml``; `gan`: the source, or all of several."""
        gans = [gan] if isinstance(gan, GAN) else list(gan)
        source, *others = [{"name": name, "sha256": g.sha256, "arch": g.arch, "num_classes": len(g.classes),
                            "classes": g.classes} for name, g in zip((self.source, *self.others), gans, strict=True)]
        if others:
            source["others"] = others
        if self.kind == "pretrain":
            source = {"name": "", "arch": self.arch, "network": self.network}
        return {
            "format_version": 1, "kind": self.kind, "command": self.command, "source": source, "data": self.data,
            "method": {"name": self.method, **self.fields}, "loss": asdict(self.loss),
            "train": asdict(self.schedule), "measure": self.measure,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Job:
        """The inverse of `to_config` (UsageError for a file that somebody broke)."""
        try:
            source, method = dict(config["source"]), dict(config["method"])
            return cls(
                kind=config["kind"], source=source["name"], data=dict(config["data"]), method=method.pop("name"),
                fields=method, loss=from_mapping(AdversarialLoss, config["loss"], "config.yaml: loss"),
                schedule=from_mapping(Schedule, config["train"], "config.yaml: train"),
                measure=dict(config["measure"]), arch=source["arch"], network=dict(source.get("network", {})),
                command=config.get("command", ""),
                others=tuple(str(other["name"]) for other in source.get("others", ())),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, GanTransferError):
                raise
            raise UsageError(f"the run's config.yaml lacks {error} or has something else there; restore the file as "
                             "the run wrote it") from None

    def record(self, gan: GAN | Sequence[GAN], data: ImageData) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues; JSON-ready. Names and places may
        change where a hash says that the content is the same."""
        config = self.to_config(gan)
        source = {k: v for k, v in config["source"].items() if k not in ("name", "others")}
        if self.others:
            source["others"] = [other["sha256"] for other in config["source"]["others"]]
        images = {k: v for k, v in config["data"].items() if k != "path"}
        kept = {k: config[k] for k in ("kind", "method", "loss", "train", "measure")}
        record = {**kept, "source": source, "data": {**images, "fingerprint": data.fingerprint}}
        return json.loads(json.dumps(record))


@dataclass
class Parts:
    """A job's objects, ready to train. `gan` is the source, of several the first; `gans`: all of them."""

    job: Job
    gan: GAN
    data: ImageData
    target: Target
    method: Method
    trainer: Trainer
    gans: Sequence[GAN] = ()


def make_method(name: str, fields: Mapping[str, Any]) -> Method:
    """The method called `name` with `fields` over its defaults.

    Raises:
        UsageError: an unknown field or choice, or a number out of its range: all are finite and not negative, scales
            positive, Adam's betas below 1.
    """
    method = from_mapping(methods[name], fields, f"method {name}")
    for key, value in asdict(method).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if "scale" in key:
            good, allowed = value > 0, "a positive number"
        elif key.startswith("beta"):
            good, allowed = 0 <= value < 1, "0 or more and below 1"
        else:
            good, allowed = value >= 0, "0 or more"
        if not (good and math.isfinite(value)):
            raise UsageError(f"method {name}: {key} {value} is not possible; give {allowed}")
    return method


def refuse_incomplete(config: Mapping[str, Any]) -> None:
    """A setting that a ``config.yaml`` does not mention would train on with this version's default, which the run may
    not have started with (UsageError)."""
    parts = {"method": methods[config["method"]["name"]], "loss": AdversarialLoss, "train": Schedule}
    for part, cls in parts.items():
        lacking = [name for name in field_names(cls) if name not in config[part]]
        if lacking:
            raise UsageError(f"config.yaml has no {part}.{lacking[0]}, as another version of gantransfer wrote it; add "
                             "the value the run was started with, or resume with that version")


def checked_network(arch: str, network: Mapping[str, Any]) -> dict[str, Any]:
    """A user's `network` settings with shorthands written out (UsageError for settings of no possible network)."""
    try:
        written_out = architectures[arch].expand(network)
        from_mapping(architectures[arch].config_class, written_out, f"architecture {arch}")
    except ModelError as error:
        raise UsageError(str(error)) from None
    return written_out


def blank_source(arch: str, network: Mapping[str, Any], classes: list[str]) -> GAN:
    """A freshly initialised GAN of the given architecture: what pre-training starts from."""
    entry = architectures[arch]
    config = from_mapping(entry.config_class, network, f"architecture {arch}")
    return GAN(entry.build_generator(config), entry.build_discriminator(config), arch=arch,
               classes=classes or None)


def target_of(data: ImageData) -> Target:
    """What a method may know of the data."""
    classes = tuple(data.classes) if data.labelled else ()
    return Target(len(data), classes, data.size, data.channels)


def as_seen(method: Method, data: ImageData) -> ImageData:
    """`data` as `method` tells its images apart: several classes are one for a method that reads no labels."""
    return data if getattr(method, "reads_labels", True) or len(data.classes) == 1 else data.unlabelled()


def assemble(job: Job, out: Path, gan: GAN | Sequence[GAN], data: ImageData, hooks: Hooks) -> Parts:
    """Build generator, plan and trainer of a job; `gan`: its source, or all of several."""
    gans = [gan] if isinstance(gan, GAN) else list(gan)
    method = make_method(job.method, job.fields)
    data = as_seen(method, data)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    shown = job.schedule.batch_size * job.schedule.accumulate * job.loss.d_steps * world
    if hasattr(method, "in_images"):
        method = method.in_images(shown)
    target = target_of(data)
    generator = method.reshape(gans, target)
    plan = method.plan(generator, gans, target, job.loss)
    plan = replace(plan, notes=(*plan.notes, *unreached(plan, job.schedule.steps, shown)))
    trainer = Trainer(generator, plan, data, job.schedule, out, hooks, lambda: job.record(gans, data))
    return Parts(job, gans[0], data, target, method, trainer, gans)


def unreached(plan: Plan, steps: int, shown: int) -> list[str]:
    """A sentence for every stage of `plan` that begins after `steps` iterations of `shown` images."""
    return [
        f"never begun: phase {phase.name} of {', '.join(phase.updates)}: it begins at {phase.start_nimg} images and "
        f"the run shows {steps * shown} ({steps} iterations of {shown}); give more steps, or a shorter stage before it"
        for phase in plan.phases if phase.start_nimg >= steps * shown
    ]


def refuse_occupied(out: Path) -> None:
    """UsageError for an `out` that exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"output '{out}' exists and is not empty; choose another --out, or continue it with "
                         f"'gantransfer resume {out}'")


def create_directory(out: Path) -> None:
    """Make `out`; an existing non-empty one is refused (UsageError), an unwritable place is OutputError."""
    refuse_occupied(out)
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create '{out}' ({error.strerror}); choose another folder") from None


def write_records(parts: Parts, out: Path) -> None:
    """``config.yaml``, ``env.json`` and ``data.json`` of a new run."""
    import yaml

    config = parts.job.to_config(parts.gans)
    config["plan"] = list(parts.trainer.plan.notes)
    write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), out / "config.yaml")
    write_json(environment(parts.trainer.device), out / "env.json")
    fingerprint = parts.trainer.record()["data"]["fingerprint"]
    write_json({**parts.data.report, "fingerprint": fingerprint}, out / "data.json")


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.yaml`` of a run directory (ModelError if `path` is none, UsageError if it is broken)."""
    file = Path(path) / "config.yaml"
    if not file.is_file():
        raise ModelError(f"'{path}' is no run directory (no config.yaml); give the --out of an earlier run")
    return read_yaml(file)


def finished(out: Path, job: Job) -> bool:
    """Whether the run in `out` has done all that `job` asks for, and did not diverge in its last iterations."""
    if not (out / "result.json").is_file():
        return False
    result = read_json(out / "result.json")
    return "diverged" not in result and int(result.get("steps", 0)) >= job.schedule.steps


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects on the whole lines of a ``.jsonl`` file (a run that goes on, or was killed, may have left half a
    line at the end); empty if it is absent."""
    if not path.is_file():
        return []
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [json.loads(line) for line in whole if line.strip()]


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions and machine, for the record."""
    import gantransfer

    return {
        "gantransfer": gantransfer.__version__, "torch": torch.__version__, "python": platform.python_version(),
        "platform": platform.platform(), "cpu": _cpu_name(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "device": str(device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def command_line() -> str:
    """The command that is running, as typed in a shell."""
    import shlex

    program = Path(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]]) if program == "gantransfer" else ""


TRACKERS = {"tensorboard": ("TensorBoardTracker", "tb"), "wandb": ("WandBTracker", "wandb")}


def check_trackers(names: str) -> list[str]:
    """The trackers of a comma list, known and installed (UsageError otherwise)."""
    chosen = [n.strip() for n in names.split(",") if n.strip()]
    for name in chosen:
        if name not in TRACKERS:
            raise UsageError(f"tracker '{name}' does not exist{did_you_mean(name, TRACKERS)}; "
                             f"have: {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"tracker '{name}' is not installed: pip install 'gantransfer[{TRACKERS[name][1]}]'")
    return chosen


def open_trackers(names: str, folder: Path) -> list[Any]:
    """accelerate's trackers for a comma list of "tensorboard" and "wandb"."""
    from accelerate import tracking

    opened = []
    for name in check_trackers(names):
        options = {"logging_dir": str(folder)} if name == "tensorboard" else {}
        tracker = getattr(tracking, TRACKERS[name][0])(folder.name if name == "wandb" else "tensorboard", **options)
        if hasattr(tracker, "start"):
            tracker.start()
        opened.append(tracker)
    return opened


def count_parameters(network: nn.Module) -> int:
    """Number of parameter entries."""
    return sum(p.numel() for p in network.parameters())
