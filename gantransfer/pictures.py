"""The pictures of a run: grids per class on fixed latents, and nearest training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gantransfer.data import ImageData
from gantransfer.errors import writing
from gantransfer.features import Extractor
from gantransfer.nearest import nearest_images
from gantransfer.sampling import channels_last, draw_latents, generate, grid
from gantransfer.weights import write_json

COLUMNS = 8
GRID_SEED = 20_000_000  # away from the seeds of evaluations


def class_grid(generator: nn.Module, path: Path, rows: int | None = None) -> None:
    """A PNG with one row per class (at most 40) and the same `COLUMNS` latents in every row."""
    classes = max(generator.num_classes, 1)
    rows = min(classes, 40) if rows is None else rows
    z = draw_latents(COLUMNS, generator.z_dim, GRID_SEED).repeat(rows, 1)
    labels = torch.arange(rows).repeat_interleave(COLUMNS) if generator.num_classes else None
    save_grid(channels_last(generate(generator, z, labels)), COLUMNS, path)


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


def save_grid(images: np.ndarray, columns: int, path: Path) -> None:
    """uint8 [n, H, W, C] as a PNG with `columns` to a row."""
    with writing(path):
        grid(images, columns).save(path)
