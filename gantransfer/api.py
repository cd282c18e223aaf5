"""The library's verbs: starting runs here, using their results in `gantransfer.results`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gantransfer import runs
from gantransfer.config import field_names, from_mapping
from gantransfer.data import ImageData
from gantransfer.defaults import Training
from gantransfer.errors import DataError, DivergedError, ModelError, UsageError, did_you_mean
from gantransfer.features import load_features
from gantransfer.finish import Evaluator, finish
from gantransfer.losses import AdversarialLoss
from gantransfer.pictures import class_grid, real_grid, released_grid
from gantransfer.plan import Method, Target
from gantransfer.processes import processor_threads
from gantransfer.registry import architectures, methods
from gantransfer.results import Run, Sources, as_gans, check_data_options, job_sources, load_run, source_names
from gantransfer.results import evaluate as evaluate
from gantransfer.results import extend as extend
from gantransfer.results import inspect as inspect
from gantransfer.results import load as load
from gantransfer.results import merge as merge
from gantransfer.results import report as report
from gantransfer.shipped import data_names
from gantransfer.sources import GAN, shipped_models
from gantransfer.trainer import Hooks
from gantransfer.weights import write_json

Progress = Callable[[dict[str, Any]], None]
_TRAINING = set(field_names(Training))
MEASURING = ("evaluate", "features", "n_fake", "track")
NO_TRAINING = (*MEASURING, "progress", "out")  # of `adapt`, beside its settings


# ---- starting a run --------------------------------------------------------------------------------------


def adapt(
    source: Sources, data: ImageData | str | Path, method: str = "cgantransfer",
    out: str | Path | None = None, *, data_options: Mapping[str, Any] | None = None, features: str = "glyph-cnn",
    n_fake: int | None = None, evaluate: bool = True, track: str = "", progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Adapt a pre-trained GAN to images.

    Args:
        source: a GAN, a shipped name, the directory of a model or a run, or a hub id; for a method that takes several
            a list of them, or names with commas.
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
    training, fields = split_settings(settings, method, "adapt")
    measure = measure_of(evaluate, features, n_fake, track)
    check_data_options(data_options, "size", "channels")
    folder = _out(out, method)
    gans = as_gans(source)
    check_fit(gans, method, fields)
    images = target_images(data, data_options, gans[0], runs.make_method(method, fields))
    training = as_source_was_trained(training, gans, method, fields)
    given = source_names(source) if isinstance(source, str) else source
    given = given if isinstance(given, (list, tuple)) else [given]
    pairs = enumerate(zip(gans, given, strict=True), 1)
    names = [_source_name(gan, one, folder, number) for number, (gan, one) in pairs]
    job = job_of("adapt", names, images, method, fields, training, measure)
    return _train(job, gans, images, folder, progress, new=True)


def pretrain(
    data: ImageData | str | Path, out: str | Path | None = None, *, arch: str = "biggan",
    network: Mapping[str, Any] | None = None, data_options: Mapping[str, Any] | None = None, name: str = "",
    published: bool = False, features: str = "glyph-cnn", n_fake: int | None = None, evaluate: bool = True,
    track: str = "", progress: Progress | None = None, **settings: Any,
) -> Run:
    """Train a GAN from random weights and write it, with its critic, to ``out/model``.

    Args:
        published: train as the architecture's paper did, where no setting here says otherwise; without it all
            architectures train by this library's rates and rhythm (see `gantransfer.defaults`), only the loss and the
            weight of R1 are the architecture's.
        network: settings of the architecture, or ``g_ch`` and ``d_ch`` for the official tables' widths; number of
            classes, size and channels come from the data.
        name: of the model, for its card. Others: as in `adapt`; the method's fields are scratch's.
    """
    if published:
        settings = {**getattr(architectures[arch], "published", {}), **settings}
    training, fields = split_settings(settings, "scratch", "pretrain")
    measure = measure_of(evaluate, features, n_fake, track)
    check_data_options(data_options)
    folder = _out(out, "pretrain")
    network = dict(network or {})
    options = {"size": network.get("resolution", 32), "channels": network.get("channels"), **(data_options or {})}
    size = data.size if isinstance(data, ImageData) else options["size"]
    if size is not None:  # wrong settings come before wrong data
        runs.checked_network(arch, {**network, "channels": network.get("channels") or 1, "resolution": size})
    images = data if isinstance(data, ImageData) else ImageData(data, **options)
    network |= {"resolution": images.size, "channels": images.channels,
                "num_classes": len(images.classes) if images.labelled else 0}
    network = runs.checked_network(arch, network)
    gan = runs.blank_source(arch, network, list(images.classes) if images.labelled else [])
    training = _with_loss(training, gan)
    job = job_of("pretrain", [""], images, "scratch", fields, training, measure)
    job = replace(job, arch=arch, network={**network, "name": name})
    return _train(job, [gan], images, folder, progress, new=True)


def resume(path: str | Path, *, progress: Progress | None = None) -> Run:
    """Continue an interrupted run from its newest checkpoint; a finished one is returned as it is.

    Raises:
        ModelError: no run, no whole checkpoint. UsageError: ``config.yaml``, source or images are no longer those
            the run was started with; only ``train.steps`` may grow, also for a finished run.
    """
    folder = Path(path)
    config = runs.read_config(folder)
    job = runs.Job.from_config(config)
    if runs.finished(folder, job):
        if not (folder / "report.html").is_file():  # killed between the two
            report(folder)
        return load_run(folder)
    runs.refuse_incomplete(config)
    gans, images = job_sources(job, folder), ImageData(**job.data)
    return _train(job, gans, images, folder, progress, new=False)


def plan(
    source: Sources, data: ImageData | str | Path, method: str = "cgantransfer", *,
    data_options: Mapping[str, Any] | None = None, **settings: Any,
) -> dict[str, Any]:
    """What `adapt` would do with these arguments: the resolved configuration, what is copied or newly
    initialised, and how many parameters each group trains. Nothing is written."""
    training, fields = split_settings(of_training(settings), method, "adapt")
    check_data_options(data_options, "size", "channels")
    gans = as_gans(source)
    check_fit(gans, method, fields)
    images = target_images(data, data_options, gans[0], runs.make_method(method, fields))
    training = as_source_was_trained(training, gans, method, fields)
    names = [str(one) for one in source] if isinstance(source, (list, tuple)) else source_names(str(source))
    job = job_of("adapt", names, images, method, fields, training, {})
    parts = runs.assemble(job, Path(), gans, images, Hooks())
    groups = {n: sum(p.numel() for p in g.params) for n, g in parts.trainer.plan.groups.items()}
    return {**job.to_config(gans), "plan": list(parts.trainer.plan.notes), "trained_parameters": groups,
            "generator_parameters": sum(runs.count_parameters(gan.generator) for gan in gans), "images": len(images)}


def of_measuring(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `adapt`'s keyword arguments that `measure_of` takes."""
    return {key: settings[key] for key in MEASURING if key in settings}


def of_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `adapt`'s keyword arguments that `split_settings` takes."""
    return {key: value for key, value in settings.items() if key not in NO_TRAINING}


def split_settings(settings: Mapping[str, Any], method: str, kind: str) -> tuple[Training, dict[str, Any]]:
    """Training settings and the method's fields; anything else is refused with the nearest name, and so are
    values that no data could make right."""
    own = field_names(methods[method])
    training = from_mapping(Training, {k: v for k, v in settings.items() if k in _TRAINING}, "training")
    fields = {k: v for k, v in settings.items() if k not in _TRAINING}
    for key in fields:
        if key not in own:
            names = sorted({*own, *_TRAINING})
            owner = next((m for m in methods if key in field_names(methods[m])), None)
            hint = f" (method '{owner}' has it)" if owner else ""
            raise UsageError(f"method '{method}' has no setting '{key}'{hint}{did_you_mean(key, names)}; "
                             f"have: {', '.join(own)}")
    for key, reason in getattr(methods[method], "unused", {}).items():
        if settings.get(key) is not None:
            raise UsageError(f"method '{method}' has no use for '{key}': {reason}; leave it out")
    runs.make_method(method, fields)
    training.resolve(100, kind)
    return training, fields


def check_fit(gan: GAN | Sequence[GAN], method: str, fields: Mapping[str, Any]) -> None:
    """Refuse a source (or several) that the method cannot start from before any image is read: try it on a stand-in
    target."""
    gans = [gan] if isinstance(gan, GAN) else list(gan)
    config = gans[0].config
    chosen = runs.make_method(method, fields)
    labelled = getattr(chosen, "reads_labels", config["num_classes"])
    stand_in = Target(2, ("a", "b") if labelled else (), config["resolution"], config["channels"])
    if hasattr(chosen, "in_images"):
        chosen = chosen.in_images(1)
    if hasattr(chosen, "on_stand_in"):
        chosen = chosen.on_stand_in()
    chosen.plan(chosen.reshape(gans, stand_in), gans, stand_in, AdversarialLoss())


def needs_labels(method: Method | None) -> bool:
    """Whether `method` cannot do without the target's classes; None: any, and so no."""
    return method is not None and getattr(method, "needs_labels", getattr(method, "reads_labels", True))


def as_source_was_trained(training: Training, gans: Sequence[GAN], method: str, fields: Mapping[str, Any]) -> Training:
    """`training` with the loss filled in where none was asked for: what the critic was trained with for a method that
    says whose critic it takes, else the default."""
    chosen = runs.make_method(method, _seeded(fields, method, training))
    if not hasattr(chosen, "critic_source"):
        return training
    return _with_loss(training, chosen.critic_source(gans))


def _with_loss(training: Training, gan: GAN) -> Training:
    """`training` with the loss that `gan`'s critic was trained with and its weight of R1, unless it asks for another
    loss; of a blank one, what its architecture was published with."""
    known = gan.trained_with
    if training.loss not in (None, known["loss"]):
        return training
    gamma = known.get("r1_gamma") if training.r1_gamma is None else training.r1_gamma
    return replace(training, loss=known["loss"], r1_gamma=gamma)


def _seeded(fields: Mapping[str, Any], method: str, training: Training) -> dict[str, Any]:
    """`fields` with the run's seed for what is newly drawn, unless they have one."""
    return {"init_seed": training.seed, **fields} if "init_seed" in field_names(methods[method]) else dict(fields)


def _out(out: str | Path | None, name: str) -> Path:
    if out is None:
        numbers = (Path("runs") / f"{name}-{i}" for i in range(1, 10**6))
        return next(folder for folder in numbers if not folder.exists())
    folder = Path(out)
    runs.refuse_occupied(folder)
    return folder


def target_images(
    data: ImageData | str | Path, options: Mapping[str, Any] | None, gan: GAN, method: Method | None = None
) -> ImageData:
    """The target's images in the source's size, and in its channels unless `method` wants others."""
    config = gan.config
    channels = method.image_channels(config) if hasattr(method, "image_channels") else config["channels"]
    if isinstance(data, ImageData):
        if (data.size, data.channels) != (config["resolution"], channels):
            grey = " (or give grey)" if (data.channels, channels) == (1, 3) and hasattr(method, "grey") else ""
            raise DataError(f"the images are {data.size} px with {data.channels} channel(s), and this run trains on "
                            f"{config['resolution']} px with {channels}; load them so{grey}")
        images = data
    else:
        images = ImageData(data, size=config["resolution"], channels=channels, **(options or {}))
    if needs_labels(method) and not images.labelled and config["num_classes"]:
        without = ", or adapt without classes (--conditioning none)" if hasattr(method, "conditioning") else ""
        raise DataError(f"'{images.settings['path']}' is a flat folder and this source is conditional: name its class "
                        f"with --class-name NAME, or sort the images into one folder per class{without}")
    return images


def measure_of(
    evaluate: bool = True, features: str = "glyph-cnn", n_fake: int | None = None, track: str = ""
) -> dict[str, Any]:
    """How a run measures and where it reports, checked."""
    runs.check_trackers(track)
    if evaluate:
        load_features(features)
        name, colon, place = features.partition(":")
        if colon:  # resuming works from any directory
            features = f"{name}:{Path(place).expanduser().resolve()}"
        if n_fake is not None and n_fake < 2:
            raise UsageError(f"n_fake={n_fake} generated images cannot be measured; take at least 2, better 1000")
    measure: dict[str, Any] = {"features": features, "n_fake": n_fake} if evaluate else {}
    return {**measure, "track": track} if track else measure


def job_of(kind: str, sources: Sequence[str], images: ImageData, method: str, fields: dict[str, Any],
           training: Training, measure: dict[str, Any]) -> runs.Job:
    """Everything a run is made from; `sources`: names of its sources, in order."""
    if training.eval_nimg is None and getattr(methods[method], "slow_to_sample", False):
        training = replace(training, eval_nimg=0)  # at the start and at the end
    schedule, loss = training.resolve(len(images), kind)
    full = asdict(runs.make_method(method, _seeded(fields, method, training)))
    full |= {name: _absolute(full[name]) for name in getattr(methods[method], "files", ()) if full[name]}
    data, place = dict(images.settings), Path(images.settings["path"]).expanduser()
    if data["path"] not in data_names() and place.exists():
        data["path"] = str(place.resolve())  # resuming works from any directory
    return runs.Job(kind, sources[0], data, method, full, loss, schedule, measure,
                    command=runs.command_line(), others=tuple(sources[1:]))


def _absolute(text: str) -> str:
    """A file, or KIND:FILE, so that it is found from any directory; a kind alone stays."""
    kind, colon, place = text.rpartition(":")
    path = Path(place).expanduser()
    return f"{kind}{colon}{path.resolve()}" if path.exists() else text


def _source_name(gan: GAN, source: GAN | Run | str | Path, folder: Path, number: int = 1) -> str:
    """A name that `GAN.from_pretrained` finds again; a GAN without one is saved beside the run's files."""
    if isinstance(source, GAN):
        return source.origin or str(_beside(folder, number))
    if isinstance(source, Run):
        return str(source.path.resolve())
    return str(Path(source).resolve()) if Path(source).is_dir() and str(source) not in shipped_models() else str(source)


def _beside(folder: Path, number: int) -> Path:
    """Where a run keeps its source `number` if that has no name."""
    return folder / ("source" if number == 1 else f"source{number}")


# ---- running it ------------------------------------------------------------------------------------------


def _train(
    job: runs.Job, gans: Sequence[GAN], images: ImageData, folder: Path, progress: Progress | None, new: bool
) -> Run:
    with processor_threads(job.schedule.threads), ExitStack() as closing:
        return _train_here(job, gans, images, folder, _reporter(job, folder, progress, closing), new)


def _train_here(
    job: runs.Job, gans: Sequence[GAN], images: ImageData, folder: Path, report_event: Progress, new: bool
) -> Run:
    images = runs.as_seen(runs.make_method(job.method, job.fields), images)
    evaluator = Evaluator(images, job.measure) if job.measure.get("features") else None
    hooks = Hooks(
        evaluate=evaluator.select if evaluator else None,
        snapshot=_snapshots(job, folder),
        released=lambda generator, step: released_grid(generator, folder / "samples"),
        report=report_event,
    )
    parts = runs.assemble(job, folder, gans, images, hooks)
    trainer = parts.trainer
    if evaluator:
        evaluator.device = trainer.device
    if new:
        trainer.processes.wait()  # every process has seen that nothing was there
    if trainer.rank == 0 and new:
        runs.create_directory(folder)
        for number, (gan, name) in enumerate(zip(gans, (job.source, *job.others), strict=True), 1):
            if job.kind == "adapt" and name == str(_beside(folder, number)):
                gan.save_pretrained(name)
        runs.write_records(parts, folder)
        grid_info = {"classes": images.classes[:40], "columns": 8}
        write_json(grid_info, folder / "samples" / "classes.json")
        real_grid(images, folder / "samples" / "real.png")
    if not new:
        trainer.restore()
    if trainer.rank == 0:
        hooks.report({"event": "start", "steps": job.schedule.steps, "step": trainer.progress.step,
                      "out": str(folder), "plan": list(trainer.plan.notes)})
        of_images = [f"images: {sentence}" for sentence in images.report["conversions"]]
        for sentence in of_images if new else ():
            hooks.report({"event": "message", "text": sentence})
    try:
        trainer.run()
    except DivergedError as error:
        with suppress(DataError, ModelError):  # of samples that cannot be measured any more
            finish(parts, folder, evaluator, hooks.report, diverged=str(error))
        raise
    finish(parts, folder, evaluator, hooks.report)
    return load_run(folder)


def _snapshots(job: runs.Job, folder: Path) -> Callable[[Any, int], None]:
    """Writes a picture of samples; between start and end none of a method that is slow to sample."""
    slow = getattr(methods[job.method], "slow_to_sample", False)

    def picture(generator: Any, step: int) -> None:
        if not slow or step in (0, job.schedule.steps):
            class_grid(generator, folder / "samples" / f"step-{step:06d}.png")

    return picture


def _reporter(job: runs.Job, folder: Path, progress: Progress | None, closing: ExitStack) -> Progress:
    """Passes events on to `progress` and to the run's trackers, which `closing` finishes."""
    trackers: list[Any] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            trackers.extend(runs.open_trackers(job.measure.get("track", ""), folder))
            for tracker in trackers:
                closing.callback(tracker.finish)
        numbers = {k: v for k, v in event.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        for tracker in trackers:
            if event["event"] in ("trained", "evaluated"):
                tracker.log(numbers, step=event["step"])
        if progress is not None:
            progress(event)

    return report
