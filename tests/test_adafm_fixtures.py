"""The style head, AdaFM and the method's plan against golden tensors made by the official code."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_gp_gan_fixtures import Case, batch, check_gradients, close
from torch import Tensor, nn

from gantransfer.dialects.gp_gan import adafm_names
from gantransfer.filter_modulation import filter_modulations
from gantransfer.losses import AdversarialLoss, gradient_square_norm
from gantransfer.methods.adafm import AdaFM
from gantransfer.modulation import fold
from gantransfer.networks.gp_gan import GPGANConfig, build_discriminator, build_generator
from gantransfer.plan import Plan, Target
from gantransfer.sources import GAN
from gantransfer.trainer import _optimizer


@pytest.fixture(scope="module")
def case(shared: Path) -> Case:
    return Case(shared, "adafm", "adafm").double()


def noise_of(io: dict[str, Tensor], prefix: str = "") -> list[Tensor]:
    return [io[f"{prefix}noise_{i}"].double() for i in range(4)]


def test_images_logits_and_gradients(case: Case) -> None:
    g, d, io, said = case.g, case.d, case.io, case.json["scalars"]
    fake = g(io["z"], None, noise_of(io))
    close(fake.detach(), io["fake"])
    close(g(io["z"], io["y"], noise_of(io)).detach(), io["fake"])  # its one label counts for nothing
    close(g.styles(io["z"]).detach(), io["act.small_style"])
    close(g.styles(io["z"]).detach().square().sum(1), io["loss_w"])
    close(g.specific(io["z"], None, noise_of(io)).detach(), io["act.small_H"])
    close(d(io["x_real"]).detach(), io["logits_real"])
    close(d(io["fake"]).detach(), io["logits_fake"])
    loss = F.softplus(-d(fake)).mean()
    assert float(loss.detach()) == pytest.approx(said["gloss"], rel=1e-9)
    expected = {k: v for k, v in adafm_names(case.gradients("grad_gloss.")).items() if k != "z"}
    check_gradients(loss, g, expected)
    for images, name in ((io["x_real"], "r1"), (io["fake"], "r1_fake")):
        close(gradient_square_norm(d, images, None).detach(), io[f"{name}_per_sample_sqnorm"])
    check_gradients(10 * gradient_square_norm(d, io["x_real"], None).mean(), d, case.gradients("grad_r1x10."))


def test_folding_filter_selection_and_the_small_head(case: Case) -> None:
    io, noise = case.io, noise_of(case.io)
    folded = fold(copy.deepcopy(case.g))
    with torch.no_grad():
        close(folded(io["z"], None, noise), io["fake"], 1e-12)
        close(folded.resnet_3_0.conv_0.weight, io["folded.resnet_3_0.conv_0.weight"], 1e-12)
        first = (io["z"][:1], None, [n[:1] for n in noise])
        vectors = load_file(case.root / "adafm.fs_vectors.safetensors")
        selected, bare = copy.deepcopy(case.g), copy.deepcopy(case.g)
        own = adafm_names({k.removeprefix("fs."): v for k, v in vectors.items()})
        for name, _, modulation in filter_modulations(selected):
            for part in ("gamma", "beta"):
                values = own[f"{name}.parametrizations.weight.0.{part}"].double().view(-1, 1, 1, 1)
                getattr(modulation, part).copy_(values.expand_as(getattr(modulation, part)))
        for _, _, modulation in filter_modulations(bare):
            modulation.gamma.fill_(1)
            modulation.beta.fill_(0)
        close(selected(*first), io["fs_fake"], 1e-6)
        close(bare(*first), io["smallhead_fake"], 1e-6)


def test_saved_and_loaded_it_is_folded(shared: Path, tmp_path: Path) -> None:
    gan = Case(shared, "adafm", "adafm").gan
    again = GAN.from_pretrained(gan.save_pretrained(tmp_path))
    assert again.sha256 == gan.sha256 and not filter_modulations(again.generator) and again.config["general"] == 4
    z = torch.randn(2, gan.generator.z_dim)
    with torch.no_grad():
        torch.testing.assert_close(again.generator(z), gan.generator(z), atol=1e-6, rtol=0)


def plan_of(config: GPGANConfig, **fields: Any) -> tuple[nn.Module, Plan]:
    """The method's generator and plan on a random source, for a target without classes."""
    source = GAN(build_generator(config), build_discriminator(config), arch="gp_gan")
    method, target = AdaFM(**fields), Target(100, (), config.resolution, config.channels)
    generator = method.reshape([source], target)
    return generator, method.plan(generator, [source], target, AdversarialLoss())


def trained(net: nn.Module, plan: Plan, *groups: str) -> set[str]:
    ids = {id(p) for name in groups for p in plan.groups[name].params}
    return {k for k, p in net.named_parameters() if id(p) in ids}


def test_the_published_lists_of_what_trains(shared: Path) -> None:
    names = json.loads((shared / "fixtures" / "gpgan" / "adafm.trainable_names.json").read_text())
    config = GPGANConfig("resnet2", 128, 3, 3, 5, 4, 1, 1)
    generator, plan = plan_of(config, scaled_norm=True, modulation_nimg=8)
    for when, groups in (("iteration_0_to_10000", ("G",)), ("after_iteration_10000", ("G", "modulation"))):
        expected = adafm_names(dict.fromkeys(names[f"G_{when}_trainable"]))
        del expected["embedding.weight"]  # the label's, which that code trains and never uses
        assert trained(generator, plan, *groups) == expected.keys()
    assert [phase.updates for phase in plan.phases if phase.name.startswith("G")] == [("G",), ("G", "modulation")]
    for n in range(8):
        _, plan = plan_of(config, general_d=n)
        assert trained(plan.extras["critic"], plan, "D") == set(names[f"D_fix_layer_{n}_trainable"])
    for m in range(8):
        generator, plan = plan_of(config, general_g=m, head="source", modulation="none")
        assert trained(generator, plan, "G") == set(names[f"GPHead_G_fix_layer_{-m}_trainable" if m else
                                                          "GPHead_G_fix_layer_0_trainable"])


def test_what_is_copied(shared: Path) -> None:
    names = json.loads((shared / "fixtures" / "gpgan" / "adafm.trainable_names.json").read_text())
    config = GPGANConfig("resnet2", 128, 3, 3, 5, 4, 1, 1)
    source = GAN(build_generator(config), build_discriminator(config), arch="gp_gan")
    old = source.generator.state_dict()
    target = Target(100, (), 128, 3)
    for fields, key in (({}, "keys_copied_from_pretrained_G_to_AdaFM_G"),
                        ({"head": "source", "modulation": "none"}, "keys_copied_from_pretrained_G_to_GPHead_G")):
        generator = fold(AdaFM(**fields).reshape([source], target))
        same = {k for k, v in generator.state_dict().items() if k in old and v.shape == old[k].shape
                and torch.equal(v, old[k])}
        assert same == set(names[key])
    generator = AdaFM().reshape([source], target)
    critic = AdaFM().plan(generator, [source], target, AdversarialLoss()).extras["critic"].state_dict()
    old = source.discriminator.state_dict()
    same = {k for k, v in critic.items() if v.shape == old[k].shape and torch.equal(v, old[k])}
    assert same == set(names["keys_copied_from_pretrained_D_to_AdaFM_D"])


@pytest.mark.parametrize("name", ["adafm_train_d2", "adafm_train_d6_realfake"])
def test_three_training_steps(shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method's plan with the code's options: generator first, critic on the same images, the modulation frozen in
    the first two iterations, and in the second case the penalty on reals and fakes with D6."""
    root = shared / "fixtures" / "gpgan"
    said = json.loads((root / f"{name}.json").read_text())
    start, after = (
        {net: load_file(root / f"{name}.{when}.{net}.safetensors") for net in nets}
        for when, nets in (("init", "GD"), ("after", ("G", "D", "G_ema"))))
    c, both = said["config"], said["reg_type"] == "real_fake"
    source = GPGANConfig("resnet2", c["size"], 3, c["nlabels"], c["z_dim"], c["embed_size"], c["nfilter"], c["nfilter"])
    source = replace(source, num_classes=0)
    gan = GAN(build_generator(source), build_discriminator(source), arch="gp_gan")
    size = 2
    method = AdaFM(general_d=said["D_fix_layer"], style_dim=c["style_dim"], scaled_norm=True, clamp=True,
                   modulation_nimg=2 * size)
    target = Target(100, (), c["size"], 3)
    g = method.reshape([gan], target)
    loss = AdversarialLoss("non-saturating", r1_gamma=2 * said["reg_param"],
                           r2_gamma=2 * said["reg_param"] * both, order="generator")
    plan = method.plan(g, [gan], target, loss)
    d = plan.extras["critic"]
    assert [phase.name for phase in plan.phases] == ["G", "G", "D"]
    own = adafm_names(start["G"])
    del own["embedding.weight"]
    g.double().load_state_dict(own)
    d.double().load_state_dict(start["D"])
    average = {k: v.clone() for k, v in g.state_dict().items()}
    optimizers = {k: _optimizer(replace(group, lr=said["lr"]), "adam") for k, group in plan.groups.items()}
    assert {group.lr for group in plan.groups.values()} == {said["lr"]}
    io = load_file(root / f"{name}.io.safetensors")
    for step, logged in enumerate(said["log"]):
        here = {k.removeprefix(f"it{step}."): v.double() for k, v in io.items() if k.startswith(f"it{step}.")}
        monkeypatch.setattr(g.specific, "noise", lambda z, here=here: noise_of(here))
        for phase in plan.phases:
            if not phase.start_nimg <= size * step < (phase.stop_nimg or 10**9):
                continue
            g.requires_grad_(False)
            d.requires_grad_(False)
            for key in phase.updates:
                for param in plan.groups[key].params:
                    param.requires_grad_(True)
            terms = phase.loss(batch(here["x_real"], torch.zeros(size, dtype=torch.int64), here["z"], step)).terms
            sum(terms.values()).backward()
            for key in phase.updates:
                optimizers[key].step()
                optimizers[key].zero_grad()
            if phase.name == "D":
                assert float((terms["real"] + terms["fake"]).detach()) == pytest.approx(logged["dloss"], rel=1e-6)
                assert float(terms["r2" if both else "r1"].detach()) == pytest.approx(logged["reg"], rel=1e-6)
            else:
                assert float(terms["adversarial"].detach()) == pytest.approx(logged["gloss"], rel=1e-6)
                for k, v in g.state_dict().items():
                    average[k].lerp_(v, 1 - said["ema_beta"])
    for ours, theirs in ((g.state_dict(), after["G"]), (average, after["G_ema"])):
        theirs = adafm_names(theirs)
        del theirs["embedding.weight"]
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            # Biases in front of an instance norm have no gradient but rounding, which Adam blows up.
            drifting = ".conv_" in key and key.endswith("bias") and key.startswith("specific.")
            close(ours[key], value, 4e-4 if drifting else 1e-7)
    for key, value in after["D"].items():
        close(d.state_dict()[key], value, 1e-8)
