"""A synthetic run directory for tests of what reads runs: drawn letters instead of a GAN's images.

``python tests/fake_run.py OUT [CLASS,CLASS,... [FONT]]`` writes one to look at.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

CLASSES = tuple("QWERTYUIOP")
SOURCES = tuple("ABCDEFGHJKLMNOPQRSTUVWXYZabdefghijkmnqrty1234567890")
LAYERS = tuple(f"blocks.{i}.norm{j}" for i in range(3) for j in (1, 2))
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
PAD = 2
PROTOCOL = "features=glyph-cnn resize=none n_real=1840 n_fake=1840 seed=0 reference=held-out"
COMMAND = "gantransfer adapt --source glyph80-32 --data cyrillic10 --method cgantransfer --out runs/demo --seed 0"


def letter(text: str, seed: object, px: int = 32, noise: float = 0.0, font: str | None = None) -> Image.Image:
    """One white letter on black, a little turned, mixed with `noise` in [0, 1]; mode L; a function of the seed."""
    rng = random.Random(str(seed))
    points = int(px * rng.uniform(0.62, 0.85))
    face = ImageFont.truetype(font, points) if font else ImageFont.load_default(points)
    image = Image.new("L", (px, px))
    weight = rng.choice((0, 0, 1))
    ImageDraw.Draw(image).text((px / 2, px / 2), text[:2], 255, face, anchor="mm", stroke_width=weight)
    image = image.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    if noise <= 0:
        return image
    grain = Image.frombytes("L", (px // 4, px // 4), rng.randbytes((px // 4) ** 2))
    return Image.blend(image, grain.resize((px, px), Image.Resampling.BICUBIC), min(1.0, noise))


def grid(images: Sequence[Image.Image], columns: int, pad: int = PAD) -> Image.Image:
    """The run's layout of pictures: cells row by row with `pad` white pixels around each."""
    px = images[0].width
    rows = -(-len(images) // columns)
    sheet = Image.new(images[0].mode, (columns * (px + pad) + pad, rows * (px + pad) + pad), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (pad + i % columns * (px + pad), pad + i // columns * (px + pad)))
    return sheet


def write_fake_run(
    path: Path,
    *,
    classes: Sequence[str] = CLASSES,
    sources: Sequence[str] = SOURCES,
    columns: int = 8,
    px: int = 32,
    colour: bool = False,
    warnings: Sequence[str] = (),
    font: str | None = None,
) -> Path:
    """A finished cgantransfer run with every file a run can have, except checkpoints."""
    for folder in ("samples", "analysis", "adapter"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    shade = Image.linear_gradient("L").resize((px, px))

    def draw(text: str, seed: object, noise: float = 0.0) -> Image.Image:
        image = letter(text, seed, px, noise, font)
        return Image.merge("RGB", [image, image.rotate(2), shade]) if colour else image

    def at(step: int, name: str, column: int) -> Image.Image:
        """What one latent gives at a step: a source letter under noise, then its class."""
        rng = random.Random(f"{name} {column}")
        known = step > rng.expovariate(1 / 40)
        return draw(name if known else rng.choice(sources), f"{name} {column}", 0.6 / (1 + step / 30))

    def save(name: str, images: list[Image.Image], across: int, pad: int = PAD) -> None:
        grid(images, across, pad).save(path / name)

    places = [(name, column) for name in classes for column in range(columns)]
    for step in STEPS:
        save(f"samples/step-{step:06d}.png", [at(step, *place) for place in places], columns)
    save("samples/before.png", [at(0, *place) for place in places], columns)
    save("samples/after.png", [at(900, *place) for place in places], columns)
    save("samples/real.png", [draw(name, f"real {name} {column}") for name, column in places], columns)
    near = [(classes[i % len(classes)], i) for i in range(16)]
    save("samples/nearest.png", [at(900, *p) for p in near] + [draw(t, f"near {i}") for t, i in near], 16)
    save("analysis/source_classes.png", [draw(t, f"source {t}") for t in sources], 10, pad=0)
    _records(path, list(classes), list(sources), columns, list(warnings))
    return path


def _records(path: Path, classes: list[str], sources: list[str], columns: int, warnings: list[str]) -> None:
    rng = random.Random(1)
    evaluations, stats = _evaluations(rng), _stats(rng)
    best = next(row["step"] for row in evaluations if row["best"])
    _lines(path / "metrics.jsonl", evaluations)
    _lines(path / "stats.jsonl", stats)
    _json(path / "result.json", _result(rng, classes, best, warnings))
    _json(path / "data.json", _data(classes))
    _json(path / "samples/classes.json", {"classes": classes, "columns": columns})
    distances = [0.21] + [rng.uniform(1.1, 3.2) for _ in range(255)]
    calibration = "1 % quantile of the nearest-training-image distance of held-out real images"
    nearest = {"distances": distances, "feature": "glyph-cnn", "copies": 1, "threshold": 0.45, "median_real": 1.71}
    nearest |= {"calibration": calibration}
    _json(path / "samples/nearest.json", nearest)
    scores = {kind: _scores(rng, len(classes), len(sources)) for kind in ("scale", "shift")}
    names = {"layers": LAYERS, "classes": classes, "source_classes": sources}
    _json(path / "analysis/contributions.json", {**names, "scores": scores})
    env = {"gantransfer": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "platform": "Linux-6.1-x86_64"}
    _json(path / "env.json", {**env, "cpu": "AMD EPYC 7B13", "threads": 2, "device": "cpu", "date": "2025-11-21"})
    source = {"name": "glyph80-32", "sha256": "9f3c" * 16, "arch": "biggan", "num_classes": len(sources)}
    method = {"name": "cgantransfer", "lr": 0.001, "lambda_r": 0.01, "lambda_s": 0.1, "share": True}
    train = {"steps": 1000, "batch_size": 32, "d_steps": 1, "seed": 0, "ema_decay": 0.98, "eval_every": 50}
    config = {
        "command": COMMAND,
        "source": {**source, "classes": sources},
        "data": {"path": "/home/u/images/letters10/", "classes": None, "per_class": 100, "seed": 0},
        "method": method,
        "train": train,
        "loss": {"name": "hinge"},
        "plan": ["trains 12 score tables and 12 residuals at 1e-3", "D is fine-tuned at 2e-4"],
    }
    _json(path / "config.yaml", config)  # JSON is YAML, and the standard library writes it
    (path / "adapter/adapter_model.safetensors").write_bytes(bytes(30960))
    (path / "adapter/adapter_config.json").write_text("{}", encoding="utf-8")


def _evaluations(rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for step in range(0, 1001, 50):
        value = (0.6 + 250 * math.exp(-step / 90) + (step - 800) ** 2 / 4e5) * math.exp(rng.gauss(0, 0.07))
        row = {"step": step, "nimg": step * 32, "seconds": step * 0.071, "split": "select", "frechet": value}
        rows.append({**row, "kid": value / 900, "kmmd": 0.1 + value / 600, "protocol": PROTOCOL, "best": False})
    min(rows, key=lambda row: row["frechet"])["best"] = True
    return rows


def _stats(rng: random.Random) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "nimg": step * 32,
            "seconds": step * 0.071,
            "images_per_second": 450 + rng.gauss(0, 12),
            "D/loss": 1.2 + 0.7 * math.exp(-step / 200) + rng.gauss(0, 0.12),
            "G/loss": 0.3 + rng.gauss(0, 0.25),
            "D/real": 0.4 + step / 3000 + rng.gauss(0, 0.1),
            "D/fake": -0.4 - step / 2500 + rng.gauss(0, 0.1),
            "G/residual": 0.02 * (1 - math.exp(-step / 150)),
        }
        for step in range(0, 1001, 2)
    ]


def _result(rng: random.Random, classes: list[str], best: int, warnings: list[str]) -> dict[str, Any]:
    keys = ("metric", "before", "after", "floor", "training_bound", "better")
    table = (
        ("frechet", 251.3, 1.92, 0.31, 0.87, "lower"),
        ("kid", 0.279, 0.00121, -0.00002, 0.0004, "lower"),
        ("kmmd", 0.518, 0.103, 0.05, 0.07, "lower"),
        ("recall", 0.62, 0.41, 0.97, 0.91, "higher"),
        ("accuracy", 0.08, 0.94, 0.97, 0.98, "higher"),
    )
    each = {"n_real": 184, "n_fake": 184}
    return {
        "split": "report",
        "protocol": PROTOCOL,
        "reference": "held-out",
        "best_step": best,
        "rows": [dict(zip(keys, row, strict=True)) for row in table],
        "per_class": {
            c: {"frechet": rng.uniform(1, 6), "accuracy": rng.uniform(0.8, 1), "spread": rng.uniform(0.7, 1), **each}
            for c in classes
        },
        "warnings": warnings,
        "adapter_bytes": 30960,
        "generator_bytes": 1368000,
        "bytes_per_class": 1920,
        "bytes_shared": 11760,
        "seconds": 71.4,
        "steps": 1000,
        "nimg": 32000,
    }


def _data(classes: list[str]) -> dict[str, Any]:
    counts = {name: 100 for name in classes}
    return {
        "path": "/home/u/images/letters10",
        "n": 100 * len(classes),
        "classes": classes,
        "counts": counts,
        "splits": {"train": counts, "val": {name: 92 for name in classes}},
        "sizes": {"32x32": 990, "28x28": 10},
        "modes": {"L": 1000},
        "duplicates": [["train/Q/001.png", "train/Q/077.png"]],
        "bad": [{"path": "train/W/013.png", "reason": "truncated file"}],
        "ignored": 0,
        "conversions": ["10 images resized from 28x28 to 32x32"],
        "warnings": ["1 groups of images have equal content (they are kept)"],
        "fingerprint": "4be1" * 16,
    }


def _scores(rng: random.Random, classes: int, sources: int) -> list[list[list[float]]]:
    """[layer][class][source]: mostly small, a few large, some negative."""

    def score() -> float:
        return round(rng.gauss(0, 0.02) + (rng.uniform(-0.2, 0.6) if rng.random() < 0.08 else 0), 4)

    return [[[score() for _ in range(sources)] for _ in range(classes)] for _ in LAYERS]


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    names = sys.argv[2].split(",") if len(sys.argv) > 2 else CLASSES
    face = sys.argv[3] if len(sys.argv) > 3 else None
    print(write_fake_run(Path(sys.argv[1]), classes=names, font=face))
