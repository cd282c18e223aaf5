"""Adapters: old classes that stay bit-identical, sizes, refusals, damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_pairs import REFUSED, Pair
from tiny import NETWORKS, adapter_of, latents, make_source, same, write_images
from torch import Tensor

import gantransfer as gt
from gantransfer.adapter import read_adapter
from gantransfer.data import ImageData
from gantransfer.errors import ModelError, UsageError
from gantransfer.norm import ClassMixture
from gantransfer.sources import GAN

CONDITIONAL = [name for name in NETWORKS if Pair("bsa", name) not in REFUSED]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    root = write_images(tmp_path_factory.mktemp("data"), dict.fromkeys("abcde", 4))
    return ImageData(root, size=32, channels=1)


class Made:
    """A source and two adapters of it, of three classes and of two."""

    def __init__(self, network: str, folder: Path, data: ImageData) -> None:
        self.data, self.folder = data, folder
        self.gan = make_source(network)
        self.first = adapter_of(folder / "1", self.gan, data, "abc", "cgantransfer")
        self.second = adapter_of(folder / "2", self.gan, data, "de", "bsa")
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
    third = adapter_of(tmp_path, once, made.data, "de", method)
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


def test_adapters_of_any_stage_can_be_added(made: Made, tmp_path: Path) -> None:
    """Two adapters of one extended model, one after the other and from files; order does not change an image."""
    once = gt.extend(made.gan, made.first)
    second, third = (adapter_of(tmp_path / c, once, made.data, c, "cgantransfer") for c in "de")
    all_of_them = gt.extend(once, second, third)
    assert all_of_them.classes == [*once.classes, "d", "e"] and len(all_of_them.lineage) == 3
    other = gt.extend(GAN.from_pretrained(gt.extend(once, third).save_pretrained(tmp_path / "m")), second)
    for name in all_of_them.classes:
        y = [torch.full((4,), gan.classes.index(name)) for gan in (all_of_them, other)]
        torch.testing.assert_close(draw(all_of_them, y[0]), draw(other, y[1]), atol=1e-6, rtol=0)
    merged = gt.merge(all_of_them, second)
    torch.testing.assert_close(draw(merged, torch.zeros(4, dtype=torch.int64)), draw(all_of_them, torch.full((4,), 7)),
                               atol=1e-5, rtol=0)


def test_the_critic_of_an_extended_model_says_what_it_knows(made: Made) -> None:
    images = draw(made.both, torch.tensor([0, 8]))
    assert made.both.discriminator(images, torch.tensor([0, 3])).shape == (2,)
    with pytest.raises(ModelError, match="critic knows 4 classes and was asked about class 8"):
        made.both.discriminator(images, torch.tensor([0, 8]))


def test_a_source_that_was_extended_is_untouched_by_training(made: Made, tmp_path: Path) -> None:
    once = gt.extend(made.gan, made.first)
    before = {k: v.clone() for k, v in once.generator.state_dict().items()}
    adapter_of(tmp_path, once, made.data, "de", "transfergan")
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
    other = adapter_of(tmp_path, plain.gan, images, "cd")
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
