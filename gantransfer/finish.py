"""The end of a run: the best generator becomes an adapter, is measured on the reported split, and pictured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gantransfer import explanation, filter_analysis
from gantransfer import metrics as measuring
from gantransfer.adapter import save_adapter
from gantransfer.alarms import COPY_RATE, sample_alarms
from gantransfer.data import ImageData
from gantransfer.errors import writing
from gantransfer.features import Extractor, load_features
from gantransfer.modulation import fold
from gantransfer.pictures import (
    COLUMNS,
    adaptation,
    before_miners,
    class_grid,
    nearest_pictures,
    picked_grid,
    released_grid,
)
from gantransfer.runs import Parts
from gantransfer.sampling import sampler
from gantransfer.sources import GAN
from gantransfer.style_mixing import style_groups, style_picture
from gantransfer.trainer import Progress, Trainer
from gantransfer.weights import read_json, write_json

SELECT_SEED, REPORT_SEED = 1_000, 2_000
SELECT_FAKES = 1000
UNMEASURED = "random-conv"  # features of the memorisation check of a run that measures nothing
FEWEST_HELD_OUT = 8  # a distance to fewer images says nothing at all


class Evaluator:
    """Measures generators of one run, always under the same two protocols.

    `select` compares with the selection split during training; `report` with the reported one at the end. Where
    too few images were held out both use the training images, and the result says so.
    """

    def __init__(self, data: ImageData, measure: dict[str, Any]) -> None:
        self.data = data
        self.name = measure["features"]
        self.n_fake = measure.get("n_fake")
        self.device: str | torch.device = "cpu"
        # One object each for the whole run: what is remembered of a reference hangs on it.
        self.references = {part: _held_out(data, part) for part in ("select", "report")}

    @property
    def features(self) -> Extractor:
        """On `device`; loaded once."""
        return load_features(self.name, self.device)

    def select(self, generator: nn.Module, progress: Progress) -> dict[str, Any]:
        """The distance by which checkpoints are compared, as a line for ``metrics.jsonl``."""
        found = measuring.evaluate(
            sampler(generator), self.references["select"], metrics=self._measures(),
            features=self.features, n_fake=self.n_fake or SELECT_FAKES, seed=SELECT_SEED, training=self.data,
            floor=progress.step == 0, copies=True,
        )
        distance = found["metrics"]["frechet"]
        split = "select" if self.references["select"] is not None else "training"
        line = {"split": split, "frechet": distance, "protocol": found["protocol"], "selection": distance}
        line |= {k: v for k, v in (("variety", found["metrics"].get("variety")), ("copy_rate", found["copy_rate"]))
                 if v is not None}
        if alarms := sample_alarms(progress.watch, line.get("variety"), line.get("copy_rate")):
            line["alarms"] = alarms
        if found["floor"]:
            line["floor"] = found["floor"].get("frechet")
        return line

    def _measures(self) -> tuple[str, ...]:
        """The distance, and the variety where a class has two images to compare."""
        reference = self.references["select"] or self.data
        return ("frechet", "variety") if max(reference.per_class_counts().values()) > 1 else ("frechet",)

    def report(self, generator: nn.Module) -> dict[str, Any]:
        """Every default metric on the reported split."""
        return measuring.evaluate(
            sampler(generator), self.references["report"], features=self.features, n_fake=self.n_fake,
            seed=REPORT_SEED, training=self.data,
        )

    @property
    def holds_out(self) -> bool:
        """Whether the reported distances are to images that were not trained on."""
        return self.references["report"] is not None


def _held_out(data: ImageData, part: str) -> ImageData | None:
    images = data.held_out(part)
    return images if images is not None and len(images) >= FEWEST_HELD_OUT else None


def finish(parts: Parts, folder: Path, evaluator: Evaluator | None, report: Callable[[dict[str, Any]], None],
           diverged: str = "") -> None:
    """Write adapter (or model), pictures, ``result.json`` and ``report.html``. Only the first process does.

    `diverged`: what a run that could not go on says of it; its best generator is kept like any other's.
    """
    trainer = parts.trainer
    if trainer.rank == 0:
        report({"event": "message", "text": "measuring the best generator"})
        if _kept_while_mining(trainer):  # what fine-tuning made of it is shown all the same
            released_grid(trainer.ema.module, folder / "samples", "tuned")
        best = trainer.load_best()
        learned = None
        if parts.job.kind == "adapt":
            learned = explanation.record(best, parts.gan, parts.target.classes, folder)
        filter_analysis.record(best, folder)
        fold(best, filters=False)
        sizes = _save(parts, best, folder)
        fold(best)
        if learned is not None:
            explanation.draw(best, parts.gan.generator, learned, folder / "analysis")
        class_grid(best, folder / "samples" / "after.png")
        if style_groups(best):
            adapted = GAN(best, arch=parts.gan.arch, classes=parts.target.classes or None)
            style_picture(adapted, folder / "samples" / "style-mixing.png")
        if hasattr(best, "miners"):
            _mining(parts, best, folder)
        first = folder / "samples" / "step-000000.png"
        if first.is_file():
            with writing(folder / "samples" / "before.png"):
                (folder / "samples" / "before.png").write_bytes(first.read_bytes())
        adaptation(folder / "samples")
        result = _result(parts, best, sizes, evaluator, folder)
        if parts.job.kind == "pretrain":
            _tell_quality(folder / "model" / "config.json", result)
        if diverged:
            result["diverged"] = diverged
            result["warnings"].insert(0, diverged)
        with writing(folder / "report.html"):  # an earlier one: `resume` writes it where there is a result alone
            (folder / "report.html").unlink(missing_ok=True)
        write_json(result, folder / "result.json")
        from gantransfer.report import write_report

        write_report(folder)
    trainer.processes.wait()


def _save(parts: Parts, best: nn.Module, folder: Path) -> dict[str, int]:
    if parts.job.kind == "pretrain":
        data = parts.data
        card = {"name": parts.job.network.get("name") or folder.name, "command": parts.job.command,
                "trained_on": f"{len(data)} images, fingerprint {data.fingerprint[:16]}",
                "images_shown": parts.trainer.progress.nimg, "seed": parts.job.schedule.seed,
                "loss": parts.job.loss.kind, "r1_gamma": parts.job.loss.r1_gamma}
        critic = parts.trainer.extras["critic"].cpu()
        GAN(best, critic, arch=parts.gan.arch, classes=parts.gan.classes, card=card).save_pretrained(folder / "model")
        return {}
    return save_adapter(
        folder / "adapter", best, parts.gans, [parts.job.source, *parts.job.others], parts.method, parts.job.method,
        parts.target,
    )


def _tell_quality(file: Path, result: dict[str, Any]) -> None:
    """Add the distance to a model's card, so that it is known wherever the model goes."""
    found = [row["after"] for row in result["rows"] if row["metric"] == "frechet"]
    if found:
        config = read_json(file)
        write_json({**config, "card": {**config["card"], "frechet": found[0], "protocol": result["protocol"]}}, file)


def _mining(parts: Parts, best: nn.Module, folder: Path) -> None:
    """Pictures of the same latents and a record: ``samples/source.png``, ``mined.png`` (of the end of mining, which the
    trainer's hook has written, or of the kept generator of a run that came no further) and ``tuned.png`` (of the kept
    generator, or of the last one where that is no later than mining); of several sources also which of them samples
    come from."""
    samples, trainer = folder / "samples", parts.trainer
    before_miners(best, [gan.generator for gan in parts.gans], samples / "source.png")
    until = trainer.plan.fixed_until_nimg
    if until is None or trainer.progress.nimg <= until:
        released_grid(best, samples, "mined")
    elif not _kept_while_mining(trainer):
        released_grid(best, samples, "tuned")
    names = [_short(name, number) for number, name in enumerate((parts.job.source, *parts.job.others), 1)]
    names = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]
    record: dict[str, Any] = {"sources": names, "columns": COLUMNS,
                              "rows": names if best.picks else list(parts.target.classes) or names}
    if best.picks:
        record |= {"p": best.p.tolist(), "picked": picked_grid(best, samples / "picked.png")}
    write_json(record, samples / "mining.json")


def _kept_while_mining(trainer: Trainer) -> bool:
    """Whether a run that fine-tuned keeps a generator from before."""
    until, best = trainer.plan.fixed_until_nimg, trainer.progress.best
    mined = hasattr(trainer.generator, "miners") and until is not None and trainer.progress.nimg > until
    return mined and best is not None and best["nimg"] <= until


def _short(name: str, number: int) -> str:
    """What the report calls a source: its name, or what is telling of its directory."""
    path = Path(name)
    telling = path.parent.name if path.name == "model" else path.name
    return telling or f"source {number}"


def _result(parts: Parts, best: nn.Module, sizes: dict[str, int], evaluator: Evaluator | None,
            folder: Path) -> dict[str, Any]:
    progress = parts.trainer.progress
    result: dict[str, Any] = {
        "split": "report" if evaluator is None or evaluator.holds_out else "training",
        "steps": progress.step, "nimg": progress.nimg, "seconds": round(progress.seconds, 2),
        "measuring_seconds": round(progress.measuring_seconds, 2),
        "best_step": (progress.best or {}).get("step", progress.step), "rows": [], "per_class": {}, "warnings": [],
    }
    if sizes:
        result |= {"adapter_bytes": sizes["adapter"], "generator_bytes": sizes["generator"],
                   "bytes_per_class": sizes["per_class"], "bytes_shared": sizes["shared"]}
    if evaluator is None:
        result["copies"] = _copies(parts, best.to(parts.trainer.device), load_features(UNMEASURED), folder, result)
        return result
    best = best.to(evaluator.device)
    after = evaluator.report(best)
    before = evaluator.report(_start(parts).to(evaluator.device))
    for name, value in after["metrics"].items():
        if isinstance(value, dict):
            result["per_class"] = value
            continue
        if name not in before["metrics"]:
            continue
        result["rows"].append({
            "metric": name, "label": after["labels"].get(name, name), "before": before["metrics"][name],
            "after": value, "floor": after["floor"].get(name), "training_bound": after["training_bound"].get(name),
            "better": after["better"][name],
        })
    result |= {"protocol": after["protocol"], "reference": after["reference"],
               "floor_protocol": after.get("floor_protocol"), "warnings": after["warnings"]}
    result["copies"] = _copies(parts, best, evaluator.features, folder, result)
    return result


def _copies(parts: Parts, best: nn.Module, features: Extractor, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The memorisation check, for every report: 256 samples beside their nearest training images; warns in `result`."""
    labels = torch.arange(max(best.num_classes, 1)).repeat(-(-256 // max(best.num_classes, 1)))[:256]
    samples = sampler(best)(labels, REPORT_SEED)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    nearest = nearest_pictures(samples[order], parts.data, _held_out(parts.data, "report"), features,
                               folder / "samples")
    if nearest["rate"] > COPY_RATE:
        result["warnings"].append(f"{nearest['copies']} of {len(samples)} samples are nearer to a training image than "
                                  "99 % of real images are: see the nearest training images before sharing anything")
    return {k: nearest[k] for k in ("copies", "rate", "expected_rate", "threshold", "calibration", "feature")} | {
        "samples": len(samples)}


def _start(parts: Parts) -> nn.Module:
    """The adapted generator as it was before the first update."""
    generator = parts.method.reshape(parts.gans, parts.target)
    parts.method.plan(generator, parts.gans, parts.target, parts.job.loss)
    return fold(generator)
