"""Feature extractors: the shipped classifier, Inception-v3 from a file, transformers from a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.features import SHIPPED, Extractor, NetworkExtractor, load_features
from gantransfer.features import registry as extractors
from gantransfer.glyph_cnn import GlyphCNN
from gantransfer.inception import BLOCKS, InceptionV3, load_inception


def pictures(n: int, channels: int = 1, size: int = 32, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=rng, dtype=torch.uint8)


# ------------------------------------------------------------------------------------------------ glyph-cnn


def test_shipped_classifier_card_and_size() -> None:
    extractor = load_features("glyph-cnn")
    assert isinstance(extractor, Extractor)
    card = json.loads((SHIPPED / "glyph-cnn.json").read_text(encoding="utf-8"))
    assert extractor.classes == tuple(card["classes"]) and len(extractor.classes) == 100
    assert card["figures"]["held_out"]["accuracy"] > 0.97
    assert card["figures"]["held_out"]["live_units"] >= 64
    assert (SHIPPED / "glyph-cnn.safetensors").stat().st_size < 1_500_000
    assert sum(p.numel() for p in extractor.network.parameters()) == card["parameters"] < 300_000
    assert extractor.identity.startswith("glyph-cnn@") and len(extractor.identity) == len("glyph-cnn@") + 8


def test_shipped_classifier_reads_shipped_letters_with_every_unit_live() -> None:
    data = pytest.importorskip("gantransfer.data")
    if not (SHIPPED.parent / "data" / "cyrillic10.zip").is_file():
        pytest.skip("the shipped target set is not built yet")
    target = data.ImageData("cyrillic10", per_class=40)
    extractor = load_features("glyph-cnn")
    features, probabilities = extractor(target.images(torch.arange(len(target))))
    names = [extractor.classes[i] for i in probabilities.argmax(1).tolist()]
    right = sum(a == target.classes[b] for a, b in zip(names, target.labels.tolist(), strict=True))
    assert right / len(target) > 0.97
    assert features.shape == (len(target), 128) and float(features.std(0).min()) > 0.05
    assert torch.allclose(probabilities.sum(1), torch.ones(len(target)), atol=1e-5)


def test_features_vary_smoothly_and_ignore_the_batch_size() -> None:
    extractor = load_features("glyph-cnn")
    images = pictures(37)
    features, probabilities = extractor(images)
    again = [extractor(part) for part in images.split(5)]
    assert torch.allclose(torch.cat([f for f, _ in again]), features, atol=1e-4)
    assert torch.allclose(torch.cat([p for _, p in again]), probabilities, atol=1e-5)
    nearly = images.clone()
    nearly[:, :, 5, 5] ^= 1  # one grey level in one pixel
    assert float((extractor(nearly)[0] - features).abs().max()) < 0.1


def test_other_sizes_and_colours_are_converted() -> None:
    extractor = load_features("glyph-cnn")
    grey = pictures(4)
    expected, _ = extractor(grey)
    assert torch.allclose(extractor(grey.expand(-1, 3, -1, -1))[0], expected, atol=1e-4)
    doubled = grey.repeat_interleave(2, 2).repeat_interleave(2, 3)
    smooth = torch.nn.functional.avg_pool2d(pictures(4, size=8).float(), 2).to(torch.uint8)
    assert extractor(doubled)[0].shape == extractor(smooth)[0].shape == expected.shape
    white = torch.full((1, 1, 64, 64), 255, dtype=torch.uint8)  # resizing keeps a plain picture plain
    assert torch.allclose(extractor(white)[0], extractor(white[..., :32, :32])[0], atol=1e-4)


def test_stays_in_eval_mode_without_gradients() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return self.norm(x).flatten(1), None

    extractor = NetworkExtractor("toy", Normed(), "0" * 64, resize=4, dim=16, channels=1)
    extractor.network.train()  # somebody's mistake
    before = {k: v.clone() for k, v in extractor.network.state_dict().items()}
    features, probabilities = extractor(pictures(6, size=4))
    assert not features.requires_grad and probabilities is None and not extractor.network.training
    assert all(torch.equal(before[k], v) for k, v in extractor.network.state_dict().items())


def test_wrong_images_and_broken_weights() -> None:
    extractor = load_features("glyph-cnn")
    with pytest.raises(UsageError, match="float32"):
        extractor(torch.zeros(2, 1, 32, 32))
    with pytest.raises(UsageError, match=r"\[32, 32\]"):
        extractor(torch.zeros(32, 32, dtype=torch.uint8))
    with pytest.raises(UsageError, match="4 channels"):
        extractor(torch.zeros(2, 4, 32, 32, dtype=torch.uint8))
    broken = GlyphCNN(3)
    nn.init.constant_(broken.embed.weight, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        NetworkExtractor("toy", broken, "0" * 64, resize=32, dim=128, channels=1)(pictures(2))


def test_glyph_cnn_from_another_file(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    with pytest.raises(ModelError, match="mine.safetensors' is missing"):
        load_features(f"glyph-cnn:{weights}")
    save_file({k: v.half() for k, v in GlyphCNN(3).state_dict().items()}, weights)
    with pytest.raises(ModelError, match="mine.json' is missing"):
        load_features(f"glyph-cnn:{weights}")
    card = tmp_path / "mine.json"
    card.write_text('{"classes": ["a", "b", "c"]}')
    mine = load_features(f"glyph-cnn:{weights}")
    assert mine.classes == ("a", "b", "c") and mine.identity != load_features("glyph-cnn").identity
    card.write_text('{"classes": ["a", "b"]}')
    with pytest.raises(ModelError, match="shape"):
        load_features(f"glyph-cnn:{weights}")  # the changed file is read again
    card.write_text("{}")
    with pytest.raises(ModelError, match="names no classes"):
        load_features(f"glyph-cnn:{weights}")


# ------------------------------------------------------------------------------------------------ inception


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout: the published ones may not be shipped."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.manual_seed(0)
    network = InceptionV3()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("conv.weight"):  # keep the signal alive through 20 layers
                value.mul_(3)
            if name.endswith("running_mean"):
                value.normal_(0, 0.01)
    torch.save(network.state_dict(), path)
    return path


def test_inception_has_the_published_layout() -> None:
    with torch.device("meta"):
        network = InceptionV3()
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    # 23,834,568 is the published count of Inception-v3 without auxiliary head and with 1000 outputs.
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 + 8 * 2049
    assert shapes["fc.weight"] == (1008, 2048) and shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_6e.branch7x7dbl_2.conv.weight"] == (192, 192, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_4.bn.running_var"] == (192,)
    assert shapes["Mixed_7c.branch3x3dbl_1.conv.weight"] == (448, 2048, 1, 1)
    assert network.Mixed_5d.out == 288 and network.Mixed_6a.out == 768 and network.Mixed_7a.out == 1280
    assert BLOCKS["Mixed_7b"].pool == "mean" and BLOCKS["Mixed_7c"].pool == "max"
    assert network.Mixed_5b.branch1x1.bn.eps == 0.001


def test_inception_pools_like_the_published_fid() -> None:
    with torch.device("meta"):
        network = InceptionV3()
    ones = torch.ones(1, 1, 5, 5)
    assert torch.equal(network.Mixed_5b._pool(ones), ones)  # padding is not counted
    assert torch.equal(network.Mixed_7c._pool(-ones), -ones)  # maximum without zeros from outside
    spot = torch.zeros(1, 1, 5, 5)
    spot[..., 2, 2] = 9
    assert network.Mixed_7b._pool(spot)[0, 0, 1, 1] == 1 and network.Mixed_7c._pool(spot)[0, 0, 1, 1] == 9


def test_inception_round_trip(inception_file: Path, tmp_path: Path) -> None:
    extractor = load_features(f"inception:{inception_file}")
    assert extractor.name == "inception" and extractor.resize == 299 and extractor.dim == 2048
    features, probabilities = extractor(pictures(2, 3, 16))
    assert features.shape == (2, 2048) and probabilities.shape == (2, 1008)
    assert float(features.std()) > 0
    assert torch.equal(extractor(pictures(2, 3, 16))[0], features)
    assert extractor.prepare(pictures(1, 3, 299)).aminmax() == pytest.approx((-1, 1), abs=1e-6)

    other = tmp_path / "same.bin"  # the format is told by content, and step counters may be absent
    state = torch.load(inception_file, weights_only=True)
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, other)
    again = load_features(f"inception:{other}")
    assert torch.equal(again(pictures(2, 3, 16))[0], features)
    assert again.sha256 != extractor.sha256  # another file, another protocol string


def test_wrong_inception_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="inception:/path/to/file"):
        load_features("inception")
    with pytest.raises(ModelError, match="pt_inception-2015-12-05") as caught:
        load_features(f"inception:{tmp_path / 'absent.pth'}")
    assert caught.value.exit_code == 4 and "http" not in str(caught.value)
    wrong = tmp_path / "wrong.pth"
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in InceptionV3().state_dict().items()}
    torch.save({k: torch.zeros(s) for k, s in shapes.items() if k.startswith("Conv2d")}, wrong)
    with pytest.raises(ModelError, match="missing"):
        load_features(f"inception:{wrong}")
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, wrong)
    with pytest.raises(ModelError, match="pt_inception-2015-12-05"):
        load_inception(wrong)
    wrong.write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ModelError, match="wrong.pth"):
        load_inception(wrong)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("pwned-by-a-pickle"),))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError):
        load_features("inception:evil.pth")
    assert not (tmp_path / "pwned-by-a-pickle").exists()


# -------------------------------------------------------------------------------------------- dinov2, clip


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_missing_extra_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"gantransfer\[features\]"):
        load_features(f"{name}:{tmp_path}")


def tiny_model(name: str) -> nn.Module:
    transformers = pytest.importorskip(
        "transformers", reason="the extra gantransfer[features] is not installed"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
    if name == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**shape, image_size=28))
    config = transformers.CLIPVisionConfig(**shape, intermediate_size=32, image_size=28, projection_dim=12)
    return transformers.CLIPVisionModelWithProjection(config)


@pytest.mark.parametrize(("name", "dim", "size"), [("dinov2", 16, 224), ("clip", 12, 28)])
def test_transformers_from_a_local_folder(name: str, dim: int, size: int, tmp_path: Path) -> None:
    model = tiny_model(name)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    extractor = load_features(f"{name}:{folder}")
    images = pictures(3, 3, 40)
    features, probabilities = extractor(images)
    assert features.shape == (3, dim) and probabilities is None
    assert extractor.resize == size and extractor.identity.startswith(f"{name}@")
    out = model.eval()(pixel_values=extractor.prepare(images))
    expected = out.image_embeds if name == "clip" else out.pooler_output
    assert torch.allclose(features, expected, atol=1e-5)
    assert extractor(pictures(2, 1, 20))[0].shape == (2, dim)  # grey and small


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_wrong_folders(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra gantransfer[features] is not installed")
    for spec in (name, f"{name}:{tmp_path / 'absent'}", f"{name}:{tmp_path}"):
        with pytest.raises(ModelError, match="config.json"):
            load_features(spec)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="safetensors"):
        load_features(f"{name}:{tmp_path}")


# ------------------------------------------------------------------------------------------------ registry


def test_random_features_are_the_same_everywhere_and_grow_with_the_damage() -> None:
    """Their identity is of drawn weights, so another machine's or version's numbers would be noticed."""
    extractor = load_features("random-conv")
    assert extractor.identity == "random-conv@40374ad2" and extractor.dim == 256
    base = torch.nn.functional.interpolate(torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0)), 32,
                                           mode="bilinear")
    features, probabilities = extractor((base * 255).to(torch.uint8))
    assert features.shape == (200, 256) and probabilities is None
    distances = []
    for damage in (0.02, 0.1, 0.4):
        noisy = base + damage * torch.randn(base.shape, generator=torch.Generator().manual_seed(1))
        distances.append(float((extractor((noisy.clamp(0, 1) * 255).to(torch.uint8))[0] - features).norm(dim=1).mean()))
    assert distances == sorted(distances) and distances[2] > 5 * distances[0]
    red, blue = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0], blue[:, 2] = 255, 255
    assert (extractor(red)[0] - extractor(blue)[0]).norm() > 1
    with pytest.raises(UsageError, match="names a file, which these features do not have"):
        load_features("random-conv:x.safetensors")


def test_names() -> None:
    assert {"glyph-cnn", "inception", "dinov2", "clip"} <= set(extractors)
    with pytest.raises(UsageError, match="did you mean 'glyph-cnn'"):
        load_features("glyphcnn")
    mine = load_features("glyph-cnn")
    assert load_features(mine) is mine and load_features("glyph-cnn") is mine


def test_shipped_weights_are_half_precision() -> None:
    assert {t.dtype for t in load_file(SHIPPED / "glyph-cnn.safetensors").values()} == {torch.float16}
