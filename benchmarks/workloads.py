"""The iterations that `benchmarks/speed.py`, `profile.py` and `scaling.py` time: a trainer on random images."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gantransfer.methods  # noqa: F401  (registers the methods)
from benchmarks.plain import plain
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Target
from gantransfer.registry import architectures, methods
from gantransfer.sources import GAN
from gantransfer.trainer import Schedule, Trainer

TARGET_CLASSES = 10


@dataclass(frozen=True)
class Work:
    """One kind of iteration.

    Attributes:
        network: settings of the source's architecture. fields: of the method. loss: of `AdversarialLoss`.
        gpu: settings of the network that are different on a GPU; gpu_batch: the batch there.
    """

    arch: str
    network: Mapping[str, Any]
    method: str
    batch: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    gpu: Mapping[str, Any] = field(default_factory=dict)
    gpu_batch: int = 0


HINGE = {"kind": "hinge", "augment": "translation,cutout"}
HIER = {"resolution": 128, "hierarchical": True, "z_dim": 120, "shared_dim": 128, "class_affine": "shared",
        "g_attention": (64,), "d_attention": (64,), "num_classes": 100, "d_wide": True}
GP_GAN = {"variant": "resnet4", "resolution": 128, "num_classes": 0}
R1 = {"kind": "non-saturating", "r1_gamma": 20.0}
WORKS: dict[str, Work] = {
    "cgantransfer 32": Work("biggan", {"resolution": 32, "num_classes": 90}, "cgantransfer", 50, loss=HINGE),
    "cgantransfer 128": Work("biggan", {**HIER, "g_ch": 24, "d_ch": 24}, "cgantransfer", 8, loss=HINGE,
                             gpu={**HIER, "g_ch": 96, "d_ch": 96}, gpu_batch=32),
    "adafm 128": Work("gp_gan", {**GP_GAN, "width": 16}, "adafm", 16, loss=R1, gpu={**GP_GAN, "width": 64}),
    "gp_gan 128": Work("gp_gan", {**GP_GAN, "width": 16}, "transfergan", 16, loss=R1, gpu={**GP_GAN, "width": 64}),
}


class RandomImages:
    """Enough of `ImageData` for a trainer: uint8 [256, C, R, R], drawn once."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        rng = torch.Generator().manual_seed(1)
        self.images = torch.randint(256, (256, channels, side, side), dtype=torch.uint8, generator=rng)
        self.labels = torch.randint(max(classes, 1), (256,), generator=rng)

    def batch(self, number: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        places = (number * size + torch.arange(size)) % len(self.images)
        return self.images[places], self.labels[places], places


def source(work: Work, device: str = "cpu") -> GAN:
    """A source with random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        arch = architectures[work.arch]
        settings = arch.expand(dict(work.gpu if device == "cuda" and work.gpu else work.network))
        config = arch.config_class(**settings)
        gan = GAN(arch.build_generator(config), arch.build_discriminator(config), arch=work.arch)
        with torch.no_grad():
            for _, norm in getattr(gan.generator, "class_norms", lambda: ())():
                if hasattr(norm.gain, "num_embeddings"):  # classes that differ
                    norm.gain.weight.mul_(0.3)
                    norm.bias.weight.mul_(0.3)
    return gan


def make_trainer(work: Work, without: Collection[str] = (), device: str = "cpu", threads: int | None = None,
                 **schedule: Any) -> Trainer:
    """A trainer of `work` on random images.

    Args:
        without: means that its networks do without, of `benchmarks.plain.MEANS`.
        schedule: further settings of `Schedule`, and of `AdversarialLoss` under ``loss``.
    """
    gan = source(work, device)
    classes = TARGET_CLASSES if gan.generator.num_classes else 0
    target = Target(256, tuple(map(str, range(classes))), gan.config["resolution"], gan.config["channels"])
    method = methods[work.method](**work.fields)
    loss = AdversarialLoss(**{**work.loss, **schedule.pop("loss", {})})
    generator = method.reshape([gan], target)
    plan = method.plan(generator, [gan], target, loss)
    batch = schedule.pop("batch_size", work.gpu_batch if device == "cuda" and work.gpu_batch else work.batch)
    data = RandomImages(gan.config["channels"], gan.config["resolution"], classes)
    settings = Schedule(steps=1_000_000, batch_size=batch, device=device, threads=threads, **schedule)
    trainer = Trainer(generator, plan, data, settings, Path(tempfile.gettempdir()) / "unused")
    for part in (trainer.generator, trainer.extras):
        plain(part, without)
    return trainer
