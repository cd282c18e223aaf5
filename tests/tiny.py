"""Networks, sources and image folders small enough to train in a test."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from picture_files import noise, png, tree
from torch import Tensor, nn

from gantransfer import runs
from gantransfer.adapter import save_adapter
from gantransfer.checkpoint import load_checkpoint
from gantransfer.data import ImageData
from gantransfer.losses import AdversarialLoss
from gantransfer.modulation import fold
from gantransfer.registry import architectures
from gantransfer.sources import GAN
from gantransfer.trainer import Hooks, Schedule, Trainer

# What a source may look like to a method. Attention at 16 px sits behind 8 channels, the fewest it takes.
NETWORKS: dict[str, dict[str, Any]] = {
    "tables": {},
    "shared": {"class_affine": "shared", "shared_dim": 6, "standing_statistics": True},
    "hierarchical": {
        "class_affine": "shared", "shared_dim": 6, "hierarchical": True, "g_attention": (16,), "d_attention": (16,),
    },
    "unconditional": {"num_classes": 0},
    "gp_gan": {"arch": "gp_gan"},
    "gp_gan-unconditional": {"arch": "gp_gan", "num_classes": 0},
    "wgan_gp": {"arch": "wgan_gp"},
    "wgan_gp-concat": {"arch": "wgan_gp", "conditioning": "concat"},
    "wgan_gp-unconditional": {"arch": "wgan_gp", "num_classes": 0},
}
UNLABELLED = tuple(name for name in NETWORKS if name.endswith("unconditional"))


def make_source(network: str = "tables", seed: int = 0, critic: bool = True, **changes: Any) -> GAN:
    """A GAN with random weights that looks trained: its statistics (standing ones where it has them) and power
    iterations have moved, its attention counts and its classes differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = {"arch": "biggan", **NETWORKS[network], **changes}
        arch = architectures[name := settings.pop("arch")]
        config = arch.tiny(**settings)
        gan = GAN(arch.build_generator(config), arch.build_discriminator(config) if critic else None, arch=name)
        with torch.no_grad():
            for name, param in gan.generator.named_parameters():
                if name.endswith("gamma"):
                    param.fill_(0.5)
                elif "norm" in name and gan.arch == "wgan_gp":  # classes start alike there
                    param.add_(torch.randn_like(param), alpha=0.3)
            gan.generator.train()
            for _ in range(5):
                gan.generator(*latents(gan, 16, seed=None))
            gan.generator.eval()
            if gan.generator.standing_norms():
                batches = [latents(gan, 16, seed=None) for _ in range(3)]
                gan.accumulate_standing_statistics(*zip(*batches, strict=True))
    return gan


def latents(gan: GAN, n: int, seed: int | None = 0) -> tuple[Tensor, Tensor | None]:
    """z [n, z_dim] and labels that take all classes in turn (None where there are none)."""
    rng = None if seed is None else torch.Generator().manual_seed(seed)
    z = torch.randn(n, gan.generator.z_dim, generator=rng)
    count = gan.generator.num_classes
    return z, torch.arange(n) % count if count else None


def write_images(root: Path, counts: Mapping[str, int], size: int = 32) -> Path:
    """Noise images, `counts` of each class; the class '' makes a flat folder."""
    members = {}
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            members[f"{name}/{i:02d}.png".lstrip("/")] = png(noise(1000 * number + i, size, size))
    return tree(root, members)


def make_data(root: Path, labelled: bool = True) -> ImageData:
    """Three classes of five images, or ten without classes."""
    counts = {"a": 5, "b": 5, "c": 5} if labelled else {"": 10}
    return ImageData(write_images(root, counts), size=32, channels=1)


def schedule(**changes: Any) -> Schedule:
    """Four iterations of four images, a log line each, an evaluation and a checkpoint every second one."""
    return Schedule(**{"steps": 4, "batch_size": 4, "log_nimg": 1, "eval_nimg": 8, "checkpoint_nimg": 8,
                       "device": "cpu", **changes})


@torch.no_grad()
def score(generator: nn.Module, progress: Any) -> dict[str, Any]:
    """A stand-in for a distance: depends on every weight, costs nothing."""
    n = 4
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % generator.num_classes if generator.num_classes else None
    value = float(generator(z, y).square().mean())
    return {"split": "select", "frechet": value, "selection": value}


def assemble(out: Path, gan: GAN | Sequence[GAN], data: ImageData, method: str, fields: Mapping[str, Any] | None = None,
             report: Any = None, **settings: Any) -> runs.Parts:
    """A run of `method`, ready to train in a new or existing folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    loss = settings.pop("loss", AdversarialLoss(augment="translation,cutout"))
    others = () if isinstance(gan, GAN) else tuple(f"tiny {i}" for i in range(2, 1 + len(gan)))
    job = runs.Job("adapt", "tiny", dict(data.settings), method, dict(fields or {}), loss, schedule(**settings),
                   others=others)
    return runs.assemble(job, out, gan, data, Hooks(evaluate=score, report=report))


class Crash(Exception):
    """The process died here: nothing was saved."""


def break_at(step: int, how: str, trainer: list[Trainer]) -> Any:
    """A report hook that ends the run at `step`: "stop" as a signal does, "crash" as a power cut does."""

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "trained" and event["step"] == step:
            if how == "crash":
                raise Crash
            trainer[0].wish.stop = True

    return report


def snapshot(module: nn.Module | None) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by name."""
    return {} if module is None else {k: v.detach().clone() for k, v in module.state_dict().items()}


def moved(before: Mapping[str, Tensor], module: nn.Module) -> set[str]:
    """Names whose content is no longer that of `before`, bit for bit."""
    after = module.state_dict()
    assert before.keys() == after.keys()
    return {k for k, v in before.items() if not torch.equal(v, after[k])}


def identity_of(gan: GAN) -> dict[str, Any]:
    """Everything about a source that nobody may change."""
    found: dict[str, Any] = {"config": repr(gan.config), "classes": list(gan.classes)}
    for part, net in (("G", gan.generator), ("D", gan.discriminator)):
        if net is not None:
            found[part] = {k: (v.detach().clone(), v.stride()) for k, v in net.state_dict().items()}
            found[f"{part} modes"] = {k: m.training for k, m in net.named_modules()}
            found[f"{part} gradients"] = {k: (p.requires_grad, p.grad) for k, p in net.named_parameters()}
    return found


def same(a: Any, b: Any) -> bool:
    """Equality through dicts, tuples and tensors, bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(functools.partial(same), a, b))
    return a == b


def _lines(path: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "measuring_seconds", "images_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in path.read_text().splitlines()]


def _everything(out: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[Any], list[Any]]:
    """The whole state at a run's end: tensors, counters, and both logs; times left out."""
    tensors, meta = load_checkpoint(out / "checkpoints")
    for name in ("seconds", "measuring_seconds"):
        meta["progress"].pop(name)
    if meta["progress"]["best"]:
        meta["progress"]["best"].pop("seconds")
    return tensors, meta, _lines(out / "metrics.jsonl"), _lines(out / "stats.jsonl")


def assert_same_runs(a: Path, b: Path) -> None:
    for one, other in zip(_everything(a), _everything(b), strict=True):
        assert same(one, other)


def adapter_of(folder: Path, gan: GAN, data: ImageData, classes: Sequence[str], method: str = "bsa",
          fields: Mapping[str, Any] | None = None) -> Path:
    """The adapter of two iterations at a high rate."""
    fast = {"lr": 0.05} if method in ("bsa", "cgantransfer") else {}
    parts = assemble(folder / "run", gan, data.class_subset(list(classes)), method, {**fast, **(fields or {})}, steps=2,
                     eval_nimg=0, checkpoint_nimg=0)
    parts.trainer.run()
    best = fold(copy.deepcopy(parts.trainer.ema.module), filters=False)
    save_adapter(folder / "adapter", best, gan, "tiny", parts.method, method, parts.target)
    return folder / "adapter"
