"""Perceptual terms: VGG's layers in the published layout, and what each kind of features compares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny import make_source
from torch import Tensor

from gantransfer.errors import ModelError, UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.perceptual import Perceptual
from gantransfer.plan import Target
from gantransfer.runs import make_method
from gantransfer.vgg import MEAN, STD, VGG16

# torchvision's vgg16: (index in `features`, output channels); 4, 9, 16 and 23 are poolings.
PUBLISHED = ((0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256), (17, 512), (19, 512), (21, 512),
             (24, 512), (26, 512), (28, 512))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the published names, a classifier's too."""
    rng, n_in, tensors = torch.Generator().manual_seed(0), 3, {}
    for index, n_out in PUBLISHED:
        tensors[f"features.{index}.weight"] = torch.randn(n_out, n_in, 3, 3, generator=rng) * (2 / (9 * n_in)) ** 0.5
        tensors[f"features.{index}.bias"] = torch.zeros(n_out)
        n_in = n_out
    tensors["classifier.6.bias"] = torch.zeros(1000)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(tensors, path)
    return path


def test_vgg_is_the_published_network(weights: Path) -> None:
    term = Perceptual(f"vgg16:{weights}", None)
    state = dict(term.network.state_dict())
    assert list(state) == [f"features.{i}.{part}" for i, _ in PUBLISHED[:10] for part in ("weight", "bias")]
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    x = (images + 1) / 2
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    wanted: list[Tensor] = []
    for i in range(24):
        if i in (4, 9, 16, 23):
            x = F.max_pool2d(x, 2, 2)
        elif f"features.{i}.weight" in state:
            x = F.relu(F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1))
            wanted.append(x)
    for found, expected in zip(term.network(images), wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert [tuple(f.shape[1:]) for f in wanted][-1] == (512, 4, 4)


def test_the_original_weights_see_pixels_less_their_means(weights: Path) -> None:
    """Caffe's: 0 to 255, blue first. The published term's weight is for its activations."""
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    x = (images.flip(1) + 1) * 127.5 - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    term = Perceptual(f"vgg16-caffe:{weights}", None)
    state = term.network.state_dict()
    first = F.relu(F.conv2d(x, state["features.0.weight"], state["features.0.bias"], padding=1))
    torch.testing.assert_close(term.network(images)[0], first, atol=1e-3, rtol=1e-5)
    notes = {}
    for spec in (f"vgg16-caffe:{weights}", f"vgg16:{weights}", "critic"):
        gan, target = make_source(channels=3), Target(4, ("a",), 32, 3)
        method = make_method("bsa-published", {"perceptual": spec})
        plan = method.plan(method.reshape([gan], target), [gan], target, AdversarialLoss())
        notes[spec.partition(":")[0]] = plan.notes[-1]
    assert "weight 0.001" in notes["vgg16-caffe"] and "weight 0.1" in notes["vgg16"] and "weight 0.1" in notes["critic"]


@pytest.mark.parametrize("spec", ["critic", "glyph-cnn", "vgg16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_terms_are_sums_of_mean_absolute_differences(spec: str, channels: int, weights: Path) -> None:
    gan = make_source(channels=channels)
    term = Perceptual(f"{spec}:{weights}" if spec == "vgg16" else spec, gan.discriminator)
    a, b = torch.rand(2, 2, channels, 32, 32) * 2 - 1
    a.requires_grad_(True)
    assert float(term(a, a.detach()).detach()) == 0
    value = term(a, b)
    with torch.no_grad():
        expected = sum((x - y).abs().mean() for x, y in zip(term.network(a), term.network(b), strict=True))
    torch.testing.assert_close(value.detach(), expected)
    value.backward()
    assert a.grad.abs().sum() > 0 and not any(p.requires_grad for p in term.network.parameters())


def test_what_does_not_fit_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no discriminator, whose features"):
        Perceptual("critic", None)
    with pytest.raises(UsageError, match="names no file; write vgg16:FILE"):
        Perceptual("vgg16", None)
    with pytest.raises(UsageError, match="names a file, which it has none; write critic"):
        Perceptual("critic:x", None)
    with pytest.raises(ModelError, match="does not exist"):
        Perceptual(f"vgg16:{tmp_path / 'none.pth'}", None)
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="holds no VGG-16 in torchvision's layout"):
        Perceptual(f"vgg16:{tmp_path / 'other.safetensors'}", None)
    assert len(VGG16().features) == 10
