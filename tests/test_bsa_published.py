"""BSA as published, against the golden tensors of its code, and what its parts do alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import assemble, latents, make_data, make_source
from torch import Tensor, nn

from gantransfer import api
from gantransfer.adapter import save_adapter
from gantransfer.errors import ModelError, UsageError
from gantransfer.latents import given_latents
from gantransfer.losses import AdversarialLoss
from gantransfer.methods.bsa_published import latent_distance
from gantransfer.modulation import fold
from gantransfer.plan import Batch, Plan, Target
from gantransfer.registry import architectures
from gantransfer.runs import make_method
from gantransfer.sources import GAN

WIDTHS = (32, 32, 16, 8, 4, 2)


def sngan(state: dict[str, Tensor]) -> GAN:
    """The golden SNGAN of 128 px is a BigGAN without spectral norm; linear and convolution layouts are PyTorch's."""
    blocks = range(5)
    plain = ["linear", "output_layer.2", *(f"blocks.{i}.0.{c}" for i in blocks for c in ("conv1", "conv2", "conv_sc"))]
    arch = architectures["biggan"]
    config = arch.config_class(resolution=128, num_classes=3, z_dim=128, g_widths=WIDTHS, bn_eps=2e-5,
                               d_widths=(2,) * 6, plain_convolutions=plain)
    generator = arch.build_generator(config)
    new = {"linear.weight": state["gen/l1/W"], "linear.bias": state["gen/l1/b"], "output_layer.2.weight":
           state["gen/l7/W"], "output_layer.2.bias": state["gen/l7/b"]}
    norms = {"output_layer.0": "gen/b7"}
    for i in blocks:
        for ours, theirs in (("conv1", "c1"), ("conv2", "c2"), ("conv_sc", "c_sc")):
            for part, letter in (("weight", "W"), ("bias", "b")):
                new[f"blocks.{i}.0.{ours}.{part}"] = state[f"gen/block{i + 2}/{theirs}/{letter}"]
        norms |= {f"blocks.{i}.0.bn{k}": f"gen/block{i + 2}/b{k}" for k in (1, 2)}
    for ours, theirs in norms.items():
        new |= {f"{ours}.stored_mean": state[f"{theirs}/avg_mean"], f"{ours}.stored_var": state[f"{theirs}/avg_var"]}
        if ours == "output_layer.0":
            new |= {f"{ours}.gain": state[f"{theirs}/gamma"], f"{ours}.bias": state[f"{theirs}/beta"]}
        else:
            new |= {f"{ours}.gain.weight": state[f"{theirs}/gammas/W"] - 1,
                    f"{ours}.bias.weight": state[f"{theirs}/betas/W"]}
    generator.load_state_dict(new)
    generator.output_layer[0].eps = 2e-5  # ours is 1e-5 there, as BigGAN's
    return GAN(generator)


class Golden:
    """The golden run's method, at its start."""

    def __init__(self, shared: Path) -> None:
        folder = shared / "fixtures" / "gpgan"
        self.state = load_file(folder / "bsa_sngan.state.safetensors")
        self.io = load_file(folder / "bsa_sngan.io.safetensors")
        self.after = load_file(folder / "bsa_sngan.after_step.safetensors")
        self.gan, target = sngan(self.state), Target(3, ("a",), 128, 3)
        method = make_method("bsa-published", {"init": "first", "perceptual": "none", "prior": "normal:0.5"})
        self.generator = method.reshape([self.gan], target)
        self.generator.output_layer[0].eps = 2e-5  # a copy is built from its config
        self.plan: Plan = method.plan(self.generator, [self.gan], target, AdversarialLoss())
        self.names = self._start()
        for group in self.plan.groups.values():
            for param in group.params:
                param.requires_grad_(True)

    def _start(self) -> dict[str, nn.Parameter]:
        """Our parameters by their golden names, set to the golden values."""
        norms = [norm for _, norm in self.generator.class_norms()]
        first = self.generator.linear
        pairs = [first.parametrizations.bias[0], *(norm.bias.parametrizations.weight[0] for norm in norms)]
        names = {f"{kind}{i}": getattr(pair, kind) for i, pair in enumerate(pairs, 1) for kind in ("gamma", "beta")}
        names |= {"z": self.plan.extras["latents"].weight, "gen/l1/b": first.parametrizations.bias.original}
        with torch.no_grad():
            for name, param in names.items():
                param.copy_(self.state[name].view_as(param))
        return names

    def batch(self) -> Batch:
        rows = self.io["perm"].long()
        images = self.io["target"][rows]
        return Batch(images, torch.zeros(2, dtype=torch.int64), rows, torch.empty(0), torch.empty(0), torch.Generator())

    def eval(self) -> nn.Module:
        return self.generator.eval()


@pytest.fixture
def golden(shared: Path) -> Golden:
    return Golden(shared)


def replay(monkeypatch: pytest.MonkeyPatch, io: dict[str, Tensor]) -> None:
    """Draws of the loss are the golden ones: the jitter, then the samples of the prior."""
    draws = iter([io["z_eps"] / 0.01, io["emd_t"]])
    monkeypatch.setattr(torch, "randn", lambda *shape, generator=None: next(draws))


def test_images_and_samples_are_the_published_ones(golden: Golden) -> None:
    io, y = golden.io, torch.zeros(3, dtype=torch.int64)
    z = golden.state["z"][io["perm"].long()] + io["z_eps"]
    with torch.no_grad(), given_latents(golden.eval()):
        torch.testing.assert_close(golden.generator(z, y[:2]), io["x"], atol=2e-5, rtol=0)
        for name, param in golden.names.items():  # samples were drawn after the step; W's 1e-7 is not stored
            param.copy_(golden.after[f"after.{name}"].view_as(param))
        drawn = golden.generator(io["z_random_tmp"], y[:1])
        torch.testing.assert_close(drawn, io["x_random_tmp"], atol=5e-4, rtol=0)
        first, second = golden.names["z"][:2]
        between = torch.stack([first.lerp(second, a) for a in (0.0, 0.5, 1.0)])
        torch.testing.assert_close(golden.generator(between, y), io["x_interp_0_1_num3"], atol=5e-4, rtol=0)
    with torch.no_grad():  # the sampling prior does what the golden draw did: half of a standard normal
        torch.testing.assert_close(golden.generator(2 * io["z_random_tmp"], y[:1]), drawn, atol=1e-6, rtol=0)


def test_losses_gradients_and_the_step_are_the_published_ones(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(monkeypatch, golden.io)
    golden.eval()
    losses = golden.plan.phases[0].loss(golden.batch())
    found = torch.stack([losses.terms[name].detach() for name in ("l1", "prior", "penalty")])
    torch.testing.assert_close(found, golden.io["losses"], atol=1e-5, rtol=1e-5)
    sum(losses.terms.values()).backward()
    for key in (k for k in golden.io if k.startswith("grad.") and "linear" not in k):
        wanted, param = golden.io[key], golden.names[key.removeprefix("grad.")]
        torch.testing.assert_close(param.grad.view_as(wanted), wanted, atol=1e-3 * float(wanted.abs().max()), rtol=0)
    torch.testing.assert_close(golden.names["gen/l1/b"].grad, golden.io["grad.g_linear.b"], atol=1e-4, rtol=1e-3)
    weight = golden.plan.groups["linear"].params[0]
    wanted = golden.io["grad.g_linear.W_norm"].squeeze()
    torch.testing.assert_close(weight.grad.norm(), wanted, atol=0, rtol=1e-3)
    assert golden.plan.groups["linear"].lr == 1e-7
    for group in golden.plan.groups.values():
        assert group.betas == (0.9, 0.999) and (group.decay, group.decay_steps) == (0.2, 3000)
        torch.optim.Adam(group.params, lr=group.lr, betas=group.betas).step()
    for name, param in golden.names.items():
        wanted = golden.after[f"after.{name}"]
        # A step is 0.03; where gradients are tiny it depends on where epsilon stands, which differs in chainer.
        moved = (param.detach().view_as(wanted) - wanted).abs()
        assert float(moved.median()) < 5e-5 and float((moved > 1e-3).float().mean()) < 0.05, name


def test_big_gan_s_form_trains_maps_and_a_class_vector() -> None:
    """Every map from class vectors and noise, the class vectors, a scale and a shift after the first layer, latents;
    the penalty is the class vectors' mean square."""
    gan, target = make_source("hierarchical"), Target(4, ("a",), 32, 1)
    method = make_method("bsa-published", {"form": "modulation", "init": "scratch", "perceptual": "none", "lr": 5e-4,
                                           "lr_z": 0.05, "penalty_weight": 3.0})
    generator = method.reshape([gan], target)
    plan = method.plan(generator, [gan], target, AdversarialLoss())
    names = {id(p): k for k, p in generator.named_parameters()}
    trained = {group: {names[id(p)] for p in of.params if id(p) in names} for group, of in plan.groups.items()}
    maps = {f"{name}.{k}" for name, norm in generator.class_norms() for k, _ in norm.named_parameters()}
    assert maps <= trained["scales"] and {k.split(".")[0] for k in trained["scales"] - maps} == {"linear"}
    vector = plan.groups["classes"].params[0]
    assert vector.shape == (1, 6) and 0 < float(vector.detach().std()) < 0.1 and plan.groups["latents"].lr == 0.05
    batch = Batch(torch.zeros(2, 1, 32, 32), torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.empty(0),
                  torch.empty(0), torch.Generator())
    penalty = plan.phases[0].loss(batch).terms["penalty"].detach()
    torch.testing.assert_close(penalty, 3.0 * vector.detach().square().mean())
    with pytest.raises(ModelError, match="trains maps from class vectors, and this source's norms have tables"):
        method.reshape([make_source("tables")], target)


def test_the_latent_prior_is_freezeds_too(shared: Path) -> None:
    found = {k: v.double() for k, v in load_file(shared / "fixtures/gpgan/freezed_regularisers.safetensors").items()}
    z = found["emd.z"].requires_grad_(True)
    value = latent_distance(z, found["emd.t"])
    (gradient,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(value.detach(), found["emd.value"].squeeze(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, found["emd.grad_z"], atol=1e-6, rtol=1e-6)


# ---- parts and edges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["tables", "hierarchical", "gp_gan", "wgan_gp", "wgan_gp-unconditional"])
def test_scales_and_shifts_act_on_the_outputs_of_layers(network: str) -> None:
    """gamma 2 and beta 1 on the first layer: its output is doubled and shifted, whatever kind of layer it is."""
    gan = make_source(network)
    classes = ("a", "b") if gan.generator.num_classes else ()
    method, target = make_method("bsa-published", {"prior": ""}), Target(4, classes, 32, 1)
    generator = method.reshape([gan], target)
    method.plan(generator, [gan], target, AdversarialLoss())
    first = next(getattr(generator, n) for n in ("linear", "input", "fc") if hasattr(generator, n)).eval()
    x = torch.randn(3, first.in_features)
    with torch.no_grad():
        before = first(x)
        change = first.parametrizations.bias[0]
        change.gamma.fill_(2.0)
        change.beta.fill_(1.0)
        torch.testing.assert_close(first(x), 2 * before + 1, atol=1e-4, rtol=1e-4)
        if not list(generator.norms()):
            return
        norm = next(norm for _, norm in generator.norms())
        gain, bias = (norm.gain.weight, norm.bias.weight) if classes else (norm.gain, norm.bias)
        scale, shift = gain + bool(classes), bias.clone()
        owner = (norm.bias.parametrizations.weight if classes else norm.parametrizations.bias)[0]
        owner.gamma.fill_(3.0)
        owner.beta.fill_(0.5)
        gain, bias = (norm.gain.weight, norm.bias.weight) if classes else (norm.gain, norm.bias)
        torch.testing.assert_close(gain + bool(classes), 3 * scale)
        torch.testing.assert_close(bias, 3 * shift + 0.5)


def test_a_run_reconstructs_its_images_and_keeps_its_prior(tmp_path: Path) -> None:
    gan, data = make_source(), make_data(tmp_path / "images")
    fields = {"first_layer": False, "perceptual": "none", "prior": "truncated:0.4", "latents": "normal"}
    parts = assemble(tmp_path / "run", gan, data, "bsa-published", fields, steps=12, eval_nimg=0)
    trainer = parts.trainer
    assert trainer.extras["latents"].weight.shape == (15, 8)
    trainer.run()
    lines = [float(line.split('"R/difference": ')[1].split(",")[0])
             for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert lines[-1] < 0.98 * lines[0]
    best = fold(trainer.ema.module)
    save_adapter(tmp_path / "adapter", best, gan, "tiny", parts.method, "bsa-published", parts.target)
    merged = api.merge(gan, tmp_path / "adapter")
    assert merged.config["sampling_prior"] == "truncated:0.4"
    again = GAN.from_pretrained(merged.save_pretrained(tmp_path / "model"))
    assert (again.sample(3, seed=1) == merged.sample(3, seed=1)).all()
    extended = api.extend(gan, tmp_path / "adapter")
    z, y = latents(gan, 8)
    with torch.no_grad():
        assert torch.equal(extended.generator(z, y), gan.generator(z, y))


def test_rates_fall_in_stages(tmp_path: Path) -> None:
    fields = {"decay": 0.5, "decay_steps": 2, "perceptual": "none"}
    parts = assemble(tmp_path / "run", make_source(), make_data(tmp_path / "images"), "bsa-published", fields)
    rates = []
    for step in range(5):
        parts.trainer.progress.step = step
        parts.trainer._set_rates()
        rates.append(parts.trainer.optimizers["scales"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.03, 0.03, 0.015, 0.015, 0.0075])


@pytest.mark.parametrize(("fields", "error", "message"), [
    ({"form": "layer"}, UsageError, "did you mean 'layers'"),
    ({"perceptual": "vgg"}, UsageError, "perceptual 'vgg' does not exist; did you mean 'vgg16'"),
    ({"prior": "uniform:1"}, ModelError, "sampling prior 'uniform:1' does not exist"),
])
def test_wrong_fields(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        target = Target(4, ("a",), 32, 1)
        method = make_method("bsa-published", fields)
        method.plan(method.reshape([make_source()], target), [make_source()], target, AdversarialLoss())
