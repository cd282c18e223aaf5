"""GP-GAN against golden tensors made by the official code (``../shared/fixtures/gpgan``), in float64 and float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import gantransfer as gt
from gantransfer.losses import AdversarialLoss, gradient_square_norm
from gantransfer.networks.gp_gan import GPGANConfig, build_discriminator, build_generator
from gantransfer.plan import Batch, Group
from gantransfer.trainer import _optimizer

CASES = ["resnet_s32", "resnet_s64", "resnet2_s32", "resnet2_s64", "resnet3_s64", "resnet4_s64"]


class Case:
    def __init__(self, shared: Path, name: str, dialect: str = "gan-stability") -> None:
        self.root, self.name = shared / "fixtures" / "gpgan", name
        self.json: dict[str, Any] = json.loads((self.root / f"{name}.json").read_text())
        self.gan = gt.convert(dialect, self.root / f"{name}.G.safetensors", self.root / f"{name}.D.safetensors",
                              self.root / f"{name}.json")
        self.g, self.d = self.gan.generator, self.gan.discriminator
        self.io = load_file(self.root / f"{name}.io.safetensors")

    def double(self) -> Case:
        self.g.double()
        self.d.double()
        self.io = {k: v.double() if v.is_floating_point() else v for k, v in self.io.items()}
        return self

    def gradients(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.io.items() if k.startswith(prefix)}


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours.reshape(theirs.shape).to(theirs), theirs, atol=atol, rtol=0)


def check_gradients(loss: Tensor, net: nn.Module, expected: dict[str, Tensor]) -> None:
    params = dict(net.named_parameters())
    assert expected and expected.keys() <= params.keys()
    found = torch.autograd.grad(loss, [params[k] for k in expected], retain_graph=True)
    for (key, theirs), ours in zip(expected.items(), found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10 + 1e-8 * theirs.abs().max(), key


@pytest.mark.parametrize("name", CASES)
def test_outputs_in_single_precision(shared: Path, name: str) -> None:
    case = Case(shared, name)
    with torch.no_grad():
        close(case.g(case.io["z"], case.io["y"]), case.io["fake"].float(), 2e-5)
        close(case.d(case.io["x_real"], case.io["y"]), case.io["logits_real"].float(), 2e-5)
        close(case.d(case.io["fake"].float(), case.io["y"]), case.io["logits_fake"].float(), 2e-5)


@pytest.mark.parametrize("name", CASES)
def test_outputs_penalties_and_gradients(shared: Path, name: str) -> None:
    case = Case(shared, name).double()
    g, d, io, said = case.g, case.d, case.io, case.json["scalars"]
    fake = g(io["z"], io["y"])
    close(fake, io["fake"])
    if "fake_from_y_embed" in io:
        close(g(io["z"], io["y_embed"]), io["fake_from_y_embed"], 1e-6)
    if "G.fc.out" in io:
        label = g.condition(io["y"], len(io["y"]))
        close(g.fc(torch.cat([io["z"], label], 1)), io["G.fc.out"])
    close(d(io["x_real"], io["y"]), io["logits_real"])
    close(d.fc(d.features(io["x_real"])), io["logits_real_allclasses"])
    close(d(io["x_real"], None), io["logits_real_allclasses"].mean(1))
    g_loss = F.softplus(-d(fake, io["y"])).mean()
    assert float(g_loss.detach()) == pytest.approx(said["gloss"], rel=1e-9)
    check_gradients(g_loss, g, {k: v for k, v in case.gradients("grad_gloss.").items() if k != "z"})
    square = gradient_square_norm(d, io["x_real"], io["y"])
    close(square.detach(), io["r1_per_sample_sqnorm"])
    ours = 20 / 2 * float(square.detach().mean())  # gamma 20 is the code's 10
    assert ours == pytest.approx(said["r1_reg_param10"], rel=1e-9)
    check_gradients(10 * square.mean(), d, case.gradients("grad_r1x10."))
    on_fake, on_real = d(fake.detach(), io["y"]), d(io["x_real"], io["y"])
    total = F.softplus(-on_real).mean() + F.softplus(on_fake).mean() + 10 * square.mean()
    check_gradients(total, d, case.gradients("grad_dtotal."))


def batch(images: Tensor, y: Tensor, z: Tensor, step: int) -> Batch:
    return Batch(images, y, torch.arange(len(images)), z, y, torch.Generator(), step)


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_two_training_steps(shared: Path, kind: str) -> None:
    """Critic, generator, moving average of the parameters: both optimisers as published."""
    root = shared / "fixtures" / "gpgan"
    said = json.loads((root / f"train_{kind}.json").read_text())
    start, after = (
        {net: load_file(root / f"train_{kind}.{when}.{net}.safetensors") for net in nets}
        for when, nets in (("init", "GD"), ("after", ("G", "D", "G_ema"))))
    c = said["config"]
    config = GPGANConfig("resnet2", c["size"], 3, c["nlabels"], c["z_dim"], c["embed_size"], c["nfilter"], c["nfilter"])
    g, d = build_generator(config).double(), build_discriminator(config).double()
    g.load_state_dict(start["G"])
    d.load_state_dict(start["D"])
    average = {k: v.clone() for k, v in g.state_dict().items()}
    loss = AdversarialLoss("non-saturating", r1_gamma=2 * said["reg_param"])
    phases = dict(zip("DG", loss.phases(g, d, g_updates=("G",)), strict=True))
    optimizers = {name: _optimizer(Group(list(net.parameters()), said["lr"], (0.0, 0.99)), kind)
                  for name, net in (("G", g), ("D", d))}
    io = load_file(root / f"train_{kind}.io.safetensors")
    for step, logged in enumerate(said["log"]):
        here = {k.removeprefix(f"it{step}."): v.double() if v.is_floating_point() else v
                for k, v in io.items() if k.startswith(f"it{step}.")}
        for name, z in (("D", here["z_d"]), ("G", here["z_g"])):
            g.requires_grad_(name == "G")
            d.requires_grad_(name == "D")
            terms = phases[name].loss(batch(here["x_real"], here["y"], z, step)).terms
            sum(terms.values()).backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            if name == "D":
                assert float(terms["r1"].detach()) == pytest.approx(logged["reg"], rel=1e-7)
                assert float((terms["real"] + terms["fake"]).detach()) == pytest.approx(logged["dloss"], rel=1e-7)
            else:
                assert float(terms["adversarial"].detach()) == pytest.approx(logged["gloss"], rel=1e-7)
        for k, v in g.state_dict().items():
            average[k].lerp_(v, 1 - said["ema_beta"])
    for ours, theirs in ((g.state_dict(), after["G"]), (d.state_dict(), after["D"]), (average, after["G_ema"])):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            close(ours[key], value, 1e-9)


def test_one_file_of_all_networks(shared: Path, tmp_path: Path) -> None:
    """As published: DataParallel's prefix, optimisers beside the networks, the moving average as ``generator_test``."""
    root = shared / "fixtures" / "gpgan"
    g, d = (load_file(root / f"resnet2_s32.{net}.safetensors") for net in "GD")
    average = {k: v + 1 for k, v in g.items()}
    torch.save({"generator": {f"module.{k}": v for k, v in g.items()}, "generator_test": average, "it": 7,
                "discriminator": {f"module.{k}": v for k, v in d.items()},
                "g_optimizer": {"state": {}, "param_groups": []}}, tmp_path / "model.pt")
    gan = gt.convert("gan-stability", tmp_path / "model.pt")
    assert gan.arch == "gp_gan" and gan.classes == list("01234") and gan.config["variant"] == "resnet2"
    assert torch.equal(gan.generator.fc.weight, average["fc.weight"])
    assert torch.equal(gan.raw_generator.fc.weight, g["fc.weight"])
    assert torch.equal(gan.discriminator.fc.weight, d["fc.weight"])
    again = gt.GAN.from_pretrained(gan.save_pretrained(tmp_path / "saved"))
    assert again.sha256 == gan.sha256 and again.raw_generator is not None
    assert (again.sample(5, seed=1) == gan.sample(5, seed=1)).all()


def test_one_file_of_a_modulated_model(shared: Path, tmp_path: Path) -> None:
    """Of method AdaFM: both generators are saved as plain tensors, and load again."""
    root = shared / "fixtures" / "gpgan"
    g, d = (load_file(root / f"adafm.{net}.safetensors") for net in "GD")
    average = {k: v * 1.5 if k.endswith(".gamma") else v for k, v in g.items()}
    torch.save({"generator": g, "generator_test": average, "discriminator": d}, tmp_path / "model.pt")
    gan = gt.convert("adafm", tmp_path / "model.pt")
    again = gt.GAN.from_pretrained(gan.save_pretrained(tmp_path / "saved"))
    z = torch.randn(2, gan.generator.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for before, after in ((gan.generator, again.generator), (gan.raw_generator, again.raw_generator)):
            torch.testing.assert_close(after(z), before(z), atol=1e-6, rtol=0)
    assert again.sha256 == gan.sha256


@pytest.mark.parametrize(("change", "message"), [
    ({"generator": {"nfilter": 4}}, "config says nfilter 4 but the tensors have 3"),
    ({"generator": {"nlabels": 6}}, "config says nlabels 6 but the tensors have 5"),
    ({"generator": {"size": 64}}, "config says size 64 but the tensors have 32"),
    ({"arch": "resnet4"}, "config says arch resnet4 but the tensors have resnet2"),
    ({"generator": {"z_dim": "many"}}, "config says z_dim 'many', which is no whole number"),
])
def test_a_config_of_other_tensors(shared: Path, change: dict[str, Any], message: str) -> None:
    root = shared / "fixtures" / "gpgan"
    with pytest.raises(gt.errors.ModelError, match=message):
        gt.convert("gan-stability", root / "resnet2_s32.G.safetensors", root / "resnet2_s32.D.safetensors", change)


def test_files_of_something_else(shared: Path) -> None:
    root = shared / "fixtures" / "gpgan"

    def said(g: str, d: str | None = None, dialect: str = "gan-stability") -> str:
        with pytest.raises(gt.errors.ModelError) as caught:
            gt.convert(dialect, root / f"{g}.safetensors", None if d is None else root / f"{d}.safetensors")
        return str(caught.value)

    assert "holds no GP-GAN generator (no embedding.weight)" in said("resnet2_s32.D")
    assert "does not belong to a generator of variant 'resnet2'" in said("resnet2_s32.G", "resnet_s32.D")
    assert "the discriminator file does not fit" in said("resnet2_s32.G", "resnet2_s64.D")
    assert "holds no GP-GAN style-head generator (no small_fc.weight)" in said("resnet2_s32.G", dialect="adafm")
