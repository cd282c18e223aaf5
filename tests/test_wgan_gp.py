"""The WGAN-GP ResNet: its published shape, statistics, conditioning, loss, and the published variables' reader."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import Capture, call
from tiny import assemble, latents, make_data, make_source, write_images
from torch import Tensor, nn

import gantransfer as gt
from gantransfer import api, runs
from gantransfer.defaults import Training
from gantransfer.errors import ModelError, UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.methods.transfergan import TransferGAN
from gantransfer.networks.wgan_gp import (
    Generator,
    LayerNorm,
    WGANGPConfig,
    build_discriminator,
    build_generator,
)
from gantransfer.norm import ClassMixture
from gantransfer.plan import Batch, Target
from gantransfer.sources import GAN

PUBLISHED = Path("fixtures") / "gpgan" / "transfergan_variables.json"


def tiny(**changes: Any) -> WGANGPConfig:
    return WGANGPConfig(**{"resolution": 32, "channels": 1, "z_dim": 6, "width": 2, **changes})


# ---- the networks ----------------------------------------------------------------------------------------


def test_the_published_numbers_of_parameters() -> None:
    """Counted from the published shapes at 64 px and d = 64, and half the capacity."""
    g, d = build_generator(WGANGPConfig()), build_discriminator(WGANGPConfig())
    assert sum(p.numel() for p in g.parameters()) == 8_540_483
    assert sum(p.numel() for p in d.parameters()) == 7_491_841
    assert WGANGPConfig(width=32).g_widths == (256, 256, 128, 64, 32)


@pytest.mark.parametrize(("resolution", "widths"), [
    (32, (8, 8, 4, 2)), (64, (16, 16, 8, 4, 2)), (128, (32, 32, 16, 8, 4, 2))])
@pytest.mark.parametrize("channels", [1, 3])
def test_resolutions(resolution: int, widths: tuple[int, ...], channels: int) -> None:
    config = tiny(resolution=resolution, channels=channels)
    g, d = build_generator(config), build_discriminator(config)
    images = g(torch.randn(2, 6))
    assert config.g_widths == widths and images.shape == (2, channels, resolution, resolution)
    assert images.abs().max() <= 1 and d(images).shape == (2,)
    assert [m.shape[1] for m in d.maps(images)] == list(widths[::-1])
    assert len(g.blocks) == len(widths) - 1 and len(d.blocks) == len(widths)


@torch.no_grad()
def test_blocks_are_what_the_paper_draws() -> None:
    """Plain operations: nearest up-sampling, then the convolution; the convolution, then the mean."""
    g, d = build_generator(tiny()).double(), build_discriminator(tiny()).double()
    for p in [*g.parameters(), *d.parameters()]:
        p.add_(torch.randn_like(p), alpha=0.2)
    z = torch.randn(3, 6, dtype=torch.float64)
    h = F.linear(z, g.input.weight, g.input.bias).view(3, -1, 4, 4)

    def norm(x: Tensor, layer: nn.Module) -> Tensor:
        return (x / (1 + 1e-5) ** 0.5 * layer.gain[:, None, None] + layer.bias[:, None, None]).relu()

    for b in g.blocks:
        up = F.interpolate(norm(h, b.norm1), scale_factor=2)
        main = F.conv2d(norm(F.conv2d(up, b.conv1.weight, padding=1), b.norm2), b.conv2.weight, b.conv2.bias, padding=1)
        h = F.conv2d(F.interpolate(h, scale_factor=2), b.shortcut.weight, b.shortcut.bias) + main
    images = F.conv2d(norm(h, g.output_norm), g.output.weight, g.output.bias, padding=1).tanh()
    torch.testing.assert_close(g(z), images)

    def layer_norm(x: Tensor, layer: nn.Module) -> Tensor:
        return F.group_norm(x, 1, layer.weight, layer.bias).relu()

    h = F.conv2d(images, d.input.weight, d.input.bias, padding=1)
    for b in d.residual:
        main = F.conv2d(layer_norm(h, b.norm1), b.conv1.weight, padding=1)
        main = F.conv2d(layer_norm(main, b.norm2), b.conv2.weight, b.conv2.bias, padding=1)
        h = F.conv2d(F.avg_pool2d(h, 2), b.shortcut.weight, b.shortcut.bias) + F.avg_pool2d(main, 2)
    torch.testing.assert_close(d(images), F.linear(h.flatten(1), d.output.weight, d.output.bias).squeeze(1))


def test_weights_start_as_published() -> None:
    """Uniform: convolutions with twice Glorot's variance, shortcuts and the critic's first layer with Glorot's."""
    g, d = build_generator(WGANGPConfig(num_classes=3)), build_discriminator(WGANGPConfig())

    def glorot(layer: nn.Module) -> float:
        fans = torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)
        return (2 / sum(fans)) ** 0.5

    for layer, factor in ((g.blocks[1].conv1, 2**0.5), (g.blocks[1].conv2, 2**0.5), (g.blocks[1].shortcut, 1),
                          (d.residual[2].conv2, 2**0.5), (d.input, 1), (g.input, 1), (d.output, 1)):
        assert float(layer.weight.detach().std()) == pytest.approx(factor * glorot(layer), rel=0.05)
        assert layer.weight.detach().abs().max() <= factor * glorot(layer) * 3**0.5 + 1e-6
        assert layer.bias is None or not layer.bias.any()
    norm = g.blocks[0].norm1
    assert norm.gain.weight.shape == (3, 512) and not norm.gain.weight.any() and not norm.bias.weight.any()


def test_layer_norm_is_pytorch_s_with_a_scale_per_channel() -> None:
    norm = LayerNorm(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(norm(x), F.group_norm(x, 1, norm.weight, norm.bias))
    assert torch.autograd.gradgradcheck(norm, (x.requires_grad_(),), atol=1e-6)


def test_an_image_does_not_depend_on_its_batch_unless_it_is_asked_for() -> None:
    z = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    for statistics in ("running", "batch"):
        gan = make_source("wgan_gp-unconditional", z_dim=6, statistics=statistics)
        with torch.no_grad():
            whole, alone = gan.generator(z), torch.cat([gan.generator(part) for part in z.split(3)])
        same = torch.allclose(whole, alone, atol=1e-5)
        assert same == (statistics == "running")
        before = {k: v.clone() for k, v in gan.generator.state_dict().items()}
        assert (gan.sample(4, seed=1) == gan.sample(4, seed=1)).all()
        assert all(torch.equal(v, before[k]) for k, v in gan.generator.state_dict().items())


def test_estimated_statistics_are_those_of_drawn_batches() -> None:
    gan = make_source("wgan_gp")
    z, y = latents(gan, 2048, seed=3)
    batch = GAN(build_generator(tiny(z_dim=8, num_classes=4, statistics="batch")), arch="wgan_gp")
    batch.generator.load_state_dict(gan.generator.state_dict())
    gan.generator.estimate_statistics(batches=16, size=256)
    with torch.no_grad():
        away = (gan.generator(z, y) - batch.generator(z, y)).abs().mean()
    assert away < 0.02
    first = gan.generator.output_norm.stored_mean.clone()
    gan.generator.estimate_statistics(batches=16, size=256)
    assert torch.equal(first, gan.generator.output_norm.stored_mean) and not gan.generator.training


@pytest.mark.parametrize(("changes", "message"), [
    ({"resolution": 48}, "resolution 48 is not possible; give one of 32, 64, 128"),
    ({"channels": 2}, "channels 2 are neither 1 nor 3"), ({"num_classes": -1}, "num_classes -1 is negative"),
    ({"width": 0}, "width 0 is not possible"), ({"z_dim": 0}, "z_dim 0 is not possible"),
    ({"conditioning": "film"}, "conditioning 'film' does not exist; have: bnorm, concat"),
    ({"statistics": "moving"}, "statistics 'moving' does not exist; have: running, batch"),
])
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("network", ["wgan_gp", "wgan_gp-concat"])
def test_labels_it_cannot_take(network: str) -> None:
    gan = make_source(network)
    z, _ = latents(gan, 2)
    with pytest.raises(ModelError, match="has 4 classes: pass labels"):
        gan.generator(z)
    with pytest.raises(ModelError, match="no label embedding"):
        gan.generator(z, torch.zeros(2, 4))
    with pytest.raises(ModelError, match="no noise inputs"):
        gan.generator(z, torch.zeros(2, dtype=torch.int64), [z])
    with pytest.raises(ModelError, match="it classifies nothing"):
        make_source("wgan_gp-unconditional").discriminator.judge(torch.zeros(1, 1, 32, 32))


def test_batch_statistics_cannot_be_extended() -> None:
    with pytest.raises(ModelError, match="with batch statistics cannot be extended"):
        make_source("wgan_gp", statistics="batch").generator.adapter_norms(2)


# ---- conditioning ------------------------------------------------------------------------------------------


def with_classes(source: str, classes: int, rows: Tensor | None, conditioning: str | None = None) -> Any:
    gan = make_source(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return gan.generator, gan.generator.with_classes(classes, rows, conditioning)


@torch.no_grad()
def test_cond_bnorm_starts_with_the_source_s_images_in_every_class() -> None:
    old, new = with_classes("wgan_gp-unconditional", 3, torch.ones(3, 1))
    z = torch.randn(6, 8)
    torch.testing.assert_close(new(z, torch.arange(6) % 3), old(z), atol=1e-5, rtol=0)
    assert len(list(new.class_norms())) == 7 and new.num_classes == 3


@torch.no_grad()
def test_cond_concat_copies_all_but_the_columns_that_read_labels() -> None:
    old, new = with_classes("wgan_gp-unconditional", 3, torch.ones(3, 1), "concat")
    for key, value in new.state_dict().items():
        if key == "input.weight":
            assert torch.equal(value[:, :8], old.input.weight) and value.shape[1] == 11 and value[:, 8:].std() > 0.1
        else:
            assert torch.equal(value, old.state_dict()[key]), key
    z = torch.randn(4, 8)
    assert not torch.allclose(new(z, torch.zeros(4, dtype=torch.int64)), new(z, torch.ones(4, dtype=torch.int64)))
    mixed = new(z, ClassMixture(F.one_hot(torch.tensor([0, 1, 2, 0]), 3).float()))
    assert torch.equal(mixed, new(z, torch.tensor([0, 1, 2, 0])))


@torch.no_grad()
@pytest.mark.parametrize("network", ["wgan_gp", "wgan_gp-concat"])
def test_other_classes_are_mixes_of_the_old_ones_and_none_is_the_mean(network: str) -> None:
    picks = torch.tensor([3, 1, 3, 0, 2])
    old, new = with_classes(network, 5, F.one_hot(picks, 4).float())
    z = torch.randn(5, 8)
    torch.testing.assert_close(new(z, torch.arange(5)), old(z, picks), atol=1e-6, rtol=0)
    old, none = with_classes(network, 0, torch.full((1, 4), 0.25))
    torch.testing.assert_close(none(z), old(z, ClassMixture(torch.full((5, 4), 0.25))), atol=1e-5, rtol=0)
    assert none.num_classes == 0 and none.input.weight.shape[1] == 8
    _, fresh = with_classes(network, 5, None)
    if network == "wgan_gp":
        assert not fresh.blocks[0].norm1.gain.weight.any()


def test_a_source_s_own_way_of_taking_classes_stays() -> None:
    with pytest.raises(ModelError, match="takes up its 4 classes by 'concat', which cannot become 'bnorm'"):
        with_classes("wgan_gp-concat", 3, None, "bnorm")
    target = Target(10, ("a", "b"), 32, 1)
    for network, conditioning, kind, message in (
        ("wgan_gp", "concat", UsageError, "'concat' is for sources without classes and this one takes up 4"),
        ("tables", "bnorm", UsageError, "conditioning 'bnorm' is for sources without classes"),
        ("unconditional", "concat", ModelError, "architecture 'biggan' cannot take up classes by 'concat'"),
        ("gp_gan-unconditional", "bnorm", ModelError, "it can by: its own way alone"),
    ):
        with pytest.raises(kind, match=message):
            TransferGAN(conditioning=conditioning).reshape([make_source(network)], target)
    TransferGAN(conditioning="concat").reshape([make_source("wgan_gp-concat")], target)
    TransferGAN(conditioning="bnorm").reshape([make_source("unconditional")], target)
    with pytest.raises(UsageError, match="conditioning 'film' does not exist"):
        TransferGAN(conditioning="film")


@torch.no_grad()
def test_the_auxiliary_classifier_is_new_mixed_or_dropped() -> None:
    images = torch.randn(3, 1, 32, 32)
    plain, known = (make_source(n).discriminator for n in ("wgan_gp-unconditional", "wgan_gp"))
    new = plain.with_classes(5, torch.ones(5, 1))
    logits, kinds = new.judge(images)
    assert kinds.shape == (3, 5) and torch.equal(logits, plain(images)) and new.num_classes == 5
    picks = F.one_hot(torch.tensor([2, 2, 0]), 4).float()
    torch.testing.assert_close(known.with_classes(3, picks).judge(images)[1], known.judge(images)[1][:, [2, 2, 0]])
    none = known.with_classes(0, torch.full((1, 4), 0.25))
    assert none.classifier is None and torch.equal(none(images), known(images, torch.tensor([0, 1, 2])))


NOTES = {
    ("wgan_gp-unconditional", "auto"): [
        "classes: none in the source, 3 in the target", "generator, copied: 19 of 33 parameters",
        "generator, copied to every class: 14 (blocks.0.norm1.gain.weight",
        "discriminator, newly initialised: 2 (classifier"],
    ("wgan_gp-unconditional", "concat"): [
        "generator, copied: 33 of 33", "newly initialised: 1 (input.weight from column 8)"],
    ("wgan_gp", "auto"): ["classes: 4 in the source, 3 in the target", "generator, copied: 19 of 33",
                          "(mean): 14 (blocks.0.norm1.gain.weight", "discriminator, newly initialised: 2"],
    ("wgan_gp", "none"): ["classes: 4 in the source, none in the target", "class rows (mean): 14 (blocks.0.norm1.gain,",
                          "discriminator, copied: 31 of 31"],
    ("wgan_gp-concat", "none"): ["generator, copied: 32 of 33", "(mean): 1 (input.bias)",
                                 "discriminator, left out: 2 (classifier.weight"],
    ("wgan_gp-concat", "auto"): ["generator, copied: 33 of 33", "(mean): 1 (input.weight from column 8)",
                                 "discriminator, newly initialised: 2 (classifier.weight, classifier.bias)"],
}


@pytest.mark.parametrize(("network", "conditioning"), list(NOTES))
def test_the_plan_says_what_is_copied_combined_and_new(tmp_path: Path, network: str, conditioning: str) -> None:
    data = make_data(tmp_path / "data")
    parts = assemble(tmp_path / "run", make_source(network), data, "transfergan", {"conditioning": conditioning})
    said = "\n".join(parts.trainer.plan.notes)
    for line in NOTES[network, conditioning]:
        assert line in said, said


def test_as_many_classes_as_before_are_new_all_the_same(tmp_path: Path) -> None:
    """A fresh bias of zeros equals the old one, and is no copy of it."""
    data = gt.ImageData(write_images(tmp_path / "four", dict.fromkeys("abcd", 4)), size=32, channels=1)
    said = "\n".join(assemble(tmp_path / "run", make_source("wgan_gp-concat"), data, "transfergan").trainer.plan.notes)
    assert "generator, copied: 33 of 33" in said and "(mean): 1 (input.weight from column 8)" in said
    assert "discriminator, newly initialised: 2 (classifier.weight, classifier.bias)" in said


def test_nothing_of_a_fresh_network_counts_as_copied(tmp_path: Path) -> None:
    fields = {"generator": "scratch", "discriminator": "scratch"}
    notes = assemble(tmp_path / "run", make_source("wgan_gp"), make_data(tmp_path / "data"), "transfergan",
                     fields).trainer.plan.notes
    assert [n for n in notes if "copied" in n] == ["generator, copied: 0 of 33 parameters",
                                                   "discriminator, copied: 0 of 33 parameters"]


def test_dry_run_and_run_hold_the_plan(tmp_path: Path, capsys: Capture) -> None:
    source = make_source("wgan_gp-unconditional").save_pretrained(tmp_path / "source")
    images = write_images(tmp_path / "images", {"a": 4, "b": 4})
    words = ["adapt", "--source", str(source), "--data", str(images), "--method", "transfergan", "--conditioning",
             "concat", "--steps", "1", "--batch-size", "2"]
    code, text, err = call(capsys, *words, "--dry-run")
    assert code == 0, err
    assert "newly initialised: 1 (input.weight from column 8)" in text and "d_steps: 5" in text
    code, _, err = call(capsys, *words, "--no-evaluate", "--quiet", "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert "input.weight from column 8" in " ".join(runs.read_config(tmp_path / "run")["plan"])
    assert (tmp_path / "run" / "samples" / "step-000000.png").is_file()
    assert gt.load(tmp_path / "run").classes == ["a", "b"]


def test_a_flat_folder_for_a_source_with_classes(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"": 6})
    gan = make_source("wgan_gp")
    with pytest.raises(gt.errors.DataError, match="source is conditional.*or adapt without classes"):
        gt.adapt(gan, images, method="transfergan", out=tmp_path / "refused", steps=1)
    run = gt.adapt(gan, images, method="transfergan", conditioning="none", out=tmp_path / "run", steps=1, batch_size=2,
                   evaluate=False)
    assert run.generator.num_classes == 0 and run.gan.sample(2).shape == (2, 32, 32, 1)


# ---- the loss ------------------------------------------------------------------------------------------------


def batch(n: int = 4, classes: int = 4) -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch(torch.randn(n, 1, 32, 32, generator=rng), torch.arange(n) % classes, torch.arange(n),
                 torch.randn(n, 8, generator=rng), (torch.arange(n) + 1) % classes, rng)


def test_ac_gan_adds_the_classes_cross_entropy_with_its_weights() -> None:
    """Eqs. 7 and 8: of real images in the critic's loss, of generated ones in the generator's."""
    gan, b = make_source("wgan_gp"), batch()
    d_phase, g_phase = AdversarialLoss("wgan-gp", aux_d=0.5, aux_g=2.0).phases(
        gan.generator, gan.discriminator, g_updates=("G",))
    on_critic, on_generator = d_phase.loss(b), g_phase.loss(b)
    assert list(on_critic.terms) == ["real", "fake", "classes", "gradient_penalty"]
    fake = gan.generator(b.z, b.y)
    expected = F.cross_entropy(gan.discriminator.judge(b.images)[1], b.labels)
    torch.testing.assert_close(on_critic.terms["classes"], 0.5 * expected)
    torch.testing.assert_close(on_critic.terms["real"], -gan.discriminator(b.images).mean())
    expected = 2 * F.cross_entropy(gan.discriminator.judge(fake)[1], b.y)
    torch.testing.assert_close(on_generator.terms["classes"], expected)
    torch.testing.assert_close(on_generator.terms["adversarial"], -gan.discriminator(fake).mean())
    assert 0 <= on_critic.logs["accuracy_real"] <= 1


@pytest.mark.parametrize("network", ["wgan_gp-unconditional", "tables"])
def test_no_auxiliary_terms_without_classes_or_without_a_classifier(network: str) -> None:
    gan = make_source(network)
    for phase in AdversarialLoss("wgan-gp").phases(gan.generator, gan.discriminator, g_updates=("G",)):
        assert "classes" not in phase.loss(batch()).terms


def test_weights_of_the_classifier_are_checked() -> None:
    with pytest.raises(UsageError, match="aux_d -1 is not possible"):
        AdversarialLoss(aux_d=-1)


def test_its_loss_is_wgan_gp_with_five_critic_steps(tmp_path: Path) -> None:
    gan = make_source("wgan_gp")
    found = api.as_source_was_trained(Training(), [gan], "transfergan", {}).resolve(100, "adapt")[1]
    assert (found.kind, found.d_steps, found.r1_gamma, found.gp_weight) == ("wgan-gp", 5, 0, 10)
    asked = api.as_source_was_trained(Training(loss="hinge"), [gan], "transfergan", {}).resolve(100, "adapt")[1]
    assert (asked.kind, asked.d_steps) == ("hinge", 1)
    run = gt.pretrain(write_images(tmp_path / "images", {"a": 4, "b": 4}), tmp_path / "run", arch="wgan_gp",
                      network={"width": 2, "z_dim": 4}, evaluate=False, steps=1, batch_size=2)
    assert run.gan.card["loss"] == "wgan-gp" and run.gan.arch == "wgan_gp" and run.gan.config["width"] == 2
    assert run.gan.discriminator.num_classes == 2


def test_command_line_of_pretraining(tmp_path: Path, capsys: Capture) -> None:
    code, text, _ = call(capsys, "pretrain", "--arch", "wgan_gp", "--help")
    assert code == 0 and "--conditioning bnorm|concat" in text and "--width" in text and "--extensions" not in text
    images = write_images(tmp_path / "images", {"a": 4, "b": 4})
    code, _, err = call(capsys, "pretrain", "--arch", "wgan_gp", "--data", str(images), "--width", "2",
                        "--conditioning", "concat", "--resolution", "48", "--out", str(tmp_path / "run"))
    assert code == 2 and "resolution 48 is not possible" in err


# ---- published variables -------------------------------------------------------------------------------------


def variables(shared: Path, kind: str, *, d: int = 2, classes: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values in the published names and layouts, for width `d` in place of 64."""
    rng = np.random.default_rng(seed)
    small = {"N_CLASSES": classes, 1: 1, 3: 3, 128: 128 if kind.startswith("disc") else 5}

    def shape(name: str, sizes: list[Any]) -> tuple[int, ...]:
        if name.endswith("Input.W"):
            return (5, 8 * d * 16)
        if name.endswith("Output.W"):
            return (8 * d * 16, small.get(sizes[1], sizes[1]))
        return tuple(s * d // 64 if isinstance(s, int) and s > 3 else small[s] for s in sizes)

    listed = json.loads((shared / PUBLISHED).read_text())[kind]
    return {name: rng.normal(size=shape(name, sizes)).astype(np.float32) * 0.5 for name, sizes in listed.items()}


def export(path: Path, *parts: dict[str, np.ndarray]) -> Path:
    np.savez(path, **{name: value for part in parts for name, value in part.items()})
    return path


@torch.no_grad()
@pytest.mark.parametrize(("generator", "critic"), [("generator_unconditional", "discriminator"),
                                                   ("generator_cond_bnorm", "discriminator_acgan")])
def test_published_variables(shared: Path, tmp_path: Path, generator: str, critic: str) -> None:
    """Every name of the published checkpoints is read, and its numbers give what the published layouts mean."""
    g, d = variables(shared, generator), variables(shared, critic, seed=1)
    gan = gt.convert("transfergan", export(tmp_path / "all.npz", g, d, {"Generator.Input.W/Adam": np.zeros(2)}),
                     config={"statistics": "batch"})
    assert gan.arch == "wgan_gp" and gan.config["width"] == 2 and gan.config["resolution"] == 64
    assert gan.config["num_classes"] == (3 if "cond" in generator and "un" not in generator else 0)
    z, classes = torch.randn(4, 5), gan.config["num_classes"]
    y = torch.tensor([0, 2, 1, 2]) if classes else None

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(g[f"Generator.{name}"])

    def norm(h: Tensor, name: str) -> Tensor:
        h = F.batch_norm(h, None, None, training=True)
        scale, offset = tensor(f"{name}.scale"), tensor(f"{name}.offset")
        scale, offset = (t[y] if classes else t[None] for t in (scale, offset))
        return (h * scale[:, :, None, None] + offset[:, :, None, None]).relu()

    def conv(h: Tensor, name: str, bias: bool = True) -> Tensor:
        weight = tensor(f"{name}.Filters").permute(3, 2, 0, 1)
        return F.conv2d(h, weight, tensor(f"{name}.Biases") if bias else None, padding=weight.shape[2] // 2)

    h = (z @ tensor("Input.W") + tensor("Input.b")).view(4, 16, 4, 4)
    for i in range(1, 5):
        up = F.interpolate(norm(h, f"Res{i}.BN1"), scale_factor=2)
        main = conv(norm(conv(up, f"Res{i}.Conv1", bias=False), f"Res{i}.BN2"), f"Res{i}.Conv2")
        h = conv(F.interpolate(h, scale_factor=2), f"Res{i}.Shortcut") + main
    images = conv(norm(h, "OutputN"), "Output").tanh()
    torch.testing.assert_close(gan.generator(z, y), images, atol=1e-3, rtol=0)
    critic, images = copy.deepcopy(gan.discriminator).double(), images.double()  # else they differ by rounding
    last = critic.features(images)
    w, b = (torch.from_numpy(d[f"Discriminator.Output.{k}"]).double() for k in "Wb")
    torch.testing.assert_close(critic(images), (last @ w + b).squeeze(1))
    if classes:
        w, b = (torch.from_numpy(d[f"Discriminator.ACGANOutput.{k}"]).double() for k in "Wb")
        torch.testing.assert_close(critic.judge(images)[1], last @ w + b)
    block = gan.discriminator.residual[1]
    assert torch.equal(block.norm2.weight, torch.from_numpy(d["Discriminator.Res2.BN2.scale"]))
    assert torch.equal(block.conv2.weight, torch.from_numpy(d["Discriminator.Res2.Conv2.Filters"]).permute(3, 2, 0, 1))


def test_running_averages_are_estimated_unless_the_published_way_is_asked_for(shared: Path, tmp_path: Path) -> None:
    file = export(tmp_path / "g.npz", variables(shared, "generator_unconditional"))
    gan = gt.convert("transfergan", file)
    assert gan.discriminator is None and "running averages estimated from 512 latents" in gan.notes[-1]
    assert gan.generator.output_norm.stored_mean.any() and gan.config["statistics"] == "running"
    again = gt.convert("transfergan", file)
    assert again.sha256 == gan.sha256
    saved = gt.GAN.from_pretrained(gan.save_pretrained(tmp_path / "saved"))
    assert (saved.sample(3, seed=2) == gan.sample(3, seed=2)).all()
    both = gt.convert("transfergan", file, export(tmp_path / "d.npz", variables(shared, "discriminator")))
    assert both.discriminator is not None


def test_variables_of_something_else(shared: Path, tmp_path: Path) -> None:
    g, d = variables(shared, "generator_unconditional"), variables(shared, "discriminator_acgan")

    def said(*parts: dict[str, np.ndarray], **settings: Any) -> str:
        with pytest.raises(ModelError) as caught:
            gt.convert("transfergan", export(tmp_path / "x.npz", *parts), config=settings)
        return str(caught.value)

    assert "holds no Transferring-GANs generator (no Generator.Input.W)" in said(d)
    assert "the generator has no classes, the discriminator 3" in said(g, d)
    assert "config says DIM 64 but the tensors have 2" in said(g, DIM=64)
    assert "statistics 'moving' does not exist" in said(g, statistics="moving")
    assert "of another shape (first: blocks.0.conv1.weight)" in said({**g, "Generator.Res1.Conv1.Filters": np.zeros((
        3, 3, 1, 16), np.float32)})
    assert "'Generator.Res1.Conv3.Filters' is of no network known here" in said(
        {**g, "Generator.Res1.Conv3.Filters": np.zeros((3, 3, 1, 1), np.float32)})
    for part in ("BN1.scale", "Conv1.Filters", "Conv2.Filters"):
        assert f"incomplete (4 blocks, but 3 of Generator.Res*.{part})" in said(
            {k: v for k, v in g.items() if k != f"Generator.Res2.{part}"})
    empty = tmp_path / "empty.npz"
    empty.write_bytes(b"")
    with pytest.raises(ModelError, match="is no whole .npz of plain arrays"):
        gt.convert("transfergan", empty)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(export(tmp_path / "g.npz", g).read_bytes()[:5000])
    with pytest.raises(ModelError, match="is no whole .npz of plain arrays"):
        gt.convert("transfergan", broken)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ModelError, match="is no whole .npz of plain arrays"):
        gt.convert("transfergan", tmp_path / "objects.npz")
    np.savez(tmp_path / "words.npz", x=np.array(["a"]))
    with pytest.raises(ModelError, match="holds no arrays of numbers"):
        gt.convert("transfergan", tmp_path / "words.npz")


def test_generator_blocks_take_filter_modulations() -> None:
    """AdaFM's convolutions are found in it: two of 3x3 in every block."""
    from gantransfer.filter_modulation import filters

    generator: Generator = make_source("wgan_gp").generator
    assert [len(list(filters(block))) for block in generator.blocks] == [2, 2, 2]
