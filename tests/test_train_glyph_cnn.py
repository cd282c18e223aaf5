"""The recipe behind the shipped features: what it computes, without the minutes of training."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "train_glyph_cnn.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    if not RECIPE.is_file():
        pytest.skip("recipes/ belongs to the repository and is not installed")
    spec = importlib.util.spec_from_file_location("train_glyph_cnn", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_folding_the_batch_norms_changes_nothing(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    trainee = recipe.Trainee(5)
    for norm in trainee.norms:
        for tensor in (norm.weight, norm.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 2)
        for tensor in (norm.bias, norm.running_mean):
            torch.nn.init.normal_(tensor)
    ink = torch.rand(6, 1, 32, 32)
    with torch.no_grad():
        expected, _ = trainee.eval()(ink)
        features, logits = trainee.folded()(ink)
    assert torch.allclose(logits, expected, atol=1e-4)

    net = recipe.finish(trainee.folded(), ink)  # scaled and rounded to half: nearly the same logits
    scaled, rounded = recipe.features_of(net, ink)
    assert float(scaled.var(0).mean()) == pytest.approx(1, rel=0.02)
    assert torch.allclose(rounded, expected, atol=0.05)


def test_faces_are_split_by_licence_and_seed(recipe: ModuleType) -> None:
    faces = [{"open": i % 5 > 0} for i in range(50)]
    split = recipe.split_faces(faces, 0)
    assert sorted(split["train"] + split["held_out"] + split["other"]) == list(range(50))
    assert len(split["train"]) == 28 and split["other"] == list(range(0, 50, 5))
    assert split == recipe.split_faces(faces, 0) != recipe.split_faces(faces, 1)


def test_style_sees_how_a_letter_is_drawn(recipe: ModuleType) -> None:
    thin, thick, flat, slanted = torch.zeros(4, 1, 1, 32, 32)
    thin[..., 4:28, 15:17] = 1
    thick[..., 4:28, 13:19] = 1
    flat[..., 15:17, 4:28] = 1
    for row in range(4, 28):
        slanted[..., row, row - 1 : row + 1] = 1
    style = recipe.style_of(torch.cat([thin, thick, flat, slanted]))
    ink, _, width, height, slant = style.unbind(1)
    assert ink[1] > 2 * ink[0] and width[2] > 10 * width[0] and height[0] > 10 * height[2]
    assert abs(slant[0]) < 1e-4 < 0.05 < abs(slant[3])


def test_augmentation_keeps_shape_range_and_is_repeatable(recipe: ModuleType) -> None:
    ink = torch.rand(8, 1, 32, 32)
    one, two = (recipe.augment(ink, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == ink.shape and not torch.equal(one, ink)
    assert float(one.min()) >= -1e-6 and float(one.max()) <= 1 + 1e-5


def test_reads_the_benchmark_zip(recipe: ModuleType, tmp_path: Path) -> None:
    faces = [
        {"package": "p", "file": "A.ttf", "open": True},
        {"package": "p", "file": "B.otf", "open": False},  # its pictures carry the ending
    ]
    path = tmp_path / "glyphs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset.json", json.dumps({"classes": ["x", "y"], "faces": faces}))
        for value, name in enumerate(["x/p--A", "y/p--A", "x/p--B.otf", "y/p--B.otf"]):
            buffer = io.BytesIO()
            Image.fromarray(np.full((32, 32), 255 - 51 * value, np.uint8)).save(buffer, "PNG")
            archive.writestr(f"{name}.png", buffer.getvalue())
    ink, classes, read = recipe.read_glyphs(path)
    assert classes == ["x", "y"] and [face["name"] for face in read] == ["p--A", "p--B.otf"]
    assert torch.allclose(ink[:, :, 0, 0].float(), torch.tensor([[0.0, 0.2], [0.4, 0.6]]), atol=1e-3)
