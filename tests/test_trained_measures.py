"""The independent critic and the classifiers, where the answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bars import bars
from command import Capture, call
from PIL import Image
from tiny import make_source, write_images
from torch import Tensor

import gantransfer as gt
from gantransfer.errors import DataError, UsageError
from gantransfer.losses import gradient_penalty
from gantransfer.sampling import sampler
from gantransfer.trained_measures import Budget, checked, independent_wasserstein, measure

SHORT = Budget(steps=12, batch_size=8, width=2)


def drawn(low: int, high: int, n: int, seed: int) -> Tensor:
    return sampler(bars(low, high, "").generator)(torch.zeros(n, dtype=torch.int64), seed)


def test_iw_is_eq_6_and_grows_with_the_distance() -> None:
    """Not negative for what the critic learned, near 0 for the same distribution; the tables' value is its negative."""
    real = drawn(0, 14, 80, 0)
    found = [independent_wasserstein(real, drawn(*where, 80, 1), SHORT) for where in ((0, 14), (4, 18), (16, 28))]
    same, near, far = (f["value"] for f in found)
    assert abs(same) < 0.3 * near < near < far
    curve = dict(found[2]["curve"])
    assert found[2]["rise"] == pytest.approx(curve[12] / curve[4] - 1) and found[2]["rise"] > 0.1
    assert found[2]["table_value"] == -far and found[2]["better"] == "lower"
    assert [step for step, _ in found[2]["curve"]] == [0, 1, 2, 4, 8, 12] and found[2]["curve"][-1][1] == far
    assert {k: found[0][k] for k in ("steps", "batch_size", "width", "seed", "n_real", "n_fake")} == {
        "steps": 12, "batch_size": 8, "width": 2, "seed": 0, "n_real": 80, "n_fake": 80}


def test_iw_has_its_own_seed_and_leaves_the_global_one_alone() -> None:
    real, fake = drawn(0, 14, 64, 0), drawn(10, 24, 64, 1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = independent_wasserstein(real, fake, SHORT)
    torch.randn(5)
    torch.set_rng_state(state)
    assert independent_wasserstein(real, fake, SHORT) == first and torch.equal(torch.get_rng_state(), state)
    other = independent_wasserstein(real, fake, Budget(steps=12, batch_size=8, width=2, seed=1))
    assert other["value"] != first["value"]


def test_unseen_images_are_measured_beside() -> None:
    real, fake = drawn(0, 14, 64, 0), drawn(16, 28, 64, 1)
    found = independent_wasserstein(real, fake, SHORT, (drawn(0, 14, 64, 2), drawn(16, 28, 64, 3)))
    assert found["unseen"] == pytest.approx(found["value"], rel=0.3)
    assert independent_wasserstein(real, fake, SHORT)["unseen"] is None


def test_the_penalty_is_the_training_one() -> None:
    """A critic of slope 1 everywhere is not punished."""
    critic = torch.nn.Flatten(0)
    x = torch.zeros(3, 1, 1, 1)
    assert gradient_penalty(lambda images, labels: critic(images), x, x + 1, None, torch.Generator()) == 0


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ in where the bar is."""
    root = tmp_path_factory.mktemp("places")
    for name, (low, high), seed in (("down", (18, 28), 1), ("up", (0, 12), 0)):
        (root / name).mkdir()
        for i, image in enumerate(drawn(low, high, 80, seed)):
            Image.fromarray(image[0].numpy()).save(root / name / f"{i}.png")
    return root


def of_classes(names: str) -> Any:
    """(labels, seed) -> images: class 0 down and class 1 up, or as `names` says."""
    where = {"right": ((18, 28), (0, 12)), "swapped": ((0, 12), (18, 28)), "one image": ((20, 21), (4, 5))}[names]

    def sample(labels: Tensor, seed: int) -> Tensor:
        both = [drawn(*place, len(labels), seed + i) for i, place in enumerate(where)]
        return torch.where(labels.view(-1, 1, 1, 1) == 0, *both)

    return sample


@pytest.mark.parametrize(("names", "recognised", "taught"), [
    ("right", 1, 1), ("swapped", 0, 0), ("one image", 1, None)])
def test_classifiers_know_right_samples_from_swapped_ones(
    places: Path, names: str, recognised: float, taught: float | None
) -> None:
    data = gt.ImageData(places, size=32, channels=1)
    found = measure(["classifier"], of_classes(names), data, None, n_fake=80,
                    budget=Budget(steps=30, batch_size=16, width=2))["classifier"]
    assert found["real_on_real"] > 0.9 and found["recognised"] == pytest.approx(recognised, abs=0.1)
    assert found["n_train"] == found["n_test"] == 80 and list(found["per_class"]) == ["down", "up"]
    if taught is None:
        assert found["generated_on_real"] <= found["real_on_real"]
    else:
        assert found["generated_on_real"] == pytest.approx(taught, abs=0.15)


def test_evaluate_has_them_beside_the_metrics(places: Path, tmp_path: Path, capsys: Capture) -> None:
    gan = make_source("wgan_gp", num_classes=2)
    gan.classes = ["down", "up"]
    source = gan.save_pretrained(tmp_path / "model")
    found = gt.evaluate(gan, places, data_options={"per_class": 8}, metrics="frechet", n_fake=64,
                        trained="iw,classifier", budget={"steps": 2, "batch_size": 4, "width": 2})
    assert set(found["trained"]) == {"iw", "classifier"} and json.loads(json.dumps(found)) == found
    assert found["trained"]["iw"]["n_real"] == 72 and found["trained"]["iw"]["unseen"] is not None
    assert found["trained"]["classifier"]["n_train"] == 16 and found["trained"]["classifier"]["n_test"] == 72
    code, out, err = call(capsys, "evaluate", source, "--data", places, "--metrics", "frechet,intra_frechet",
                          "--n-fake", 64, "--trained", "iw,classifier", "--budget", 2, "--budget-seed", 5)
    assert code == 0, err
    for expected in ("independent Wasserstein critic (eq. 6, lower is better)", "classifier of real images: recognises",
                     "iw: 2 iterations of 64 images, width 8, seed 5", "down", "Fréchet distance within classes"):
        assert expected in out, out
    _, _, err = call(capsys, "evaluate", source, "--data", places, "--metrics", "frechet", "--n-fake", 64, "--trained",
                     "iw", "--budget", 8)
    assert "the last half of its 8 iterations: it orders what is far apart" in err


def test_what_is_refused(places: Path, tmp_path: Path) -> None:
    gan = make_source("unconditional")
    few = write_images(tmp_path / "few", {"": 20})
    with pytest.raises(DataError, match="20 validation images are too few for an independent critic.*at least 64"):
        gt.evaluate(gan, few, metrics="frechet", n_fake=64, trained="iw")
    with pytest.raises(UsageError, match="n_fake=16 generated images are too few for an independent critic"):
        gt.evaluate(gan, few, metrics="frechet", n_fake=16, trained="iw")
    with pytest.raises(UsageError, match="two classes or more that images and model have, and there are 0"):
        gt.evaluate(gan, few, metrics="frechet", n_fake=16, trained="classifier")
    with pytest.raises(UsageError, match="trained measure .iv. does not exist; did you mean .iw.\\?"):
        gt.evaluate(gan, few, trained=["iv"])
    with pytest.raises(UsageError, match="steps 0 of a trained measure is not possible"):
        gt.evaluate(gan, few, trained="iw", budget={"steps": 0})
    with pytest.raises(UsageError, match="budget has no .*'iterations'"):
        gt.evaluate(gan, few, trained="iw", budget={"iterations": 3})
    assert checked(" iw, classifier") == ["iw", "classifier"]
    small = make_source("tables", num_classes=2)
    small.classes = ["a", "b"]
    with pytest.raises(DataError, match="a class has 3 real images, too few to try a classifier on"):
        gt.evaluate(small, write_images(tmp_path / "three", {"a": 3, "b": 9}), metrics="frechet", n_fake=16,
                    trained="classifier")
