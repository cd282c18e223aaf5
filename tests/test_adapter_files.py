"""Adapter files: what is refused, how large they are, and what happens to damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import adapter_of, make_source, write_images

import gantransfer as gt
from gantransfer import api
from gantransfer.adapter import read_adapter, save_adapter
from gantransfer.data import ImageData
from gantransfer.errors import ModelError
from gantransfer.networks.biggan import BigGANConfig, build_generator
from gantransfer.plan import Target
from gantransfer.runs import make_method
from gantransfer.sources import GAN
from gantransfer.weights import read_tensors, write_tensors


class Plain:
    """A source and an adapter of three classes."""

    def __init__(self, folder: Path, data: ImageData) -> None:
        self.gan = make_source()
        self.first = adapter_of(folder, self.gan, data, "abc", "cgantransfer")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return ImageData(write_images(tmp_path_factory.mktemp("data"), dict.fromkeys("abc", 4)), size=32, channels=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, images: ImageData) -> Plain:
    return Plain(tmp_path_factory.mktemp("plain"), images)


# ---- what extend refuses and merge takes -----------------------------------------------------------------

SHARED = {
    "transfergan": ("transfergan", {}),
    "freezed": ("freezed", {}),
    "scratch": ("scratch", {}),
    "fine-tuning stage": ("cgantransfer", {"match_steps": 0, "finetune_nimg": 4}),
    "official buffers": ("cgantransfer", {"match_steps": 0, "buffers": "official"}),
    "official buffers of bsa": ("bsa", {"buffers": "official"}),
}


@pytest.mark.parametrize(("method", "fields"), SHARED.values(), ids=list(SHARED))
@pytest.mark.parametrize("network", ["tables", "hierarchical"])
def test_adapters_that_changed_shared_weights(
    tmp_path: Path, images: ImageData, network: str, method: str, fields: dict[str, Any]
) -> None:
    gan = make_source(network)
    folder = adapter_of(tmp_path, gan, images, "ab", method, fields)
    with pytest.raises(ModelError) as caught:
        gt.extend(gan, folder)
    message = str(caught.value)
    assert message.endswith("use merge instead") and "\n" not in message and method in message
    assert caught.value.exit_code == 4
    merged = gt.merge(gan, folder)
    assert merged.classes == ["a", "b"] and merged.sample(2).shape == (2, 32, 32, 1)


# ---- sizes -----------------------------------------------------------------------------------------------


def filled(gan: GAN, folder: Path, method: str, classes: int) -> dict[str, int]:
    """The sizes of an adapter all of whose tensors differ from the source's, as after training."""
    target = Target(100, tuple(f"class {i}" for i in range(classes)), gan.config["resolution"], 1)
    made = make_method(method, {})
    generator = made.reshape([gan], target)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        owned = tuple(f"{name}." for name, _ in generator.norms())
        for key, tensor in generator.state_dict().items():
            if key.startswith(owned) and not key.startswith(("output_layer.0.gain", "output_layer.0.bias")):
                tensor.copy_(torch.rand(tensor.shape, generator=rng))
    return save_adapter(folder, generator, gan, "source", made, method, target)


@pytest.mark.parametrize("method", ["bsa", "cgantransfer"])
def test_ten_classes_are_at_most_three_percent_of_the_shipped_architecture(tmp_path: Path, method: str) -> None:
    config = BigGANConfig(channels=1, num_classes=80, z_dim=64, g_widths=(128, 64, 32, 16), d_widths=(16, 32, 64, 128))
    gan = GAN(build_generator(config))
    sizes = filled(gan, tmp_path / "adapter", method, 10)
    generator = (gan.save_pretrained(tmp_path / "model") / "generator.safetensors").stat().st_size
    tensors = [*gan.generator.state_dict().values(), *read_adapter(tmp_path / "adapter").tensors.values()]
    assert {t.dtype for t in tensors} == {torch.float32}
    assert sizes["adapter"] <= 0.03 * generator
    channels = 128 + 64 + 64 + 32 + 32 + 16  # of the class norms' inputs
    assert sizes["per_class"] == 2 * channels * 4
    assert sizes["shared"] == 2 * (channels + 16) * 4  # means and variances, the last norm's too
    assert 0 <= generator - sizes["generator"] < 0.02 * generator  # the file's header


def test_noise_projections_count_once_per_adapter(tmp_path: Path) -> None:
    gan = make_source("hierarchical")
    few, many = (filled(gan, tmp_path / str(n), "bsa", n) for n in (2, 12))
    channels, chunk = 16 + 8 * 5, 2
    projections, statistics = 2 * channels * chunk * 4, 2 * (channels + 8) * 4
    assert few["shared"] == many["shared"] == projections + statistics
    assert few["per_class"] == many["per_class"] == 2 * channels * 4
    assert abs(many["adapter"] - few["adapter"] - 10 * many["per_class"]) < 100  # digits in the header


def test_what_equals_the_source_is_not_stored(tmp_path: Path, images: ImageData) -> None:
    gan = make_source()
    loaded = read_adapter(adapter_of(tmp_path, gan, images, "ab", "cgantransfer", {"statistics": "source"}))
    assert {k.rsplit(".", 2)[1] for k in loaded.tensors} == {"gain", "bias"}
    assert not any("parametriz" in k for k in loaded.tensors)


# ---- damaged and foreign files ---------------------------------------------------------------------------


@pytest.fixture
def copied(plain: Plain, tmp_path: Path) -> Path:
    """A copy of an adapter that a test may damage."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in plain.first.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def _json(**changes: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        meta = json.loads(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            if value is None:
                del meta[key]
            else:
                meta[key] = value
        path.write_text(json.dumps(meta), encoding="utf-8")

    return damage


def _tensors(change: Any, resign: bool = False) -> Any:
    def damage(folder: Path) -> None:
        tensors = read_tensors(folder / "adapter_model.safetensors")
        change(tensors)
        write_tensors(tensors, folder / "adapter_model.safetensors")
        if resign:
            _json(tensors_sha256=None)(folder)

    return damage


def _text(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


def _bit(folder: Path) -> None:
    blob = bytearray((folder / "adapter_model.safetensors").read_bytes())
    blob[-1] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(blob)


def _cut(folder: Path) -> None:
    blob = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(blob[:-7])


KEY = "blocks.0.0.bn1.gain.weight"

DAMAGES = {
    "no json": lambda f: (f / "adapter_config.json").unlink(),
    "broken json": _text("adapter_config.json", '{"method": '),
    "a list": _text("adapter_config.json", "[1]"),
    "an empty object": _text("adapter_config.json", "{}"),
    "no method": _json(method=None),
    "an unknown method": _json(method="cgantransfr"),
    "an unknown field": _json(fields={"lambda": 1}),
    "a field of another type": _json(fields={"lr": "high"}),
    "fields that are none": _json(fields=[1]),
    "a newer format": _json(format_version=99),
    "a format in words": _json(format_version="one"),
    "no target": _json(target=None),
    "a target that is none": _json(target="a, b"),
    "a target without sizes": _json(target={"classes": ["a", "b", "c"]}),
    "another number of classes": _json(
        target={"num_images": 1, "classes": ["a"], "resolution": 32, "channels": 1}),
    "no source places": _json(from_source=None),
    "source places as a list": _json(from_source=["x"]),
    "a source place that is not there": _json(from_source={"linear.weight": "linear.wait"}),
    "no tensors": lambda f: (f / "adapter_model.safetensors").unlink(),
    "cut tensors": _cut,
    "a flipped bit": _bit,
    "other bytes": _text("adapter_model.safetensors", "not tensors"),
    "a tensor missing": _tensors(lambda t: t.pop(KEY)),
    "a tensor missing, resigned": _tensors(lambda t: t.pop(KEY), True),
    "a tensor too many": _tensors(lambda t: t.update(extra=torch.ones(2)), True),
    "a tensor of another shape": _tensors(lambda t: t.update({KEY: torch.ones(3, 2)}), True),
    "a tensor of NaN": _tensors(lambda t: t[KEY].fill_(float("nan")), True),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_adapters(plain: Plain, copied: Path, damage: Any) -> None:
    damage(copied)
    with pytest.raises(ModelError) as caught:
        gt.merge(plain.gan, copied)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_an_adapter_from_before_the_hash_is_read(plain: Plain, copied: Path) -> None:
    _json(tensors_sha256=None)(copied)
    assert gt.merge(plain.gan, copied).sha256 == gt.merge(plain.gan, plain.first).sha256


def test_a_directory_without_adapter(plain: Plain, tmp_path: Path) -> None:
    for verb in (gt.merge, gt.extend):
        with pytest.raises(ModelError, match="holds no adapter"):
            verb(plain.gan, tmp_path)


def test_extend_refuses_another_source(plain: Plain) -> None:
    with pytest.raises(ModelError, match="belongs to source 'tiny'") as caught:
        gt.extend(make_source(seed=1), plain.first)
    assert caught.value.exit_code == 4


def test_an_adapter_says_what_it_is(plain: Plain) -> None:
    found = api.inspect(plain.first)
    assert (found["kind"], found["method"], found["classes"]) == ("adapter", "cgantransfer", ["a", "b", "c"])
    assert found["source_sha256"] == plain.gan.sha256 and found["fields"]["parametrisation"] == "centred"
    card = (plain.first / "README.md").read_text()
    assert plain.gan.sha256 in card and "cgantransfer" in card
