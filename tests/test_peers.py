"""Single-file peers: their equations in closed form, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import assemble, latents, make_data, make_source
from torch import nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.filter_modulation import LowRank, SingularValues, modulate
from gantransfer.losses import AdversarialLoss, squared_distance
from gantransfer.methods.ewc import fisher
from gantransfer.modulation import fold
from gantransfer.plan import Batch, Target
from gantransfer.runs import make_method


def test_the_distance_to_the_source_is_freezeds(shared: Path) -> None:
    found = load_file(shared / "fixtures" / "gpgan" / "freezed_regularisers.safetensors")
    source, target = ({k.removeprefix(f"l2reg.{part}."): v.double() for k, v in found.items()
                       if k.startswith(f"l2reg.{part}.")} for part in ("src", "tgt"))
    assert float(squared_distance(target, source)) == pytest.approx(float(found["l2reg.value"]), rel=1e-6)
    free = {**target, "new": torch.ones(3)}  # what the source does not have costs nothing
    assert torch.equal(squared_distance(free, source), squared_distance(target, source))


class Product(nn.Module):
    """An 'image' [N, 1, 1, 1] = a z: its log-likelihood under a linear critic has known gradients."""

    z_dim, num_classes = 1, 0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, z: torch.Tensor, y: None = None) -> torch.Tensor:
        return (self.a * z + 0 * self.b).view(-1, 1, 1, 1)


def test_fisher_information_in_closed_form() -> None:
    """d log sigma(a z) / da = (1 - sigma(a z)) z, and b, which does nothing, carries none."""
    critic = nn.Flatten(0)
    found = fisher(Product(), _Labelless(critic), ["a", "b"], 50)
    rng = torch.Generator().manual_seed(0)
    z = torch.cat([torch.randn(1, 1, generator=rng) for _ in range(50)]).squeeze(1)
    expected = ((1 - torch.sigmoid(0.5 * z)) * z).square().mean()
    assert float(found["b"]) == 0 and float(found["a"]) == pytest.approx(2.0, rel=1e-5)  # the mean of both is 1
    raw = fisher(Product(), _Labelless(critic), ["a"], 50)
    assert float(raw["a"]) == pytest.approx(1.0) and expected > 0


class _Labelless(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor, y: None = None) -> torch.Tensor:
        return self.inner(images)


def loss_of(method: str, fields: dict[str, Any], phase: str, step: bool = False) -> dict[str, float]:
    gan, target = make_source(), Target(8, ("a", "b"), 32, 1)
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
        ("lora", {"rank": 0}, UsageError, "rank 0 changes nothing"),
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
