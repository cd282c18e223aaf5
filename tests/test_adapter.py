"""Adapters: old classes that stay bit-identical, sizes, refusals, damaged files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import NETWORKS, assemble, latents, make_source, same, write_images
from torch import Tensor

import gantransfer as gt
from gantransfer import api
from gantransfer.adapter import read_adapter, save_adapter
from gantransfer.data import ImageData
from gantransfer.errors import ModelError, UsageError
from gantransfer.modulation import fold
from gantransfer.networks.biggan import BigGANConfig, build_generator
from gantransfer.norm import ClassMixture
from gantransfer.plan import Target
from gantransfer.runs import make_method
from gantransfer.sources import GAN
from gantransfer.weights import read_tensors, write_tensors

CONDITIONAL = [name for name in NETWORKS if name != "unconditional"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    root = write_images(tmp_path_factory.mktemp("data"), dict.fromkeys("abcde", 4))
    return ImageData(root, size=32, channels=1)


def adapt(folder: Path, gan: GAN, data: ImageData, classes: Sequence[str], method: str = "bsa",
          fields: Mapping[str, Any] | None = None) -> Path:
    """The adapter of two iterations at a high rate."""
    fast = {"lr": 0.05} if method in ("bsa", "cgantransfer") else {}
    parts = assemble(folder / "run", gan, data.class_subset(list(classes)), method, {**fast, **(fields or {})}, steps=2,
                     eval_nimg=0, checkpoint_nimg=0)
    parts.trainer.run()
    best = fold(copy.deepcopy(parts.trainer.ema.module))
    save_adapter(folder / "adapter", best, gan, "tiny", parts.method, method, parts.target)
    return folder / "adapter"


class Made:
    """A source and two adapters of it, of three classes and of two."""

    def __init__(self, network: str, folder: Path, data: ImageData) -> None:
        self.data, self.folder = data, folder
        self.gan = make_source(network)
        self.first = adapt(folder / "1", self.gan, data, "abc", "cgantransfer")
        self.second = adapt(folder / "2", self.gan, data, "de", "bsa")
        self.both = gt.extend(self.gan, self.first, self.second)


@pytest.fixture(scope="module", params=CONDITIONAL)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: ImageData) -> Made:
    return Made(request.param, tmp_path_factory.mktemp("made"), images)


@torch.no_grad()
def draw(gan: GAN, y: Tensor | ClassMixture, seed: int = 0) -> Tensor:
    n = len(y.weights if isinstance(y, ClassMixture) else y)
    return gan.generator(latents(gan, n, seed)[0], y)


# ---- extending -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["blocks", "mixed", "mostly new", "one old"])
def test_old_classes_are_bit_identical_in_any_batch(made: Made, order: str) -> None:
    """The comparison batch has the same shape and latents, with old classes in the new ones' places."""
    labels = {
        "blocks": [0, 1, 2, 3, 4, 5, 6, 7, 8],
        "mixed": [8, 0, 4, 1, 7, 2, 5, 3, 6, 0, 8],
        "mostly new": [4, 5, 6, 7, 8, 4, 2, 8, 7],
        "one old": [3] + [8] * 15,
    }[order]
    y = torch.tensor(labels)
    old = y < 4
    for filler in (0, 3):
        before = draw(made.gan, y.where(old, filler))
        assert torch.equal(draw(made.both, y)[old], before[old])
    assert torch.equal(draw(made.both, y.where(old, 1)), draw(made.gan, y.where(old, 1)))


def test_new_classes_equal_the_merged_models(made: Made) -> None:
    for adapter, start, count in ((made.first, 4, 3), (made.second, 7, 2)):
        merged = gt.merge(made.gan, adapter)
        own = torch.arange(12) % count
        y = own + start
        torch.testing.assert_close(draw(made.both, y), draw(merged, own), atol=1e-5, rtol=0)
        y[::3] = 0  # beside old classes too
        torch.testing.assert_close(draw(made.both, y)[1::3], draw(merged, own)[1::3], atol=1e-5, rtol=0)
        assert not torch.allclose(draw(merged, own), draw(made.gan, own), atol=1e-3)


def test_classes_follow_in_order_and_the_source_is_untouched(made: Made) -> None:
    assert made.gan.classes == ["0", "1", "2", "3"]
    assert made.both.classes == ["0", "1", "2", "3", "a", "b", "c", "d", "e"]
    assert made.both.generator.num_classes == 9 and made.both.config["extensions"] == [3, 2]
    assert made.both.sha256 != made.both.base_sha256 == made.gan.sha256 == make_again(made).sha256
    other = gt.extend(made.gan, made.second, made.first)
    assert other.classes[4:] == ["d", "e", "a", "b", "c"]
    z = latents(made.gan, 1)[0]
    with torch.no_grad():
        a, b = (g.generator(z, torch.tensor([g.classes.index("e")])) for g in (made.both, other))
    assert torch.equal(a, b)


def make_again(made: Made) -> GAN:
    return made.gan.__class__(made.gan.generator, made.gan.discriminator)


def test_one_at_a_time_equals_both_at_once(made: Made) -> None:
    twice = gt.extend(gt.extend(made.gan, made.first), made.second)
    assert twice.sha256 == made.both.sha256 and twice.base_sha256 == made.gan.sha256


def test_an_extended_model_is_saved_and_loaded_whole(made: Made, tmp_path: Path) -> None:
    again = GAN.from_pretrained(made.both.save_pretrained(tmp_path / "model"))
    assert (again.sha256, again.base_sha256, again.classes) == (
        made.both.sha256, made.gan.sha256, made.both.classes)
    y = torch.arange(9)
    assert torch.equal(draw(again, y), draw(made.both, y))
    assert again.discriminator is not None
    assert same(dict(again.discriminator.state_dict()), dict(made.gan.discriminator.state_dict()))
    # Adapters of the base attach to it, and merging from it equals merging from the base.
    once = GAN.from_pretrained(gt.extend(made.gan, made.first).save_pretrained(tmp_path / "once"))
    assert gt.extend(once, made.second).sha256 == made.both.sha256
    assert gt.merge(again, made.first).sha256 == gt.merge(made.gan, made.first).sha256


def test_a_model_without_critic_extends_too(made: Made) -> None:
    bare = GAN(made.gan.generator)
    assert gt.extend(bare, made.first).discriminator is None


@pytest.mark.parametrize("method", ["bsa", "cgantransfer"])
def test_an_adapter_trained_on_an_extended_model(made: Made, tmp_path: Path, method: str) -> None:
    """Knowledge may come from the first adapter's classes; everything before stays bit-identical."""
    once = gt.extend(made.gan, made.first)
    third = adapt(tmp_path, once, made.data, "de", method)
    twice = gt.extend(once, third)
    assert twice.classes == [*once.classes, "d", "e"]
    assert (twice.base_sha256, read_adapter(third).source_sha256) == (made.gan.sha256, once.sha256)
    y = torch.tensor([8, 0, 4, 7, 6, 3, 5, 8, 1, 2])
    before = y < 7
    assert torch.equal(draw(twice, y)[before], draw(once, y.where(before, 0))[before])
    merged = gt.merge(once, third)
    torch.testing.assert_close(draw(twice, y)[~before], draw(merged, (y - 7).clamp_min(0))[~before], atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="belongs to source"):
        gt.extend(made.gan, third)
    again = GAN.from_pretrained(twice.save_pretrained(tmp_path / "model"))
    assert torch.equal(draw(again, y), draw(twice, y))


def test_a_source_that_was_extended_is_untouched_by_training(made: Made, tmp_path: Path) -> None:
    once = gt.extend(made.gan, made.first)
    before = {k: v.clone() for k, v in once.generator.state_dict().items()}
    adapt(tmp_path, once, made.data, "de", "transfergan")
    assert same(before, dict(once.generator.state_dict()))


def test_a_mixture_of_an_old_and_a_new_class(made: Made) -> None:
    def mixture(a: int, b: int, share: float, n: int = 4) -> ClassMixture:
        weights = torch.zeros(n, 9)
        weights[:, a] += 1 - share
        weights[:, b] += share
        return ClassMixture(weights)

    for a, b in ((1, 5), (5, 8), (0, 3)):
        ends = [draw(made.both, torch.full((4,), c)) for c in (a, b)]
        torch.testing.assert_close(draw(made.both, mixture(a, b, 0.0)), ends[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(draw(made.both, mixture(a, b, 1.0)), ends[1], atol=1e-5, rtol=0)
        middle = draw(made.both, mixture(a, b, 0.5))
        assert torch.isfinite(middle).all()
        assert all(float((middle - end).abs().max()) > 1e-3 for end in ends)


# ---- names -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, images: ImageData) -> Made:
    return Made("tables", tmp_path_factory.mktemp("plain"), images)


def test_a_class_that_exists_is_refused_and_renamed(plain: Made, tmp_path: Path) -> None:
    gan = GAN(plain.gan.generator, classes=["a", "x", "y", "z"])
    with pytest.raises(UsageError, match="class 'a' .*exists already; rename it with --rename a=NEW") as caught:
        gt.extend(gan, plain.first)
    assert caught.value.exit_code == 2
    assert gt.extend(gan, plain.first, rename={"a": "ä"}).classes == ["a", "x", "y", "z", "ä", "b", "c"]
    with pytest.raises(UsageError, match="class 'x' .*exists already"):
        gt.extend(gan, plain.first, rename={"a": "x"})
    with pytest.raises(UsageError, match="class 'b' .*exists already"):
        gt.extend(gan, plain.first, rename={"a": "b"})


def test_two_adapters_with_the_same_classes(plain: Made, tmp_path: Path, images: ImageData) -> None:
    other = adapt(tmp_path, plain.gan, images, "cd")
    with pytest.raises(UsageError, match=f"class 'c' of adapter '{other}' exists already"):
        gt.extend(plain.gan, plain.first, other)
    found = gt.extend(plain.gan, plain.first, other, rename={"c": "c2", "b": "b2"})
    assert found.classes[4:] == ["a", "b2", "c", "c2", "d"]


def test_a_name_to_rename_that_no_adapter_has(plain: Made) -> None:
    with pytest.raises(UsageError, match="no adapter has a class 'A' to rename.*have: a, b, c"):
        gt.extend(plain.gan, plain.first, rename={"A": "B"})


def test_no_adapter_at_all(plain: Made) -> None:
    with pytest.raises(UsageError, match="no adapter was given"):
        gt.extend(plain.gan)


# ---- what extend refuses and merge takes -----------------------------------------------------------------

SHARED = {
    "transfergan": ("transfergan", {}),
    "freezed": ("freezed", {}),
    "scratch": ("scratch", {}),
    "fine-tuning stage": ("cgantransfer", {"finetune_nimg": 4}),
    "official buffers": ("cgantransfer", {"buffers": "official"}),
    "official buffers of bsa": ("bsa", {"buffers": "official"}),
}


@pytest.mark.parametrize(("method", "fields"), SHARED.values(), ids=list(SHARED))
@pytest.mark.parametrize("network", ["tables", "hierarchical"])
def test_adapters_that_changed_shared_weights(
    tmp_path: Path, images: ImageData, network: str, method: str, fields: dict[str, Any]
) -> None:
    gan = make_source(network)
    folder = adapt(tmp_path, gan, images, "ab", method, fields)
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
    loaded = read_adapter(adapt(tmp_path, gan, images, "ab", "cgantransfer", {"statistics": "source"}))
    assert {k.rsplit(".", 2)[1] for k in loaded.tensors} == {"gain", "bias"}
    assert not any("parametriz" in k for k in loaded.tensors)


# ---- damaged and foreign files ---------------------------------------------------------------------------


@pytest.fixture
def copied(plain: Made, tmp_path: Path) -> Path:
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
def test_damaged_adapters(plain: Made, copied: Path, damage: Any) -> None:
    damage(copied)
    with pytest.raises(ModelError) as caught:
        gt.merge(plain.gan, copied)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_an_adapter_from_before_the_hash_is_read(plain: Made, copied: Path) -> None:
    _json(tensors_sha256=None)(copied)
    assert gt.merge(plain.gan, copied).sha256 == gt.merge(plain.gan, plain.first).sha256


def test_a_directory_without_adapter(plain: Made, tmp_path: Path) -> None:
    for verb in (gt.merge, gt.extend):
        with pytest.raises(ModelError, match="holds no adapter"):
            verb(plain.gan, tmp_path)


def test_extend_refuses_another_source(plain: Made) -> None:
    with pytest.raises(ModelError, match="belongs to source 'tiny'") as caught:
        gt.extend(make_source(seed=1), plain.first)
    assert caught.value.exit_code == 4


def test_an_adapter_says_what_it_is(plain: Made) -> None:
    found = api.inspect(plain.first)
    assert (found["kind"], found["method"], found["classes"]) == ("adapter", "cgantransfer", ["a", "b", "c"])
    assert found["source_sha256"] == plain.gan.sha256 and found["fields"]["parametrisation"] == "centred"
    card = (plain.first / "README.md").read_text()
    assert plain.gan.sha256 in card and "cgantransfer" in card
