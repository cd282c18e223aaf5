"""Using what a run made: load it, merge or extend, evaluate, look inside."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gantransfer import adapter as adapters
from gantransfer import runs
from gantransfer.config import from_mapping
from gantransfer.data import ImageData
from gantransfer.errors import DataError, ModelError, UsageError, did_you_mean
from gantransfer.sampling import sampler
from gantransfer.sources import GAN
from gantransfer.weights import read_tensors


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


Sources = GAN | Run | str | Path | Sequence[GAN | Run | str | Path]  # what `as_gans` takes


def job_source(job: runs.Job, folder: Path) -> GAN:
    """The GAN that the run in `folder` started from (of several the first): its own copy, the named source, or a blank
    one."""
    if job.kind == "pretrain":
        network = {k: v for k, v in job.network.items() if k != "name"}
        classes = ImageData(**job.data).classes if network["num_classes"] else []
        return runs.blank_source(job.arch, network, list(classes))
    local = folder / "source"
    return load(local if local.is_dir() else job.source)


def job_sources(job: runs.Job, folder: Path) -> list[GAN]:
    """All GANs that the run in `folder` started from."""
    found = [job_source(job, folder)]
    for number, name in enumerate(job.others, 2):
        local = folder / f"source{number}"
        found.append(load(local if local.is_dir() else name))
    return found


def source_of(folder: str | Path) -> GAN:
    """The GAN that the run in `folder` started from."""
    return job_source(runs.Job.from_config(runs.read_config(Path(folder))), Path(folder))


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
        return merge(job_sources(job, folder), folder)
    return GAN.from_pretrained(name)


def as_gan(source: GAN | Run | str | Path) -> GAN:
    """The GAN that `source` is or names (see `load`), in plain modules."""
    if isinstance(source, Run):
        return source.gan
    return source.plain() if isinstance(source, GAN) else load(source)


def source_names(source: str) -> list[str]:
    """The names in a comma list of sources; a path that exists is one name, whatever it holds."""
    names = [name.strip() for name in source.split(",") if name.strip()]
    return [source] if names and Path(source).exists() else names


def as_gans(source: Sources) -> list[GAN]:
    """One source or several: a list of what `as_gan` takes, or a comma list of names (UsageError for none)."""
    if isinstance(source, str):
        source = source_names(source)
    found = [as_gan(one) for one in (source if isinstance(source, (list, tuple)) else [source])]
    if not found:
        raise UsageError("no source was given; name at least one with --source")
    return found


def merge(gan: Sources, adapter: str | Path) -> GAN:
    """The adapted GAN as a model of its own: target classes only, plain modules, the same images.

    Args:
        gan: the adapter's source; of several all in their order, or the first (the others are then loaded by the names
            that the adapter has for them).

    Raises:
        ModelError: the adapter belongs to another source, or is damaged.
    """
    given, loaded = as_gans(gan), adapters.read_adapter(adapter)
    wanted = 1 + len(loaded.others)
    if len(given) not in (1, wanted):
        raise UsageError(f"adapter '{loaded.path}' was made from {wanted} source(s) and {len(given)} were given; give "
                         "them all in their order, or the first")
    first, *others = given
    if len(others) < len(loaded.others):
        others = [load(name) for name, _ in loaded.others]
    generator = adapters.rebuild(first, loaded, others)
    names = ", ".join([loaded.source_name, *(name for name, _ in loaded.others)])
    card = {"name": f"{names} adapted by {loaded.method}", "base_sha256": loaded.source_sha256}
    if others:
        card["other_sha256"] = [sha256 for _, sha256 in loaded.others]
    arch = getattr(generator, "arch", getattr(first.generator, "base_arch", first.arch))
    return GAN(generator, arch=arch, classes=list(loaded.target.classes) or None, card=card)


def extend(gan: GAN | str | Path, *adapter_dirs: str | Path, rename: Mapping[str, str] | None = None) -> GAN:
    """`gan` with the classes of one or more adapters added. Old classes are bit-identical to `gan`'s in a
    batch of the same size, whatever classes share it.

    Args:
        rename: new names for adapters' classes that exist already, in `gan` or in an adapter before theirs.

    Raises:
        UsageError: a class name twice; no adapter. ModelError: an adapter of another source, a damaged one, or one
            that changed weights which the old classes use (`merge` takes it).
    """
    extended = as_gan(gan)
    if not adapter_dirs:
        raise UsageError("no adapter was given; name at least one run directory or adapter directory")
    loaded = [adapters.read_adapter(folder) for folder in adapter_dirs]
    for adapter, names in zip(loaded, adapters.new_names(extended, loaded, rename or {}), strict=True):
        extended = adapters.extend(extended, adapter, names)
    return extended


def check_data_options(options: Mapping[str, Any] | None, *given: str) -> None:
    """Refuse what `ImageData` does not take, or what is `given` by the source."""
    names = [name for name in signature(ImageData).parameters if name not in ("path", *given)]
    for key in options or {}:
        if key not in names:
            why = " (it is the source's)" if key in given else did_you_mean(key, names)
            raise UsageError(f"data has no setting '{key}'{why}; have: {', '.join(names)}")


def evaluate(
    gan: GAN | Run | str | Path, data: ImageData | str | Path, *, data_options: Mapping[str, Any] | None = None,
    metrics: Sequence[str] | str | None = None, features: str = "glyph-cnn", n_fake: int | None = None, seed: int = 0,
    part: str = "report", device: str = "cpu", trained: Sequence[str] | str = (),
    budget: Mapping[str, int] | None = None, progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Compare a GAN's samples with real images; see `gantransfer.metrics.evaluate` for the result.

    What a run was trained on is known from its records: with its own data, and no other choice of them, the reference
    is what the run held out; with any other data an overlap is noticed.

    Args:
        part: which held-out images are the reference: "report" or "select"; where none are held out, the data
            themselves.
        device: where samples and features are computed.
        trained: measures for which networks are trained, on the CPU, "iw" and "classifier"; they stand under
            ``trained`` in the result. budget: fields of `gantransfer.trained_measures.Budget`, where that says more.
    """
    from gantransfer import trained_measures
    from gantransfer.metrics import evaluate as measure

    trained = trained_measures.checked(trained)
    chosen_budget = from_mapping(trained_measures.Budget, budget or {}, "budget")

    check_data_options(data_options, "size", "channels")
    training, gan = _trained_on(gan), as_gan(gan)
    generator, options = gan.generator, dict(data_options or {})
    if isinstance(data, ImageData):
        images = data
    elif training is not None and not options and _same_place(training.settings["path"], data):
        images = training
    else:
        images = ImageData(data, size=gan.config["resolution"], channels=gan.config["channels"], **options)
    if not generator.num_classes and len(images.classes) > 1:  # a model without classes draws none of them
        images, training = images.unlabelled(), training and training.unlabelled()
    if not images.labelled and generator.num_classes > 1:
        raise DataError(f"'{images.settings['path']}' is a flat folder and this model has {generator.num_classes} "
                        "classes: name the images' class with --class-name NAME")
    reference = images.held_out(part)
    if training is None and reference is not None:
        training = images  # the layout says so
    elif training is not None and training.classes != images.classes:
        known = set(images.classes) <= set(training.classes)
        training = training.class_subset(images.classes) if known else None
    if str(device) != "cpu":
        generator = copy.deepcopy(generator).to(device)  # the caller's stays where it is
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

    reference = images if reference is None else reference
    trained_measures.refuse_few(trained, reference, n_fake)
    found = measure(draw, reference, metrics=metrics, features=features, n_fake=n_fake, seed=seed, training=training,
                    device=device, progress=progress)
    if trained:
        found["trained"] = trained_measures.measure(trained, draw, reference, training, n_fake=n_fake, seed=seed,
                                                    budget=chosen_budget, progress=progress)
    return found


def _trained_on(source: GAN | Run | str | Path) -> ImageData | None:
    """The images that a run was trained on, if it is one and they are still there."""
    folder = source.path if isinstance(source, Run) else None if isinstance(source, GAN) else Path(source)
    if folder is None or not (folder / "config.yaml").is_file():
        return None
    try:
        return ImageData(**runs.Job.from_config(runs.read_config(folder)).data)
    except DataError:
        return None


def _same_place(a: str, b: str | Path) -> bool:
    return str(a) == str(b) or Path(a).expanduser().resolve() == Path(b).expanduser().resolve()


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
                **_of_several(loaded),
                "tensors": {k: list(t.shape) for k, t in loaded.tensors.items()},
                "bytes": sum(t.numel() * t.element_size() for t in loaded.tensors.values())}
    return {"kind": "model", **GAN.from_pretrained(path).summary()}


def _of_several(loaded: adapters.Adapter) -> dict[str, Any]:
    """What an adapter of several sources says of them."""
    if not loaded.others:
        return {}
    found: dict[str, Any] = {"other_sources": [{"name": name, "sha256": sha256} for name, sha256 in loaded.others]}
    return found | ({"p": loaded.tensors["p"].tolist()} if "p" in loaded.tensors else {})


def report(run_dir: str | Path) -> Path:
    """Write (again) the HTML report of a run directory and return its path."""
    from gantransfer.report import write_report

    runs.read_config(Path(run_dir))
    return write_report(Path(run_dir))
