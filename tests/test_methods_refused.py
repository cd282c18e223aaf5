"""What methods refuse, and edges of what they accept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from method_pairs import REFUSED, VARIANTS, Pair, home
from tiny import (
    assemble,
    make_data,
    make_source,
)

from gantransfer.data import ImageData
from gantransfer.errors import ModelError, UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Target
from gantransfer.registry import methods
from gantransfer.runs import make_method


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("pair", REFUSED, ids=str)
def test_pairs_without_sense_are_refused(pair: Pair, images: ImageData, tmp_path: Path) -> None:
    error, match = REFUSED[pair]
    with pytest.raises(error, match=match):
        assemble(tmp_path, make_source(pair.network), images, pair.method, pair.fields)


def test_every_variant_belongs_to_a_registered_method() -> None:
    assert VARIANTS.keys() <= set(methods) and {pair.method for pair in REFUSED} <= set(methods)
    for method, variants in VARIANTS.items():
        for fields in variants.values():
            make_method(method, fields)


@pytest.mark.parametrize("method", sorted(methods))
def test_one_source_and_no_other_number(method: str) -> None:
    target = Target(10, ("a", "b"), 32, 1)
    if method == "minegan":  # takes any number but none
        with pytest.raises(UsageError, match="mines 1 source or more, not 0"):
            make_method(method, {}).reshape([], target)
        return
    for sources in ([], [make_source(), make_source()]):
        with pytest.raises(UsageError, match="takes one source, not"):
            make_method(method, {}).reshape(sources, target)


@pytest.mark.parametrize("method", sorted(methods))
def test_a_target_without_classes(method: str) -> None:
    """Class-extending methods ask for a class name; the others make an unconditional generator."""
    gan, target = make_source(home(method)), Target(10, (), 32, 1)
    made = make_method(method, {})
    if method in ("bsa", "cgantransfer", "dgn-am", "ppgn"):
        with pytest.raises(UsageError, match="--class-name"):
            made.reshape([gan], target)
        return
    generator = made.reshape([gan], target)
    assert generator.num_classes == 0
    made.plan(generator, [gan], target, AdversarialLoss())


@pytest.mark.parametrize("method", ["freezed", "scratch", "transfergan"])
def test_an_unconditional_source_learns_classes(method: str, images: ImageData, tmp_path: Path) -> None:
    parts = assemble(tmp_path, make_source("unconditional"), images, method, steps=1)
    assert parts.trainer.generator.num_classes == 3
    parts.trainer.run()


@pytest.mark.parametrize("method", sorted(methods))
def test_a_source_without_critic(method: str, images: ImageData, tmp_path: Path) -> None:
    gan = make_source(home(method), critic=False)
    if method in ("scratch", "dgn-am", "ppgn"):
        assemble(tmp_path, gan, images, method, steps=1).trainer.run()
        return
    with pytest.raises(ModelError, match="no discriminator"):
        assemble(tmp_path, gan, images, method)


@pytest.mark.parametrize(("method", "fields", "match"), [
    ("bsa", {"init": "maen"}, "did you mean 'mean'"),
    ("bsa", {"buffers": "offical"}, "did you mean 'official'"),
    ("bsa", {"statistics": "bach"}, "did you mean 'batch'"),
    ("bsa", {"d_embedding": "randm"}, "did you mean 'random'"),
    ("cgantransfer", {"parametrisation": "liner"}, "did you mean 'linear'"),
    ("cgantransfer", {"penalty": "means"}, "did you mean 'mean'"),
    ("cgantransfer", {"statistics": "sources"}, "did you mean 'source'"),
    ("cgantransfer", {"buffers": "moving"}, "buffers 'moving' does not exist"),
    ("transfergan", {"generator": "pretraind"}, "did you mean 'pretrained'"),
    ("transfergan", {"class_init": "meen"}, "did you mean 'mean'"),
    ("freezed", {"frozen_blocks": 5}, "outside 0 to 4"),
    ("freezed", {"frozen_blocks": -1}, "frozen_blocks -1 is not possible; give 0 or more"),
    ("bsa", {"lr": float("nan")}, "lr nan is not possible; give 0 or more"),
    ("bsa", {"lr_d": float("inf")}, "lr_d inf is not possible"), ("scratch", {"beta2": 1.0}, "beta2 1.0 .* below 1"),
    ("cgantransfer", {"lambda_s": -3.0}, "lambda_s -3.0 is not possible"),
    ("cgantransfer", {"residual_scale": 0.0}, "residual_scale 0.0 is not possible; give a positive number"),
    ("cgantransfer", {"finetune_nimg": -5}, "finetune_nimg -5"), ("bsa", {"init_seed": -1}, "init_seed -1"),
])
def test_wrong_fields_are_refused_before_training(
    method: str, fields: dict[str, Any], match: str, images: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=match):
        assemble(tmp_path, make_source(), images, method, fields)


def test_one_target_class_is_enough(images: ImageData, tmp_path: Path) -> None:
    data = images.class_subset(["b"])
    for method in methods:
        network = home(method, "hierarchical")
        parts = assemble(tmp_path / method, make_source(network), data, method, Pair(method, network).fields, steps=1)
        parts.trainer.run()
        assert parts.trainer.generator.num_classes == 1


def test_fields_are_kept_in_a_frozen_dataclass() -> None:
    for name in methods:
        made = make_method(name, {})
        assert replace(made) == made
        with pytest.raises(AttributeError):
            made.init_seed = 3
