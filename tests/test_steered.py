"""Iterative sampling: its update and priors in closed form, and the two methods around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Capture, call
from safetensors.torch import save_file
from tiny import assemble, latents, make_data, make_source
from torch import Tensor, nn

from gantransfer import api
from gantransfer.adapter import save_adapter
from gantransfer.data import ImageData
from gantransfer.errors import ModelError, UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.norm import class_rows
from gantransfer.plan import Target
from gantransfer.registry import architectures
from gantransfer.runs import make_method
from gantransfer.sources import GAN

QUICK = {"iterations": 3, "classifier_width": 4}


def steered(network: str = "tables", method: str = "ppgn", classes: int = 3, **fields: Any) -> nn.Module:
    target = Target(12, tuple("abcdef"[:classes]), 32, 1)
    return make_method(method, {**QUICK, **fields}).reshape([make_source(network)], target)


def drawn(generator: nn.Module, n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    u = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return u, torch.arange(n) % generator.num_classes


# ---- codes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["tables", "shared", "hierarchical", "gp_gan", "wgan_gp", "wgan_gp-concat"])
def test_a_code_at_a_source_class_gives_that_class(network: str) -> None:
    gan, generator = make_source(network), steered(network)
    z, y = latents(gan, 4)
    count = gan.generator.num_classes
    code = torch.cat([z, count**0.5 * nn.functional.one_hot(y, count)], 1)
    with torch.no_grad():
        torch.testing.assert_close(generator.image(code), gan.generator(z, y), atol=1e-5, rtol=0)


def test_normal_codes_have_the_mean_and_covariance_of_the_sources_classes() -> None:
    """The mix is linear in c, so unit vectors give its factor: their outer products sum to the covariance."""
    gan = make_source()
    scales = class_rows(next(norm for _, norm in gan.generator.class_norms()), None)[0].double()
    count = len(scales)
    eye = torch.eye(count).double()
    weights = (eye - eye.mean(1, keepdim=True)) / count**0.5
    factor = weights @ scales
    centred = scales - scales.mean(0)
    torch.testing.assert_close(factor.t() @ factor, centred.t() @ centred / count)


def test_unconditional_sources_have_codes_of_latents_alone() -> None:
    gan, generator = make_source("unconditional"), steered("unconditional")
    z, _ = latents(gan, 3)
    assert generator.z_dim == gan.generator.z_dim
    with torch.no_grad():
        assert torch.equal(generator.image(z), gan.generator(z, None))


# ---- the update ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["gaussian", "dae", "joint"])
def test_an_update_is_the_papers(prior: str) -> None:
    generator = steered(prior=prior, prior_step=0.1, class_step=0.7, noise=0.3)
    h, y = drawn(generator)
    n = torch.randn(h.shape)
    free = h.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(generator.classifier(generator.image(free)).log_softmax(1)[range(4), y].sum(),
                                      free)
    with torch.no_grad():
        restored = {"gaussian": lambda: 0 * h, "dae": lambda: generator.denoiser(h),
                    "joint": lambda: generator.denoiser(generator.image(h))}[prior]()
    wanted = h + 0.1 * (restored - h) + 0.7 * gradient + 0.3 * n
    torch.testing.assert_close(generator.step(h, y, n), wanted, atol=1e-5, rtol=1e-5)


def test_activation_maximisation_raises_the_logit_inside_its_box() -> None:
    generator = steered(method="dgn-am", prior_step=0.0, class_step=0.02, clip=1.5, iterations=20)
    u, y = drawn(generator)
    inside = u.clamp(-1.5, 1.5)
    found = generator.codes(u, y)
    assert float(found.abs().max()) <= 1.5
    with torch.no_grad():
        before, after = (generator.classifier(generator.image(h))[range(4), y] for h in (inside, found))
    assert bool((after > before).all())
    shrunk = steered(method="dgn-am", prior_step=0.5, class_step=0.0, clip=0.0)
    torch.testing.assert_close(shrunk.codes(u, y), u / 8)  # three times half of it


def test_the_same_latent_is_the_same_image_in_every_batch_and_mode() -> None:
    generator = steered(noise=0.5)
    u, y = drawn(generator, 6)
    whole = generator(u, y)
    torch.testing.assert_close(generator(u[4:], y[4:]), whole[4:], atol=1e-5, rtol=0)
    with torch.inference_mode():
        assert torch.equal(generator(u, y), whole)
    assert not torch.equal(steered(noise=0.1)(u, y), whole)
    assert all(p.requires_grad for p in generator.parameters()) and not whole.requires_grad


def test_a_denoiser_of_codes_finds_the_known_optimum() -> None:
    """For standard normal codes and noise of deviation s it is h / (1 + s^2), with a mean error of s^2 / (1 + s^2)."""
    generator = steered("unconditional", prior="dae", prior_width=8)
    optimizer, rng = torch.optim.Adam(generator.denoiser.parameters(), 5e-3), torch.Generator().manual_seed(0)
    for _ in range(400):
        h = torch.randn(256, generator.z_dim, generator=rng)
        loss = sum(architectures["steered"].reconstruction(generator, h, 1.0, rng).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    h = torch.randn(2000, generator.z_dim, generator=rng)
    with torch.no_grad():
        towards = generator.denoised(h) - h
        error = float(architectures["steered"].reconstruction(generator, h, 1.0, rng)["code"])
    assert error == pytest.approx(0.5, abs=0.1)
    assert float(nn.functional.cosine_similarity(towards.flatten(), -h.flatten(), 0)) > 0.8


def test_the_joint_prior_learns_code_image_and_features_of_generated_data() -> None:
    generator = steered()
    h, _ = drawn(generator)
    terms = architectures["steered"].reconstruction(generator, h, 0.0, torch.Generator())
    assert terms.keys() == {"code", "image", "features"}
    with torch.no_grad():
        images = generator.image(h)
        found = generator.denoiser(images)
        again = generator.image(found)
    torch.testing.assert_close(terms["code"].detach(), (found - h).square().mean())
    torch.testing.assert_close(terms["image"].detach(), (again - images).square().mean())
    noisy = architectures["steered"].reconstruction(generator, h, 0.5, torch.Generator().manual_seed(0))
    assert float(noisy["code"].detach()) != float(terms["code"].detach())


# ---- the methods -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return make_data(tmp_path_factory.mktemp("images"))


def test_a_given_classifier_is_taken_and_not_trained(images: ImageData, tmp_path: Path) -> None:
    gan = make_source()
    parts = assemble(tmp_path / "first", gan, images, "dgn-am", QUICK, steps=2)
    parts.trainer.run()
    save_adapter(tmp_path / "adapter", parts.trainer.ema.module, gan, "tiny", parts.method, "dgn-am", parts.target)
    fields = {**QUICK, "classifier": str(tmp_path / "adapter")}
    second = assemble(tmp_path / "second", gan, images, "ppgn", fields, steps=1).trainer
    wanted = parts.trainer.ema.module.classifier.state_dict()
    assert list(second.plan.groups) == ["R"]
    second.run()
    assert all(torch.equal(v, wanted[k]) for k, v in second.generator.classifier.state_dict().items())
    bare = tmp_path / "classifier.safetensors"
    save_file({k: v.contiguous() for k, v in wanted.items()}, bare)
    third = assemble(tmp_path / "third", gan, images, "dgn-am", {**QUICK, "classifier": str(bare)}, steps=1).trainer
    assert not third.plan.phases and third.run().step == 1
    with pytest.raises(ModelError, match="knows a b c and the target has a b"):
        assemble(tmp_path / "fourth", gan, images.class_subset(["a", "b"]), "ppgn", fields)
    with pytest.raises(ModelError, match="does not exist"):
        assemble(tmp_path / "fifth", gan, images, "ppgn", {"classifier": str(tmp_path / "none.safetensors")})


def test_a_merged_model_is_saved_sampled_and_no_source(images: ImageData, tmp_path: Path) -> None:
    gan = make_source("shared")  # with standing statistics
    parts = assemble(tmp_path / "run", gan, images, "ppgn", {**QUICK, "noise": 0.1}, steps=1)
    parts.trainer.run()
    save_adapter(tmp_path / "adapter", parts.trainer.ema.module, gan, "tiny", parts.method, "ppgn", parts.target)
    merged = api.merge(gan, tmp_path / "adapter")
    again = GAN.from_pretrained(merged.save_pretrained(tmp_path / "model"))
    assert again.classes == ["a", "b", "c"] and again.config["arch"] == "steered"
    assert (again.sample(4, classes="b", seed=3) == merged.sample(4, classes="b", seed=3)).all()
    with pytest.raises(ModelError, match="use merge instead"):
        api.extend(gan, tmp_path / "adapter")
    for method in ("dgn-am", "transfergan", "scaleshift"):
        with pytest.raises(ModelError, match="samples iteratively is no source for another"):
            make_method(method, {}).reshape([again], Target(4, ("x", "y"), 32, 1))
    with pytest.raises(ModelError, match="asked for class 3"):
        again.generator(torch.zeros(1, again.generator.z_dim), torch.tensor([3]))


def test_a_given_classifier_by_the_library(
    images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `gt.adapt`, which tries a method on a stand-in first: its classes are not the target's."""
    gan = make_source()
    settings = {"steps": 3, "batch_size": 4, "log_nimg": 4, "checkpoint_nimg": 4, "device": "cpu", "evaluate": False}
    first = api.adapt(gan, images, "dgn-am", tmp_path / "first", **QUICK, **settings)
    monkeypatch.chdir(tmp_path)  # a name that another folder does not know
    again = api.adapt(gan, images, "dgn-am", tmp_path / "again", **QUICK, **settings, classifier="first")
    assert f"classifier: {first.path.resolve()}" in (again.path / "config.yaml").read_text()
    lines = [json.loads(line) for line in (again.path / "stats.jsonl").read_text().splitlines()]
    assert [line["nimg"] for line in lines] == [4, 8, 12]  # nothing looks at an image: those drawn are counted
    for classifier, match in ((tmp_path / "none", "does not exist"), (tmp_path / "none.safetensors", "does not exist")):
        with pytest.raises(ModelError, match=match):
            api.adapt(gan, images, "ppgn", tmp_path / "no", **QUICK, **settings, classifier=str(classifier))
    with pytest.raises(ModelError, match="knows a b c and the target has a b"):
        api.adapt(gan, images.class_subset(["a", "b"]), "ppgn", tmp_path / "no", **QUICK, **settings,
                  classifier=str(first.path))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("method", "setting"), [
    ("dgn-am", {"augment": "ada"}), ("ppgn", {"loss": "wgan-gp"}), ("bsa-published", {"d_steps": 3}),
    ("bsa-published", {"mirror": True}),
])
def test_what_only_a_critic_needs_is_refused(method: str, setting: dict[str, Any], images: ImageData,
                                             tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(UsageError, match=f"method '{method}' has no use for '{next(iter(setting))}'"):
        api.adapt(make_source(), images, method, tmp_path / "run", **setting)
    assert not (tmp_path / "run").exists()
    assert call(capsys, "adapt", "--method", method, "--help")[1].count("--augment") == 0
    assert "--augment" in call(capsys, "adapt", "--method", "bsa", "--help")[1]


@pytest.mark.parametrize(("method", "fields", "classes", "match"), [
    ("ppgn", {"prior": "dae", "train_noise": 0.0}, 2, "an autoencoder that denoises nothing"),
    ("ppgn", {"prior_width": 0}, 2, "prior_width 0 is not possible"),
    ("ppgn", {"prior": "joynt"}, 2, "did you mean 'joint'"), ("dgn-am", {"objective": "logits"}, 2, "mean 'logit'"),
    ("ppgn", {"iterations": 0}, 2, "iterations 0 is not possible; give 1 or more"),
    ("dgn-am", {"background": False}, 1, "one class has nothing to tell apart"),
    ("ppgn", {}, 0, "draws classes and the target has none; pass --class-name"),
])
def test_wrong_fields_and_targets(method: str, fields: dict[str, Any], classes: int, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        target = Target(4, tuple("ab"[:classes]), 32, 1)
        make_method(method, fields).reshape([make_source()], target)


def test_the_losses_of_training_are_named(images: ImageData, tmp_path: Path) -> None:
    gan = make_source()
    parts = assemble(tmp_path / "run", gan, images, "ppgn", QUICK)
    assert [phase.name for phase in parts.trainer.plan.phases] == ["C", "R"]
    assert parts.trainer.plan.extras == {} or not list(parts.trainer.plan.extras)
    parts.trainer.run()
    line = (tmp_path / "run" / "stats.jsonl").read_text().splitlines()[-1]
    assert all(f'"{name}"' in line for name in ("C/classes", "C/accuracy", "R/code", "R/image", "R/features"))
    plan = make_method("dgn-am", QUICK).plan(parts.trainer.generator, [gan], parts.target, AdversarialLoss())
    assert list(plan.groups) == ["C"]
