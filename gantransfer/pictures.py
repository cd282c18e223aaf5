"""The pictures of a run: grids per class on fixed latents, and nearest training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from gantransfer.data import ImageData
from gantransfer.errors import writing
from gantransfer.features import Extractor
from gantransfer.nearest import nearest_images
from gantransfer.sampling import channels_last, draw_latents, generate, grid, to_uint8
from gantransfer.weights import write_json

COLUMNS = 8
GRID_SEED = 20_000_000  # away from the seeds of evaluations
ANIMATED_PX, CAPTION_PX, FRAME_MS = 640, 16, 500


def class_grid(generator: nn.Module, path: Path, rows: int | None = None) -> None:
    """A PNG with one row per class (at most 40) and the same `COLUMNS` latents in every row."""
    classes = max(generator.num_classes, 1)
    rows = min(classes, 40) if rows is None else rows
    z = draw_latents(COLUMNS, generator.z_dim, GRID_SEED).repeat(rows, 1)
    labels = torch.arange(rows).repeat_interleave(COLUMNS) if generator.num_classes else None
    save_grid(channels_last(generate(generator, z, labels)), COLUMNS, path)


def adaptation(folder: Path) -> None:
    """``adaptation.webp`` in a run's samples: its grids of fixed latents one after the other, from iteration 0, each
    with its iteration; as many rows and columns as fit a square of `ANIMATED_PX`. Nothing without such grids."""
    files = sorted(folder.glob("step-*.png"), key=lambda file: int(file.stem.partition("-")[2]))
    frames = []
    for file in files:
        with Image.open(file) as picture:
            pitch = (picture.width - 2) // COLUMNS
            fits = max(ANIMATED_PX // pitch, 1) * pitch + 2
            shown = picture.convert("RGB").crop((0, 0, min(picture.width, fits), min(picture.height, fits)))
        frame = Image.new("RGB", (shown.width, shown.height + CAPTION_PX), "white")
        frame.paste(shown)
        ImageDraw.Draw(frame).text((4, shown.height + 2), f"iteration {int(file.stem.partition('-')[2])}", "black")
        frames.append(frame)
    if frames:
        path = folder / "adaptation.webp"
        with writing(path):
            frames[0].save(path, save_all=True, append_images=frames[1:], loop=0, quality=85,
                           duration=[FRAME_MS] * (len(frames) - 1) + [4 * FRAME_MS])


def real_grid(data: ImageData, path: Path) -> None:
    """The same layout with training images."""
    rows = []
    for label in range(min(len(data.classes), 40)):
        mine = (data.labels == label).nonzero().squeeze(1)[:COLUMNS]
        rows.append(data.images(mine[torch.arange(COLUMNS) % len(mine)]))
    save_grid(channels_last(torch.cat(rows)), COLUMNS, path)


def nearest_pictures(samples: Tensor, training: ImageData, held_out: ImageData | None, extractor: Extractor,
                     folder: Path) -> dict[str, Any]:
    """Write ``nearest.png`` (samples above their nearest training images) and ``nearest.json``; returns the
    record. `samples`: uint8 [n, C, H, W]; the picture shows the first 16."""
    indices, record = nearest_images(samples, training, held_out, extractor)
    shown = min(16, len(samples))
    both = torch.cat([samples[:shown], training.images(indices[:shown])])
    save_grid(channels_last(both), shown, folder / "nearest.png")
    write_json(record, folder / "nearest.json")
    return record


def source_classes(generator: nn.Module, path: Path, seed: int = 0) -> None:
    """One sample per class, of the same latent, ten to a row (for the pictures of contributing classes)."""
    classes = generator.num_classes
    z = draw_latents(1, generator.z_dim, GRID_SEED + seed).repeat(classes, 1)
    save_grid(channels_last(generate(generator, z, torch.arange(classes))), 10, path)


def released_grid(generator: nn.Module, folder: Path, name: str = "mined") -> None:
    """``NAME.png``: one row per miner of a generator that has some (at most 40), with the same latents in each."""
    if not hasattr(generator, "miners"):
        return
    rows = [_mined_row(generator, i) for i in range(min(len(generator.miners), 40))]
    save_grid(channels_last(torch.cat(rows)), COLUMNS, folder / f"{name}.png")


@torch.inference_mode()
def _mined_row(generator: nn.Module, number: int) -> Tensor:
    u = draw_latents(COLUMNS, generator.z_dim, GRID_SEED).to(next(generator.parameters()).device)
    training = generator.training
    images = to_uint8(generator.eval().from_miner(number, u).float()).cpu()
    generator.train(training)
    return images


def before_miners(generator: nn.Module, sources: Sequence[nn.Module], path: Path) -> None:
    """The rows of `released_grid` as the sources draw them: what a miner reads of u is z (other latents where that is
    shorter), and the source's classes are taken in turn."""
    u, rows = draw_latents(COLUMNS, generator.z_dim, GRID_SEED), []
    for number in range(min(len(generator.miners), 40)):
        source = sources[number if generator.picks else 0]
        start, same = generator.starts[number], generator.miners[number].config.u_dim == source.z_dim
        z = u[:, start : start + source.z_dim] if same else draw_latents(COLUMNS, source.z_dim, GRID_SEED)
        spread = torch.arange(COLUMNS) * max(source.num_classes // COLUMNS, 1) % max(source.num_classes, 1)
        rows.append(generate(source, z, spread if source.num_classes else None))
    save_grid(channels_last(torch.cat(rows)), COLUMNS, path)


def picked_grid(generator: nn.Module, path: Path) -> list[int]:
    """24 samples of a generator of several sources, and the number of each one's source."""
    z = draw_latents(24, generator.z_dim, GRID_SEED + 1)
    save_grid(channels_last(generate(generator, z, None)), COLUMNS, path)
    return generator.pick(z).tolist()


def save_grid(images: np.ndarray, columns: int, path: Path) -> None:
    """uint8 [n, H, W, C] as a PNG with `columns` to a row."""
    with writing(path):
        grid(images, columns).save(path)
