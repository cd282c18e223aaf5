"""Latents, classes, grids, and the search for copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_source, write_images
from torch import Tensor

from gantransfer.data import ImageData
from gantransfer.errors import UsageError
from gantransfer.nearest import nearest_images
from gantransfer.sampling import class_ids, draw_latents, generate, grid, sampler, to_uint8


def test_latents_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = draw_latents(5, 3, 7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, draw_latents(5, 3, 7)) and not torch.equal(first, draw_latents(5, 3, 8))
    assert torch.equal(state, torch.get_rng_state())


def test_truncation() -> None:
    z = draw_latents(4000, 4, 0, 0.5)
    assert float(z.abs().max()) <= 1.0 and 0.3 < float(z.std()) < 0.5
    for wrong in (0.0, -1.0, 1.1):
        with pytest.raises(UsageError, match="outside"):
            draw_latents(1, 1, 0, wrong)


def test_classes_by_name_and_number() -> None:
    names = ["a", "b", "1"]
    assert class_ids(None, names, 4).tolist() == [0, 1, 2, 0]
    assert class_ids("b", names, 2).tolist() == [1, 1]
    assert class_ids(["1", 0, np.int64(1)], names, 4).tolist() == [2, 0, 1, 2]
    for wrong in ("A", 3, -1, ["a", "zz"]):
        with pytest.raises(UsageError, match="is not one of this model's.*have: a, b, 1"):
            class_ids(wrong, names, 2)


def test_samples_do_not_depend_on_the_batch_and_keep_the_mode() -> None:
    gan = make_source()
    gan.generator.train()
    z = draw_latents(7, 8, 0)
    y = torch.arange(7) % 4
    whole, parts = generate(gan.generator, z, y), generate(gan.generator, z, y, batch_size=3)
    assert (whole.float() - parts.float()).abs().max() <= 1 and gan.generator.training
    assert torch.equal(sampler(gan.generator)(y, 0), whole)
    assert to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


def test_a_grid() -> None:
    images = np.zeros((5, 4, 4, 3), np.uint8)
    picture = grid(images, 3, scale=2, pad=1)
    assert picture.size == (2 * (3 * 5 + 1), 2 * (2 * 5 + 1)) and picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (255, 255, 255) and picture.getpixel((4, 4)) == (0, 0, 0)
    assert picture.getpixel((2 * 12, 2 * 7)) == (255, 255, 255)  # the sixth cell stays empty
    assert grid(images[..., :1], 5).mode == "L"


class Pixels:
    """Features are the pixels."""

    identity = "pixels"

    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        return images.flatten(1).double(), None


def test_copies_are_found(tmp_path: Path) -> None:
    data = ImageData(write_images(tmp_path, {"a": 20, "b": 20}), size=32, channels=1, per_class=10)
    training, held_out = data.images(), data.held_out("report")
    samples = torch.cat([training[[3, 15]], torch.full((2, 1, 32, 32), 200, dtype=torch.uint8)])
    indices, record = nearest_images(samples, data, held_out, Pixels())
    assert indices[:2].tolist() == [3, 15] and record["distances"][:2] == [0.0, 0.0]
    assert record["copies"] >= 2 and "held-out real images" in record["calibration"]
    assert record["paths"][:2] == [data.paths[3], data.paths[15]] and record["feature"] == "pixels"
    _, without = nearest_images(samples, data, None, Pixels())
    assert "among themselves" in without["calibration"] and without["threshold"] > 0 and without["copies"] >= 2
