"""Which pre-trained GAN to start from: the evidence that exists before any adaptation, and an order.

Paper: Wang et al., "Transferring GANs: generating images from limited data", ECCV 2018, section 4.4: the distance of a
source's *generated* images to the target's real ones (Table 5), beside the source's own quality, and of the source's
*real* images to the target's (Table A1), both "rough indicators". Ours: how much of the target the source covers
already (recall and coverage), and a mined probe: how far a brief run of MineGAN's miner, with the generator fixed,
closes the distance.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantransfer import runs
from gantransfer.api import Progress, adapt
from gantransfer.data import ImageData
from gantransfer.errors import DataError, ModelError, UsageError, writing
from gantransfer.features import Extractor, load_features
from gantransfer.metrics import Comparison, FeatureSet, collect
from gantransfer.metrics import protocol as protocol_of
from gantransfer.registry import metrics
from gantransfer.report.formatting import finite
from gantransfer.report.reading import RunFiles, as_rows
from gantransfer.results import Run, as_gan, check_data_options
from gantransfer.sampling import channels_last, grid, sampler
from gantransfer.sources import GAN

EVIDENCE = ("frechet", "kid", "precision", "recall", "coverage")
ORDERING = ("frechet", "coverage", "probe")
SHOWN = 24  # samples of a source in its grid
OWN = "own"
FEWEST = 8  # images of the target: fewer say nothing at all
CAN = ("The distance compares what a source draws now with the target (TransferGAN, Table 5); coverage, like recall, "
       "says how much of the target lies near something that it draws, which a later study found to foretell the "
       "outcome best (Grigoryev, Voynov, Babenko, ICLR 2022); the order is by the mean of the ranks of distance and "
       "coverage, and of the probe's where there is one.")
CANNOT = (
    "None of this has been adapted: it says where adaptation starts, not where it ends. In the paper's Table 5 the "
    "smallest distance named the best source for three targets of four, and was wrong for the one whose sources all "
    "ended close together (Cityscapes).",
    "In this library's own study (six sources of glyphs, three targets; results/transfergan) no column foretold the "
    "order beyond chance; to know it, adapt from the first few: `sources: {a: ..., b: ...}` in a plan of "
    "`gantransfer compare`.",
    "A source's own quality and its real images are shown and do not count: the first is seldom measured with the same "
    "protocol, the second leaves out what the generator lost.",
    "Differences within the spread of two draws are none. Features that do not know the target's kind of image can be "
    "blind to what matters in it.",
)


def rank_sources(
    sources: Sequence[GAN | Run | str | Path], data: ImageData | str | Path, *,
    data_options: Mapping[str, Any] | None = None, features: str = "glyph-cnn", n_fake: int | None = None,
    seed: int = 0, source_data: Sequence[str | Path | ImageData | None] = (), probe: int = 0,
    out: str | Path | None = None, progress: Progress | None = None,
) -> dict[str, Any]:
    """Order sources by how near they are to the target, with the evidence of each.

    Args:
        sources: two or more of what `gantransfer.load` takes, or GANs, of one resolution and number of channels.
        data: the target's images; their classes are not used. A path takes `data_options` as `adapt` does.
        features: what sees the images. n_fake: samples of each source and draw; None: as many as there are target
            images, 1000 to 5000.
        seed: of the samples; two draws are made, and their difference is the spread.
        source_data: for each source its real images, `OWN` for those that its run was trained on, or None.
        probe: iterations of a mined probe (`minegan` without fine-tuning) of every source; 0: none.
        out: HTML page to write, with samples of every source.
        progress: called with {"event": "message", "text"}.

    Returns:
        JSON-ready dict: target, protocol, floor, ordered_by, sources (best first), says [sentence], warnings
        [sentence]. Each source: name, rank, mean_rank, told_apart (from the next: the distances differ by more than
        their spreads), frechet, frechet_spread, kid, precision, recall, coverage, own ({frechet, protocol} or None),
        real_frechet, probe ({steps, frechet, closes} or None), classes, resolution, channels. Values that cannot be
        had are None.

    Raises:
        UsageError: fewer than two sources, one named twice, `source_data` of another length. ModelError: a source that
            cannot be loaded, or sources of different resolution or channels. DataError: too few target images.
    """
    names = _names(sources)
    if source_data and len(source_data) != len(names):
        raise UsageError(f"source_data names {len(source_data)} data sets for {len(names)} sources; give one for each, "
                         "or None")
    if probe < 0:
        raise UsageError(f"probe {probe} is not possible; give 0 for none, or iterations, for example 100")
    if n_fake is not None and n_fake < 2:
        raise UsageError(f"n_fake={n_fake} generated images cannot be measured; take at least 2, better 1000")
    check_data_options(data_options, "size", "channels")
    extractor = load_features(features)
    gans = [as_gan(source) for source in sources]
    size, channels = _common_shape(names, gans)
    images = data if isinstance(data, ImageData) else ImageData(data, size=size, channels=channels,
                                                               **(data_options or {}))
    if (images.size, images.channels) != (size, channels):
        raise DataError(f"the images are {images.size} px with {images.channels} channel(s), the sources draw {size} "
                        f"px with {channels}; load them with these")
    if len(images) < FEWEST:
        raise DataError(f"{len(images)} target images are too few to compare sources with; give at least {FEWEST}")
    if out is not None:  # refused now, not after minutes of measuring
        with writing(out):
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=Path(out).parent).close()
    of_sources = [None if given is None else _real_images(given, name, source, size, channels)
                  for given, name, source in zip(source_data or [None] * len(names), names, sources, strict=True)]
    say = (lambda text: progress({"event": "message", "text": text})) if progress else (lambda text: None)
    with collect.untouched_rng():
        measured = _Target(images, extractor, n_fake, seed)
        rows, grids = [], {}
        for name, gan, source, theirs in zip(names, gans, sources, of_sources, strict=True):
            say(f"measuring {name}")
            row, fake = measured.evidence(gan)
            own = _known_quality(source, gan, measured.warnings)
            if theirs is not None:
                row["real_frechet"], own = measured.beside_real(theirs, fake)
            row |= {"name": name, "own": own, "classes": gan.generator.num_classes, "resolution": size,
                    "channels": channels}
            if probe:
                say(f"mining {name} for {probe} iterations")
                row["probe"] = _probe(name, gan, images, measured, probe, seed, fake)
            grids[name] = _samples(gan, seed)
            rows.append(row)
    ordered_by = _order(rows)
    result = {
        "target": {"path": str(images.settings["path"]), "images": len(images)}, "protocol": measured.protocol,
        "floor": measured.floor, "ordered_by": ordered_by, "sources": rows, "says": [CAN, *CANNOT],
        "warnings": measured.warnings,
    }
    if out is not None:
        from gantransfer.report.choice import write_choice

        spread = torch.linspace(0, len(images) - 1, min(SHOWN, len(images))).long()  # the set is sorted by class
        target = channels_last(images.images(spread))
        write_choice(result, {"": grid(target, 8), **grids}, Path(out))
    return result


def _names(sources: Sequence[GAN | Run | str | Path]) -> list[str]:
    """What the sources are called: their names, else their numbers (UsageError for fewer than two, or one twice)."""
    if isinstance(sources, (str, Path, GAN, Run)) or len(sources) < 2:
        raise UsageError("ranking needs two sources or more; name them all with --sources A,B")
    names = []
    for number, source in enumerate(sources, 1):
        if isinstance(source, GAN):
            names.append(source.origin or str(source.card.get("name") or f"source {number}"))
        else:
            names.append(str(source.path if isinstance(source, Run) else source))
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"source '{name}' is named twice; name every source once")
    return names


def _common_shape(names: Sequence[str], gans: Sequence[GAN]) -> tuple[int, int]:
    """Resolution and channels of all sources (ModelError if they differ: features of images of different size say
    nothing of each other)."""
    shapes = [(gan.config["resolution"], gan.config["channels"]) for gan in gans]
    if len(set(shapes)) > 1:
        told = "; ".join(f"{name}: {size} px, {channels} channel(s)"
                         for name, (size, channels) in zip(names, shapes, strict=True))
        raise ModelError(f"sources of different size cannot be ranked, their distances are not comparable ({told}); "
                         "rank those of one size at a time")
    return shapes[0]


class _Target:
    """The target's features, and sources measured against them under one protocol."""

    def __init__(self, images: ImageData, extractor: Extractor, n_fake: int | None, seed: int) -> None:
        self.extractor, self.seed, self.warnings = extractor, seed, []
        self.real = collect.features_of_data(images.unlabelled() if images.labelled else images, extractor)
        self.n_fake = min(max(len(self.real), 1000), 5000) if n_fake is None else n_fake
        self.protocol = protocol_of(extractor, len(self.real), self.n_fake, seed, "given images")
        first, second = collect.halves(self.real.labels)
        self.floor = self.value("frechet", self.real.subset(first), self.real.subset(second))

    def value(self, name: str, real: FeatureSet, fake: FeatureSet) -> float | None:
        try:
            return float(metrics[name].compute(Comparison(real, fake, ("all",), (-1,), self.seed)))
        except DataError as error:
            self.warnings.append(f"{name} was left out ({error})")
            return None

    def drawn(self, gan: GAN, seed: int) -> FeatureSet:
        """Features of `n_fake` samples, of classes drawn uniformly."""
        draw, classes = sampler(gan.generator), gan.generator.num_classes

        def sample(labels: Tensor, seed: int) -> Tensor:
            rng = torch.Generator().manual_seed(seed)
            return draw(torch.randint(max(classes, 1), labels.shape, generator=rng), seed)

        return collect.features_of_samples(sample, torch.zeros(self.n_fake, dtype=torch.int64), seed, self.extractor)

    def evidence(self, gan: GAN) -> tuple[dict[str, Any], FeatureSet]:
        """One source's figures, means over two draws, and the features of the first."""
        draws = [self.drawn(gan, self.seed + i) for i in range(2)]
        row: dict[str, Any] = {"real_frechet": None, "probe": None}
        for name in EVIDENCE:
            values = [self.value(name, self.real, fake) for fake in draws]
            row[name] = None if None in values else sum(values) / 2
            if name == "frechet" and row[name] is not None:
                row["frechet_spread"] = abs(values[0] - values[1])
        if row["frechet"] is None:
            raise DataError(f"no distance to the target can be computed: {self.warnings[-1]}")
        return row, draws[0]

    def beside_real(self, images: ImageData, fake: FeatureSet) -> tuple[float | None, dict[str, Any]]:
        """Distance of a source's real images to the target, and its own quality measured with them."""
        images = images.unlabelled() if images.labelled else images
        own = collect.features_of_data(images, self.extractor)
        protocol = protocol_of(self.extractor, len(own), self.n_fake, self.seed, "given images")
        return (self.value("frechet", self.real, own),
                {"frechet": self.value("frechet", own, fake), "protocol": protocol})


def _run_folders(source: GAN | Run | str | Path) -> list[Path]:
    """The directory of the pre-training run that a source is the model of; none for another source."""
    known = source.origin if isinstance(source, GAN) else source.path if isinstance(source, Run) else source
    place = Path(known)
    if not str(known) or not place.is_dir():
        return []
    places = (place, place.parent) if place.name == "model" else (place,)
    return [folder for folder in places if (folder / "model").is_dir()]


def _real_images(data: str | Path | ImageData, name: str, source: GAN | Run | str | Path, size: int,
                 channels: int) -> ImageData:
    """A source's real images in the sources' size and channels.

    Raises:
        DataError: images of another size or channels, or none to be found for `OWN`.
    """
    if isinstance(data, ImageData):
        if (data.size, data.channels) != (size, channels):
            raise DataError(f"the real images of {name} are {data.size} px with {data.channels} channel(s), the "
                            f"sources draw {size} px with {channels}; load them with these")
        return data
    if str(data) != OWN:
        return ImageData(data, size=size, channels=channels)
    for folder in _run_folders(source):
        if (folder / "config.yaml").is_file():
            return ImageData(**runs.Job.from_config(runs.read_config(folder)).data)
    raise DataError(f"source '{name}' is no pre-training run's, so that its own images are not known; give their path, "
                    "or '-'")


def _known_quality(source: GAN | Run | str | Path, gan: GAN, warnings: list[str]) -> dict[str, Any] | None:
    """The distance that a source's own run or card has on record, with its protocol; what cannot be read is told in
    `warnings`."""
    if finite(gan.card.get("frechet")):
        return {"frechet": gan.card["frechet"], "protocol": gan.card.get("protocol")}
    for folder in _run_folders(source):
        files = RunFiles(folder)
        result = files.json("result.json")
        warnings += [f"{folder}: {note}" for note in files.notes]
        for row in as_rows(result.get("rows")):
            if row.get("metric") == "frechet" and finite(row.get("after")):
                return {"frechet": row["after"], "protocol": result.get("protocol")}
    return None


def _probe(name: str, gan: GAN, images: ImageData, measured: _Target, steps: int, seed: int,
           before: FeatureSet) -> dict[str, Any] | None:
    """The distance after `steps` iterations of mining alone, and by what share that is nearer than samples `before` of
    the same seed; None, with a warning, for a source that cannot be mined."""
    if gan.discriminator is None:
        measured.warnings.append(f"{name} has no discriminator and was not probed, so that the order is without probes")
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = adapt(gan, images, "minegan", Path(folder) / "probe", finetune=False, steps=steps, seed=seed,
                        evaluate=False)
        except ModelError as error:
            measured.warnings.append(f"{name} was not probed ({error}), so that the order is without probes")
            return None
        after, start = (measured.value("frechet", measured.real, features)
                        for features in (measured.drawn(run.gan, seed), before))
    return {"steps": steps, "frechet": after, "closes": None if None in (after, start) else 1 - after / start}


def _samples(gan: GAN, seed: int) -> Any:
    """A picture of samples, of classes spread over all."""
    classes = max(gan.generator.num_classes, 1)
    spread = [i * classes // SHOWN if classes > SHOWN else i % classes for i in range(SHOWN)]
    return grid(gan.sample(SHOWN, spread if gan.generator.num_classes else None, seed), 8)


def _order(rows: list[dict[str, Any]]) -> list[str]:
    """Sort `rows`, best first, by their mean rank over the columns that all have; returns these columns' names."""
    values = {"frechet": [row["frechet"] for row in rows],
              "coverage": [None if row["coverage"] is None else -row["coverage"] for row in rows],
              "probe": [row["probe"] and row["probe"]["frechet"] for row in rows]}
    used = [name for name in ORDERING if None not in values[name]]
    for i, row in enumerate(rows):
        places = [1 + sum(v < values[name][i] for v in values[name])
                  + (sum(v == values[name][i] for v in values[name]) - 1) / 2 for name in used]
        row["mean_rank"] = sum(places) / len(places)
    rows.sort(key=lambda row: (row["mean_rank"], row["frechet"]))
    for i, row in enumerate(rows):
        row["rank"] = i + 1
        later = rows[i + 1] if i + 1 < len(rows) else None
        row["told_apart"] = later is None or (abs(later["frechet"] - row["frechet"])
                                              > later["frechet_spread"] + row["frechet_spread"])
    return used
