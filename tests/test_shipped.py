"""What ships in the package: the target set's statistics, and the source's quality and identity."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open

import gantransfer as gt
from gantransfer.data import ImageData
from gantransfer.features import load_features
from gantransfer.metrics.frechet import mean_and_covariance
from gantransfer.sampling import generate
from gantransfer.shipped import DATA


def test_statistics_of_the_shipped_target_are_those_of_its_images() -> None:
    extractor = load_features("glyph-cnn")
    with safe_open(DATA / "cyrillic10.statistics.safetensors", "pt") as file:
        assert file.metadata()["features"] == extractor.identity
        assert json.loads(file.metadata()["images"]) == {"train": 1000, "val": 2250, "test": 2260}
        for split in ("train", "val", "test"):
            data = ImageData("cyrillic10", size=32, channels=1, split=split)
            mean, covariance = mean_and_covariance(extractor(data.images())[0])
            torch.testing.assert_close(file.get_tensor(f"{split}.mean"), mean, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(file.get_tensor(f"{split}.covariance"), covariance, atol=1e-4, rtol=1e-3)


def test_every_class_of_the_shipped_source_is_recognised() -> None:
    gan, extractor = gt.GAN.from_pretrained("glyph80-32"), load_features("glyph-cnn")
    labels = torch.arange(80).repeat_interleave(16)
    z = torch.randn(len(labels), gan.generator.z_dim, generator=torch.Generator().manual_seed(0))
    probabilities = extractor(generate(gan.generator, z, labels))[1]
    own = torch.tensor([extractor.classes.index(name) for name in gan.classes])
    right = (probabilities.argmax(1) == own[labels]).float().view(80, 16).mean(1)
    assert right.mean() > 0.96 and right.min() > 0.3, dict(zip(gan.classes, right.tolist(), strict=True))
