"""Single-file peers: their equations in closed form, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import assemble, latents, make_data, make_source
from torch import nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import class_parameters
from gantransfer.filter_modulation import LowRank, SingularValues, modulate
from gantransfer.layers import SNConv2d
from gantransfer.losses import AdversarialLoss, squared_distance
from gantransfer.methods.ewc import fisher, relative
from gantransfer.modulation import fold
from gantransfer.plan import Batch, Target
from gantransfer.registry import architectures
from gantransfer.runs import make_method
from gantransfer.sources import GAN


def test_the_distance_to_the_source_is_freezeds(shared: Path) -> None:
    found = load_file(shared / "fixtures" / "gpgan" / "freezed_regularisers.safetensors")
    source, target = ({k.removeprefix(f"l2reg.{part}."): v.double() for k, v in found.items()
                       if k.startswith(f"l2reg.{part}.")} for part in ("src", "tgt"))
    assert float(squared_distance(target, source)) == pytest.approx(float(found["l2reg.value"]), rel=1e-6)
    free = {**target, "new": torch.ones(3)}  # what the source does not have costs nothing
    assert torch.equal(squared_distance(free, source), squared_distance(target, source))


class Product(nn.Module):
    """An 'image' [N, 1, 1, 1] = a z: its log-likelihood under a linear critic has known gradients."""

    z_dim, num_classes, num_base_classes = 1, 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, z: torch.Tensor, y: None = None) -> torch.Tensor:
        return (self.a * z + 0 * self.b).view(-1, 1, 1, 1)


def test_fisher_information_in_closed_form() -> None:
    """d log sigma(a z) / da = (1 - sigma(a z)) z, and b, which does nothing, carries none."""
    critic = nn.Flatten(0)
    raw = fisher(Product(), _Labelless(critic), ["a", "b"], 50)
    rng = torch.Generator().manual_seed(0)
    z = torch.cat([torch.randn(1, 1, generator=rng) for _ in range(50)]).squeeze(1)
    expected = ((1 - torch.sigmoid(0.5 * z)) * z).square().mean()
    assert float(raw["b"]) == 0 and float(raw["a"]) == pytest.approx(float(expected), rel=1e-5)
    found = relative(raw)
    assert float(found["b"]) == 0 and float(found["a"]) == pytest.approx(2.0, rel=1e-5)  # the mean of both is 1
    with pytest.raises(ModelError, match="is certain of every generated image"):
        relative(fisher(Product(), _Labelless(nn.Sequential(critic, Certain())), ["a"], 5))


class Certain(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + 200


class _Labelless(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor, y: None = None) -> torch.Tensor:
        return self.inner(images)


def loss_of(method: str, fields: dict[str, Any], phase: str, step: bool = False,
            target: Target = Target(8, ("a", "b"), 32, 1)) -> dict[str, float]:  # noqa: B008
    gan = make_source()
    made = make_method(method, fields)
    generator = made.reshape([gan], target)
    plan = made.plan(generator, [gan], target, AdversarialLoss())
    if step:
        with torch.no_grad():
            for net in (generator, plan.extras["critic"]):
                for name, param in net.named_parameters():
                    if "weight" in name and param.ndim == 4:
                        param.add_(0.1)
    z, _ = latents(gan, 4)
    y = torch.tensor([0, 1, 0, 1])
    batch = Batch(torch.rand(4, 1, 32, 32), y, torch.arange(4), z, y, torch.Generator())
    terms = next(p for p in plan.phases if p.name == phase).loss(batch).terms
    return {k: float(v.detach()) for k, v in terms.items()}


@pytest.mark.parametrize(("method", "fields", "phase", "term"), [
    ("l2sp", {"weight_g": 3.0}, "G", "l2sp"), ("l2sp", {"weight_d": 3.0}, "D", "l2sp"),
    ("ewc", {"fisher_images": 2}, "G", "ewc"), ("distillation", {"block": 2}, "D", "distillation"),
])
def test_penalties_are_nothing_at_the_source_and_grow_away_from_it(
    method: str, fields: dict[str, Any], phase: str, term: str
) -> None:
    if method == "l2sp":  # every weight of every convolution moves by 0.1: 0.01 for each of their tensors
        gan = make_source()
        net = gan.generator if phase == "G" else gan.discriminator
        count = sum(p.ndim == 4 for p in net.parameters())
        assert loss_of(method, fields, phase, step=True)[term] == pytest.approx(3.0 * 0.01 * count, rel=1e-4)
    assert loss_of(method, fields, phase)[term] == pytest.approx(0, abs=1e-9)
    assert loss_of(method, fields, phase, step=True)[term] > 1e-4


def test_ewc_s_penalty_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an information of 1 everywhere a step of 0.1 in some weights costs 0.01 for their share of all."""
    monkeypatch.setattr("gantransfer.methods.ewc.fisher", lambda g, d, names, n: {
        k: torch.ones_like(p) for k, p in g.named_parameters() if k in set(names)})
    gan = make_source()
    rows = {id(p) for p in class_parameters(gan.generator)}
    sizes = [(p.ndim == 4, p.numel()) for p in gan.generator.parameters() if id(p) not in rows]
    share = sum(n for moved, n in sizes if moved) / sum(n for _, n in sizes)
    assert loss_of("ewc", {"weight": 5.0}, "G", step=True)["ewc"] == pytest.approx(5.0 * 0.01 * share, rel=1e-4)


def test_distillation_s_penalty_is_the_mean_square_of_a_block_s_change() -> None:
    torch.manual_seed(0)
    gan, target = make_source(), Target(8, ("a", "b"), 32, 1)
    made = make_method("distillation", {"block": 1, "weight": 2.0})
    plan = made.plan(made.reshape([gan], target), [gan], target, AdversarialLoss())
    critic, images = plan.extras["critic"], torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        for param in critic.blocks[0].parameters():
            param.add_(0.1)
        wanted = 2.0 * (critic.maps(images)[0] - gan.discriminator.maps(images)[0]).square().mean()
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), torch.arange(4), latents(gan, 4)[0],
                  torch.zeros(4, dtype=torch.int64), torch.Generator())
    found = next(p for p in plan.phases if p.name == "D").loss(batch).terms["distillation"]
    assert float(found.detach()) == pytest.approx(float(wanted), rel=1e-5) and float(wanted) > 0


def test_new_class_rows_are_free_however_many_there_are() -> None:
    """As many target classes as the source's: their rows have the old ones' shape and are none of theirs."""
    classes = tuple("abcdefgh"[: make_source().generator.num_classes])
    cases = (("l2sp", {}, "G"), ("l2sp", {"weight_d": 3.0}, "D"), ("ewc", {"fisher_images": 2}, "G"))
    for method, fields, phase in cases:
        found = loss_of(method, {**fields, "class_init": "random"}, phase, target=Target(8, classes, 32, 1))
        assert found[method] == 0, (method, phase)


def test_singular_values_of_a_normed_layer_are_those_it_multiplies_with() -> None:
    """lambda on W / sigma, sigma far from 1: halving all of them halves the layer."""
    torch.manual_seed(0)
    layer = SNConv2d(4, 6, 3).eval()
    with torch.no_grad():
        layer.weight.mul_(7)
    before = layer.normalized_weight().clone()
    assert float(before.norm()) < 0.5 * float(layer.weight.norm())
    change = modulate(layer, SingularValues(layer.unmodulated()))
    torch.testing.assert_close(layer.normalized_weight(), before, atol=0, rtol=0)
    with torch.no_grad():
        change.factors.fill_(0.5)
    torch.testing.assert_close(layer.normalized_weight(), 0.5 * before, atol=1e-6, rtol=0)
    gan = make_source()
    generator = make_method("fsgan", {}).reshape([gan], Target(8, ("a", "b"), 32, 1)).eval()
    layers = [m for m in generator.modules() if isinstance(m, SNConv2d)]
    with torch.no_grad():
        for layer in layers:
            normed = layer.unmodulated()
            layer.modulation.factors.fill_(0.5)
            torch.testing.assert_close(layer.normalized_weight(), 0.5 * normed, atol=1e-6, rtol=0)
    assert layers


def test_what_is_new_with_the_classes_trains_and_nothing_else_outside(tmp_path: Path) -> None:
    """An auxiliary classifier under fsgan; no attention gain under scaleshift; no layer before frozen blocks."""
    def changed(network: str, method: str, part: str) -> set[str]:
        images = make_data(tmp_path / f"images-{network}-{method}")
        parts = assemble(tmp_path / f"{network}-{method}", make_source(network), images, method, steps=2)
        module = parts.trainer.generator if part == "G" else parts.trainer.extras["critic"]
        before = {k: v.clone() for k, v in module.named_parameters()}
        parts.trainer.run()
        return {k for k, v in module.named_parameters() if not torch.equal(v, before[k])}

    moved = changed("wgan_gp", "fsgan", "D")
    assert {"classifier.weight", "classifier.bias", "output.weight"} <= moved
    scales = changed("hierarchical", "scaleshift", "G")
    generator = make_source("hierarchical").generator
    norms = tuple(name for name, _ in generator.norms())
    rows = {id(p) for p in class_parameters(generator)}
    own = {name for name, p in generator.named_parameters() if name.startswith(norms) or id(p) in rows}
    assert scales and scales <= own
    assert any("gamma" in name for name, _ in generator.named_parameters())
    assert not any(name.startswith(("input", "blocks.0.")) and "norm" not in name
                   for name in changed("wgan_gp", "freezeg", "G"))


def test_labels_beside_the_latent_cannot_be_learned_by_frozen_layers() -> None:
    gan, target = make_source("wgan_gp-concat"), Target(8, ("a", "b"), 32, 1)
    for method in ("lora", "fsgan", "scaleshift"):
        with pytest.raises(ModelError, match="where this source takes labels beside the latent; use transfergan"):
            make_method(method, {}).reshape([gan], target)
        make_method(method, {}).reshape([gan], Target(8, ("a",), 32, 1))
    generator = make_method("freezeg", {}).reshape([gan], target)
    plan = make_method("freezeg", {}).plan(generator, [gan], target, AdversarialLoss())
    assert any(p is generator.input.weight for p in plan.groups["G"].params)


def test_freezed_freezes_the_published_parameters(shared: Path) -> None:
    """Of SNGAN-projection at 128 px: blocks 1 to L, counted from the image."""
    told = json.loads((shared / "fixtures" / "gpgan" / "freezed_names.json").read_text())["sngan_projection_128"]
    arch = architectures["biggan"]
    config = arch.config_class(resolution=128, num_classes=3, z_dim=4, g_widths=(4,) * 6, d_widths=(4,) * 6)
    gan, target = GAN(arch.build_generator(config), arch.build_discriminator(config)), Target(8, ("a", "b"), 128, 3)
    part = {"conv1": "c1", "conv2": "c2", "conv_sc": "c_sc", "weight": "W", "bias": "b"}

    def published(name: str) -> str:
        if name.startswith("blocks."):
            _, block, _, layer, kind = name.split(".")
            return f"block{int(block) + 1}/{part[layer]}/{part[kind]}"
        return {"linear.weight": "l7/W", "linear.bias": "l7/b", "embed.weight": "l_y/W"}[name]

    for layers, names in told["settings"].items():
        method = make_method("freezed", {"frozen_blocks": int(layers.removeprefix("layer_"))})
        plan = method.plan(method.reshape([gan], target), [gan], target, AdversarialLoss())
        trained = {id(p) for p in plan.groups["D"].params}
        found = {True: set(), False: set()}
        for name, param in plan.extras["critic"].named_parameters():
            found[id(param) in trained].add(published(name))
        assert found == {True: set(names["trainable"]), False: set(names["frozen"])}, layers


def test_low_rank_changes_and_singular_values() -> None:
    torch.manual_seed(0)
    for build in (lambda w: LowRank(w, 2, 2.0), SingularValues):
        layer = nn.Conv2d(5, 6, 3)
        before = layer.weight.detach().clone()
        change = modulate(layer, build(layer.weight.detach()))
        assert torch.equal(layer.weight, before)
        with torch.no_grad():
            for param in change.parameters():
                param.add_(0.3 * torch.randn(param.shape))
        difference = (layer.weight - before).detach().reshape(6, -1)
        if isinstance(change, LowRank):
            assert torch.linalg.matrix_rank(difference, rtol=1e-4) == 2
        else:
            u, s, v = torch.linalg.svd(before.reshape(6, -1), full_matrices=False)
            expected = (u * (s * change.factors)) @ v
            torch.testing.assert_close(layer.weight.detach().reshape(6, -1), expected, atol=1e-5, rtol=0)
        folded = fold(nn.ModuleList([layer]))
        assert torch.equal(folded[0].weight, before + difference.view_as(before)) and "weight" in folded[0].state_dict()


def test_what_trains_and_what_is_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "images")
    parts = assemble(tmp_path / "run", make_source("hierarchical"), data, "freezeg", {"frozen_blocks": 2}, steps=1)
    before = {k: v.clone() for k, v in parts.trainer.generator.state_dict().items()}
    parts.trainer.run()
    changed = {k for k, v in parts.trainer.generator.state_dict().items() if not torch.equal(v, before[k])}
    weights = {k for k in changed if k.endswith(("weight", "bias"))}
    assert weights and not any(k.startswith(("blocks.0", "blocks.1", "linear")) for k in weights)
    for method, fields, error, message in (
        ("freezeg", {"frozen_blocks": 9}, UsageError, "frozen_blocks 9 is outside 0 to 3, the blocks of this source"),
        ("distillation", {"block": 9}, UsageError, "block 9 is outside 0 to 4"),
        ("distillation", {"block": 0}, UsageError, "block 0 is none; give 1"),
        ("lora", {"rank": 0}, UsageError, "rank 0 changes nothing"),
        ("lora", {"alpha": 0.0}, UsageError, "alpha 0 changes nothing"),
        ("ewc", {"fisher_images": 0}, UsageError, "fisher_images 0 measure no information"),
        ("scaleshift", {}, ModelError, "norm layers and this source's generator has none"),
    ):
        gan = make_source("gp_gan" if method == "scaleshift" else "tables")
        with pytest.raises(error, match=message):
            assemble(tmp_path / method, gan, data, method, fields)


@pytest.mark.parametrize("network", ["tables", "hierarchical", "unconditional", "gp_gan", "wgan_gp", "wgan_gp-concat"])
@pytest.mark.parametrize("frozen", [1, 3])
def test_freezed_counts_blocks_from_the_image_in_every_architecture(network: str, frozen: int) -> None:
    """As the published projection-SNGAN run: blocks 1 to L get no update, the others and both last layers do."""
    gan, made = make_source(network), make_method("freezed", {"frozen_blocks": frozen})
    target = Target(8, ("a", "b") if gan.generator.num_classes else (), 32, 1)
    plan = made.plan(made.reshape([gan], target), [gan], target, AdversarialLoss())
    critic = plan.extras["critic"]
    trained = {id(p) for p in plan.groups["D"].params}
    below = {id(p) for block in list(critic.blocks)[:frozen] for p in block.parameters()}
    assert below and not below & trained
    assert {id(p) for p in critic.parameters()} - below == trained
    first = next(m for m in critic.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 1 and id(first.weight) in below  # the image's end
