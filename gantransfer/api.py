"""The library's verbs: adapt, pretrain, resume, load, evaluate, extend, merge, inspect."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gantransfer import adapter as adapters
from gantransfer import runs
from gantransfer.config import from_mapping
from gantransfer.data import ImageData
from gantransfer.defaults import Training
from gantransfer.errors import DataError, ModelError, UsageError, did_you_mean
from gantransfer.features import load_features
from gantransfer.finish import Evaluator, finish
from gantransfer.pictures import class_grid, real_grid
from gantransfer.registry import methods
from gantransfer.sampling import sampler
from gantransfer.shipped import data_names
from gantransfer.sources import GAN, shipped_models
from gantransfer.trainer import Hooks
from gantransfer.weights import read_tensors, write_json

Progress = Callable[[dict[str, Any]], None]
_TRAINING = {f.name for f in Training.__dataclass_fields__.values()}


@dataclass
class Run:
    """A finished run.

    Attributes:
        path: its directory. gan: the adapted GAN (best EMA generator, target classes).
        metrics: every evaluation, as in ``metrics.jsonl``. result: the final table, as in ``result.json``.
    """

    path: Path
    gan: GAN
    metrics: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def generator(self) -> nn.Module:
        return self.gan.generator

    @property
    def classes(self) -> list[str]:
        return self.gan.classes


# ---- starting a run --------------------------------------------------------------------------------------


def adapt(
    source: GAN | str | Path, data: ImageData | str | Path, method: str = "cgantransfer",
    out: str | Path | None = None, *, data_options: Mapping[str, Any] | None = None, features: str = "glyph-cnn",
    n_fake: int | None = None, evaluate: bool = True, track: str = "", progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Adapt a pre-trained GAN to images.

    Args:
        source: a GAN, a shipped name, a directory or a hub id.
        data: images with classes; see `ImageData`. A path takes `data_options` (its keyword arguments); size and
            channels are the source's.
        method: a name from `gantransfer.registry.methods`.
        out: new run directory; None makes ``runs/<method>-<n>``.
        features, n_fake: how checkpoints are compared and the result is measured; ``evaluate=False``: not at all.
        track: "tensorboard" or "wandb" (extras), beside the JSONL files.
        progress: called with a dict at every log line and evaluation.
        settings: training settings (`gantransfer.defaults.Training`) and the method's own fields.

    Raises:
        UsageError, ModelError, DataError: checked in that order, before anything is written.
        DivergedError, OutputError, Interrupted: during training; everything up to there is kept.
    """
    training, fields = _split_settings(settings, method, "adapt")
    measure = _measure(evaluate, features, n_fake, track)
    _check_data_options(data_options, "size", "channels")
    folder = _out(out, method)
    gan = source if isinstance(source, GAN) else GAN.from_pretrained(source)
    images = _images(data, data_options, gan, method)
    job = _job("adapt", _source_name(gan, source, folder), images, method, fields, training, measure)
    return _train(job, gan, images, folder, progress, new=True)


def pretrain(
    data: ImageData | str | Path, out: str | Path | None = None, *, arch: str = "biggan",
    network: Mapping[str, Any] | None = None, data_options: Mapping[str, Any] | None = None, name: str = "",
    features: str = "glyph-cnn", n_fake: int | None = None, evaluate: bool = True, track: str = "",
    progress: Progress | None = None, **settings: Any,
) -> Run:
    """Train a GAN from random weights and write it, with its critic, to ``out/model``.

    Args:
        network: settings of the architecture; number of classes, size and channels come from the data.
        name: of the model, for its card. Others: as in `adapt`; the method's fields are scratch's.
    """
    training, fields = _split_settings(settings, "scratch", "pretrain")
    measure = _measure(evaluate, features, n_fake, track)
    _check_data_options(data_options)
    folder = _out(out, "pretrain")
    network = dict(network or {})
    options = {"size": network.get("resolution", 32), "channels": network.get("channels"), **(data_options or {})}
    images = data if isinstance(data, ImageData) else ImageData(data, **options)
    network |= {"resolution": images.size, "channels": images.channels,
                "num_classes": len(images.classes) if images.labelled else 0}
    gan = runs.blank_source(arch, network, list(images.classes) if images.labelled else [])
    job = _job("pretrain", "", images, "scratch", fields, training, measure)
    job = replace(job, arch=arch, network={**network, "name": name})
    return _train(job, gan, images, folder, progress, new=True)


def resume(path: str | Path, *, progress: Progress | None = None) -> Run:
    """Continue an interrupted run from its newest checkpoint; a finished one is returned as it is.

    Raises:
        ModelError: no run, no whole checkpoint. UsageError: ``config.yaml``, source or images are no longer those
            the run was started with; only ``train.steps`` may grow, also for a finished run.
    """
    folder = Path(path)
    job = runs.Job.from_config(runs.read_config(folder))
    if runs.finished(folder, job):
        return load_run(folder)
    gan, images = _job_source(job, folder), ImageData(**job.data)
    return _train(job, gan, images, folder, progress, new=False)


def plan(
    source: GAN | str | Path, data: ImageData | str | Path, method: str = "cgantransfer", *,
    data_options: Mapping[str, Any] | None = None, **settings: Any,
) -> dict[str, Any]:
    """What `adapt` would do with these arguments: the resolved configuration, what is copied or newly
    initialised, and how many parameters each group trains. Nothing is written."""
    for unused in ("features", "n_fake", "evaluate", "track", "progress", "out"):
        settings.pop(unused, None)
    training, fields = _split_settings(settings, method, "adapt")
    _check_data_options(data_options, "size", "channels")
    gan = source if isinstance(source, GAN) else GAN.from_pretrained(source)
    images = _images(data, data_options, gan, method)
    job = _job("adapt", str(source), images, method, fields, training, {})
    parts = runs.assemble(job, Path(), gan, images, Hooks())
    groups = {n: sum(p.numel() for p in g.params) for n, g in parts.trainer.plan.groups.items()}
    return {**job.to_config(gan), "plan": list(parts.trainer.plan.notes), "trained_parameters": groups,
            "generator_parameters": runs.count_parameters(gan.generator), "images": len(images)}


def _split_settings(settings: Mapping[str, Any], method: str, kind: str) -> tuple[Training, dict[str, Any]]:
    """Training settings and the method's fields; anything else is refused with the nearest name, and so are
    values that no data could make right."""
    own = methods[method].__dataclass_fields__
    training = from_mapping(Training, {k: v for k, v in settings.items() if k in _TRAINING}, "training")
    fields = {k: v for k, v in settings.items() if k not in _TRAINING}
    for key in fields:
        if key not in own:
            names = sorted({*own, *_TRAINING})
            owner = next((m for m in methods if key in methods[m].__dataclass_fields__), None)
            hint = f" (method '{owner}' has it)" if owner else ""
            raise UsageError(f"method '{method}' has no setting '{key}'{hint}{did_you_mean(key, names)}; "
                             f"have: {', '.join(own)}")
    runs.make_method(method, fields)
    training.resolve(100, kind)
    return training, fields


def _check_data_options(options: Mapping[str, Any] | None, *given: str) -> None:
    """Refuse what `ImageData` does not take, or what is `given` by the source."""
    names = [name for name in signature(ImageData).parameters if name not in ("path", *given)]
    for key in options or {}:
        if key not in names:
            why = " (it is the source's)" if key in given else did_you_mean(key, names)
            raise UsageError(f"data has no setting '{key}'{why}; have: {', '.join(names)}")


def _out(out: str | Path | None, name: str) -> Path:
    if out is None:
        numbers = (Path("runs") / f"{name}-{i}" for i in range(1, 10**6))
        return next(folder for folder in numbers if not folder.exists())
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"output '{folder}' exists and is not empty; choose another --out, or continue it with "
                         f"'gantransfer resume {folder}'")
    return folder


def _images(data: ImageData | str | Path, options: Mapping[str, Any] | None, gan: GAN, method: str) -> ImageData:
    """The target's images in the source's size and channels."""
    config = gan.config
    if isinstance(data, ImageData):
        if (data.size, data.channels) != (config["resolution"], config["channels"]):
            raise DataError(f"the images are {data.size} px with {data.channels} channel(s), the source makes "
                            f"{config['resolution']} px with {config['channels']}; load them with these")
        images = data
    else:
        images = ImageData(data, size=config["resolution"], channels=config["channels"], **(options or {}))
    if not images.labelled and config["num_classes"]:
        raise DataError(f"'{images.settings['path']}' is a flat folder and this source is conditional: name its class "
                        "with --class-name NAME, or sort the images into one folder per class")
    return images


def _measure(evaluate: bool, features: str, n_fake: int | None, track: str) -> dict[str, Any]:
    """How a run measures and where it reports, checked."""
    runs.check_trackers(track)
    if evaluate:
        load_features(features)
        if n_fake is not None and n_fake < 2:
            raise UsageError(f"n_fake={n_fake} generated images cannot be measured; take at least 2, better 1000")
    measure: dict[str, Any] = {"features": features, "n_fake": n_fake} if evaluate else {}
    return {**measure, "track": track} if track else measure


def _job(kind: str, source: str, images: ImageData, method: str, fields: dict[str, Any], training: Training,
         measure: dict[str, Any]) -> runs.Job:
    schedule, loss = training.resolve(len(images), kind)
    full = asdict(runs.make_method(method, fields))
    data, place = dict(images.settings), Path(images.settings["path"]).expanduser()
    if data["path"] not in data_names() and place.exists():
        data["path"] = str(place.resolve())  # resuming works from any directory
    return runs.Job(kind, source, data, method, full, loss, schedule, measure,
                    command=runs.command_line())


def _source_name(gan: GAN, source: GAN | str | Path, folder: Path) -> str:
    """A name that `GAN.from_pretrained` finds again; a GAN without one is saved beside the run's files."""
    if isinstance(source, GAN):
        return source.origin or str(folder / "source")
    return str(Path(source).resolve()) if Path(source).is_dir() and str(source) not in shipped_models() else str(source)


def _job_source(job: runs.Job, folder: Path) -> GAN:
    if job.kind == "pretrain":
        network = {k: v for k, v in job.network.items() if k != "name"}
        classes = ImageData(**job.data).classes if network["num_classes"] else []
        return runs.blank_source(job.arch, network, list(classes))
    local = folder / "source"
    return GAN.from_pretrained(local if local.is_dir() else job.source)


# ---- running it ------------------------------------------------------------------------------------------


def _train(job: runs.Job, gan: GAN, images: ImageData, folder: Path, progress: Progress | None, new: bool) -> Run:
    evaluator = Evaluator(images, job.measure) if job.measure.get("features") else None
    hooks = Hooks(
        evaluate=evaluator.select if evaluator else None,
        snapshot=lambda generator, step: class_grid(generator, folder / "samples" / f"step-{step:06d}.png"),
        report=_reporter(job, folder, progress),
    )
    parts = runs.assemble(job, folder, gan, images, hooks)
    trainer = parts.trainer
    if new:
        trainer.processes.wait()  # every process has seen that nothing was there
    if trainer.rank == 0 and new:
        runs.create_directory(folder)
        if job.kind == "adapt" and job.source == str(folder / "source"):
            gan.save_pretrained(folder / "source")
        runs.write_records(parts, folder)
        grid_info = {"classes": images.classes[:40], "columns": 8}
        write_json(grid_info, folder / "samples" / "classes.json")
        real_grid(images, folder / "samples" / "real.png")
    if not new:
        trainer.restore()
    if trainer.rank == 0:
        hooks.report({"event": "start", "steps": job.schedule.steps, "step": trainer.progress.step,
                      "out": str(folder), "plan": list(trainer.plan.notes)})
    trainer.run()
    finish(parts, folder, evaluator, hooks.report)
    return load_run(folder)


def _reporter(job: runs.Job, folder: Path, progress: Progress | None) -> Progress:
    trackers: list[Any] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            trackers.extend(runs.open_trackers(job.measure.get("track", ""), folder))
        numbers = {k: v for k, v in event.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        for tracker in trackers:
            if event["event"] in ("trained", "evaluated"):
                tracker.log(numbers, step=event["step"])
        if progress is not None:
            progress(event)

    return report


# ---- using the result ------------------------------------------------------------------------------------


def load_run(path: str | Path) -> Run:
    """A finished run directory."""
    folder = Path(path)
    result = folder / "result.json"
    return Run(folder, load(folder), runs.read_lines(folder / "metrics.jsonl"),
               json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {})


def load(name: str | Path) -> GAN:
    """A shipped model, a model directory, a hub id, or the adapted GAN of a run directory."""
    folder = Path(name)
    if (folder / "model" / "config.json").is_file():
        return GAN.from_pretrained(folder / "model")
    if (folder / "config.yaml").is_file():
        if not (folder / "adapter" / "adapter_config.json").is_file():
            raise ModelError(f"run '{folder}' has no adapter yet; finish it with 'gantransfer resume {folder}'")
        job = runs.Job.from_config(runs.read_config(folder))
        return merge(_job_source(job, folder), folder)
    return GAN.from_pretrained(name)


def _gan(source: GAN | Run | str | Path) -> GAN:
    if isinstance(source, Run):
        return source.gan
    return source if isinstance(source, GAN) else load(source)


def merge(gan: GAN | str | Path, adapter: str | Path) -> GAN:
    """The adapted GAN as a model of its own: target classes only, plain modules, the same images.

    Raises:
        ModelError: the adapter belongs to another source, or is damaged.
    """
    gan, loaded = _gan(gan), adapters.read_adapter(adapter)
    generator = adapters.rebuild(gan, loaded)
    card = {"name": f"{loaded.source_name} adapted by {loaded.method}", "base_sha256": loaded.source_sha256}
    return GAN(generator, arch=gan.arch, classes=list(loaded.target.classes) or None, card=card)


def extend(gan: GAN | str | Path, *adapter_dirs: str | Path, rename: Mapping[str, str] | None = None) -> GAN:
    """`gan` with the classes of one or more adapters added; old classes are bit-identical in any batch.

    Args:
        rename: new names for adapters' classes that exist already, in `gan` or in an adapter before theirs.

    Raises:
        UsageError: a class name twice; no adapter. ModelError: an adapter of another source, a damaged one, or one
            that changed weights which the old classes use (`merge` takes it).
    """
    extended = _gan(gan)
    if not adapter_dirs:
        raise UsageError("no adapter was given; name at least one run directory or adapter directory")
    loaded = [adapters.read_adapter(folder) for folder in adapter_dirs]
    for adapter, names in zip(loaded, adapters.new_names(extended, loaded, rename or {}), strict=True):
        extended = adapters.extend(extended, adapter, names)
    return extended


def evaluate(
    gan: GAN | Run | str | Path, data: ImageData | str | Path, *, data_options: Mapping[str, Any] | None = None,
    metrics: Sequence[str] | str | None = None, features: str = "glyph-cnn", n_fake: int | None = None, seed: int = 0,
    part: str = "report", progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Compare a GAN's samples with real images; see `gantransfer.metrics.evaluate` for the result.

    Args:
        part: which held-out images are the reference: "report" or "select"; where none are held out, the data
            themselves.
    """
    from gantransfer.metrics import evaluate as measure

    _check_data_options(data_options, "size", "channels")
    gan = _gan(gan)
    images = data if isinstance(data, ImageData) else ImageData(
        data, size=gan.config["resolution"], channels=gan.config["channels"], **(data_options or {}))
    generator = gan.generator
    draw = sampler(generator)
    if images.labelled and generator.num_classes:
        unknown = [c for c in images.classes if c not in gan.classes]
        if unknown:
            raise UsageError(f"class '{unknown[0]}' of the data is not one of the model's ({len(unknown)} such); "
                             "choose classes with --classes")
        ids = torch.tensor([gan.classes.index(c) for c in images.classes])
        inner = draw

        def draw(labels: torch.Tensor, seed: int) -> torch.Tensor:
            return inner(ids[labels], seed)

    return measure(draw, images.held_out(part), metrics=metrics, features=features, n_fake=n_fake, seed=seed,
                   training=images, progress=progress)


def inspect(path: str | Path) -> dict[str, Any]:
    """What a model directory, shipped name, run, adapter or single checkpoint file holds."""
    folder = Path(path)
    if folder.is_file():
        tensors = read_tensors(folder)
        return {"kind": "checkpoint", "tensors": {k: list(t.shape) for k, t in tensors.items()},
                "entries": sum(t.numel() for t in tensors.values()),
                "dtypes": sorted({str(t.dtype) for t in tensors.values()})}
    if (folder / "config.yaml").is_file():
        config = runs.read_config(folder)
        lines = runs.read_lines(folder / "stats.jsonl")
        found: dict[str, Any] = {k: config[k] for k in ("command", "source", "method", "train")}
        found |= {"run_kind": config["kind"], "kind": "run", "finished": (folder / "result.json").is_file(),
                  "step": lines[-1]["step"] if lines else 0}
        if found["finished"]:
            found["result"] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return found
    if (folder / "adapter_config.json").is_file():
        loaded = adapters.read_adapter(folder)
        return {"kind": "adapter", "method": loaded.method, "fields": loaded.fields, "source": loaded.source_name,
                "source_sha256": loaded.source_sha256, "classes": list(loaded.target.classes),
                "tensors": {k: list(t.shape) for k, t in loaded.tensors.items()},
                "bytes": sum(t.numel() * t.element_size() for t in loaded.tensors.values())}
    return {"kind": "model", **GAN.from_pretrained(path).summary()}


def report(run_dir: str | Path) -> Path:
    """Write (again) the HTML report of a run directory and return its path."""
    from gantransfer.report import write_report

    runs.read_config(Path(run_dir))
    return write_report(Path(run_dir))

