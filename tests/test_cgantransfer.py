"""cGANTransfer against its paper: propagation (eqs. 5 and 6), penalties (eq. 7), ablations, fine-tuning, folding.

The contracts that hold for every method are in test_methods, the published code's numbers in
test_biggan_fixtures.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from small_gans import KINDS, latents, small_gan
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantransfer.errors import UsageError
from gantransfer.extension import source_rows
from gantransfer.losses import AdversarialLoss
from gantransfer.methods.cgantransfer import CGANTransfer
from gantransfer.modulation import PARAMETRISATIONS, Propagation, propagations
from gantransfer.norm import ClassMixture
from gantransfer.plan import Batch, Plan, Target
from gantransfer.sources import GAN

N, M = 4, 3  # old and new classes
FLAVOUR = {"table": "official-cifar", "hierarchical": "official-imagenet"}


def planned(gan: GAN, classes: int = M, **fields) -> tuple[nn.Module, Plan, CGANTransfer]:
    """The generator to be trained, its plan and the method."""
    method = CGANTransfer(**fields)
    target = Target(12, tuple("abcdefgh"[:classes]), 32, 1)
    generator = method.reshape([gan], target)
    return generator, method.plan(generator, [gan], target, AdversarialLoss()), method


def tables(generator: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Effective scales and shifts by norm, with the parametrisation in place."""
    with torch.no_grad():
        return {n: (1 + norm.gain.weight, norm.bias.weight.clone()) for n, norm in generator.class_norms()}


def params(plan: Plan, group: str) -> set[int]:
    return {id(p) for p in plan.groups[group].params}


def batch(gan: GAN, n: int = 4) -> Batch:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(n) % M
    return Batch(torch.randn(n, 1, 32, 32, generator=rng), y, y, latents(gan, n), y.flip(0), rng)


# ---- propagation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("parametrisation", ["linear", "centred"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_one_hot_scores_reproduce_old_classes(kind: str, parametrisation: str, scale: float) -> None:
    gan = small_gan(kind, g_attention=(8,))
    generator, _, _ = planned(gan, parametrisation=parametrisation, score_scale=scale)
    old = torch.tensor([2, 0, 3])
    with torch.no_grad():
        for _, layer in propagations(generator):
            layer.scores.copy_(nn.functional.one_hot(old, N) / scale)
            torch.testing.assert_close(layer.effective_scores(), nn.functional.one_hot(old, N).float())
    rows = source_rows(gan.generator)
    for name, (scales, shifts) in tables(generator).items():
        torch.testing.assert_close(scales, rows[name][0][old], atol=1e-6, rtol=0)
        torch.testing.assert_close(shifts, rows[name][1][old], atol=1e-6, rtol=0)
    z, y = latents(gan, 6), torch.arange(6) % M
    with torch.no_grad():
        torch.testing.assert_close(generator(z, y), gan.generator(z, old[y]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_old_rows_are_what_the_network_uses(kind: str) -> None:
    """A norm fed with an old class acts as one fed with its effective scale and shift."""
    gan = small_gan(kind)
    x = torch.randn(N, 16, 4, 4)
    noise = torch.zeros(N, gan.generator.config.z_chunk) if kind == "hierarchical" else None
    condition = gan.generator.condition(torch.arange(N), N)._replace(noise=noise)
    name, norm = next(iter(gan.generator.class_norms()))
    scales, shifts = source_rows(gan.generator)[name]
    centred = (x - norm.stored_mean[:, None, None]) / (norm.stored_var[:, None, None] + norm.eps).sqrt()
    with torch.no_grad():
        expected = centred * scales[:, :, None, None] + shifts[:, :, None, None]
        torch.testing.assert_close(norm(x, condition), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_parametrisation_starts_at_the_mean_class(kind: str, parametrisation: str, scale: float) -> None:
    gan = small_gan(kind)
    generator, plan, _ = planned(gan, parametrisation=parametrisation, score_scale=scale)
    for name, (scales, shifts) in tables(generator).items():
        for ours, theirs in zip((scales, shifts), source_rows(gan.generator)[name], strict=True):
            torch.testing.assert_close(ours, theirs.mean(0).expand(M, -1), atol=1e-6, rtol=0)
    for _, layer in propagations(generator):
        assert (layer.scores == (1 / N / scale if parametrisation == "linear" else 0)).all()
        torch.testing.assert_close(layer.effective_scores(), torch.full((M, N), 1 / N), atol=1e-7, rtol=0)
    assert all(not p.any() for p in plan.groups["residual"].params)
    z = latents(gan, 3)
    with torch.no_grad():
        mean = gan.generator(z, ClassMixture(torch.full((3, N), 1 / N)))
        torch.testing.assert_close(generator(z, torch.arange(M)), mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("is_scale", [True, False])
def test_propagation_is_equation_5_with_residuals(parametrisation: str, is_scale: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    prior, scores = torch.randn(N, 5, generator=rng), torch.randn(M, N, generator=rng)
    residual = torch.randn(M, 5, generator=rng)
    layer = Propagation(prior, nn.Parameter(scores), is_scale, parametrisation, residual_scale=4.0)
    effective = layer.effective_scores()
    assert effective.shape == (M, N)
    table = layer(residual / 4) + (1 if is_scale else 0)
    torch.testing.assert_close(table, effective @ prior + residual, atol=1e-6, rtol=1e-6)
    if parametrisation == "linear":
        assert torch.equal(effective, scores)
    else:  # combinations whose coefficients sum to 1
        torch.testing.assert_close(effective.sum(1), torch.ones(M))
    prior += 100  # the layer holds a copy
    assert not torch.equal(layer.prior, prior)


def test_scale_and_shift_and_every_layer_have_their_own_scores() -> None:
    gan = small_gan()
    generator, plan, _ = planned(gan)
    layers = propagations(generator)
    assert len(layers) == 2 * len(list(generator.class_norms())) == 12
    assert len({id(layer.scores) for _, layer in layers}) == 12 == len(plan.groups["scores"].params)
    shared, plan, _ = planned(gan, shared_scores=True)
    for part in (".gain", ".bias"):
        assert len({id(layer.scores) for name, layer in propagations(shared) if name.endswith(part)}) == 1
    assert len(plan.groups["scores"].params) == 2
    twin = copy.deepcopy(shared)  # the moving average's copy shares in the same way
    assert len({id(layer.scores) for _, layer in propagations(twin)}) == 2
    plan.groups["scores"].params[0].data += 1
    assert not torch.equal(tables(shared)["blocks.1.0.bn2"][0], tables(twin)["blocks.1.0.bn2"][0])


# ---- eq. 7 -----------------------------------------------------------------------------------------------


def randomise(generator: nn.Module) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in generator.parameters():
            param.add_(0.1 * torch.randn(param.shape, generator=rng))


def penalties(generator: nn.Module, plan: Plan, gan: GAN) -> dict[str, float]:
    terms = plan.phases[1].loss(batch(gan)).terms
    return {k: v.item() for k, v in terms.items() if k != "adversarial"}


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("shared_scores", [False, True])
@pytest.mark.parametrize("penalty", ["sum", "mean"])
def test_penalties_computed_independently(penalty: str, shared_scores: bool, scale: float) -> None:
    gan = small_gan()
    generator, plan, _ = planned(
        gan, penalty=penalty, lambda_r=0.3, lambda_s=0.05, shared_scores=shared_scores, parametrisation="linear",
        score_scale=scale, residual_scale=scale)
    randomise(generator)
    l_s = l_r = 0.0
    seen = []
    for _, norm in generator.class_norms():
        for table in (norm.gain, norm.bias):
            scores, residual = table.parametrizations.weight[0].scores, table.parametrizations.weight.original
            size_s, size_r = (scores.numel(), residual.numel()) if penalty == "mean" else (1, 1)
            if not any(scores is s for s in seen):  # one tensor is penalised once
                seen.append(scores)
                l_s += sum(abs(v) for row in (scale * scores).tolist() for v in row) / size_s
            l_r += sum(v * v for row in (scale * residual).tolist() for v in row) / size_r
    found = penalties(generator, plan, gan)
    assert found == {"sparsity": pytest.approx(0.05 * l_s, rel=1e-5), "residual": pytest.approx(0.3 * l_r, rel=1e-5)}


def test_the_stated_rescaling_makes_sums_and_means_equal() -> None:
    gan = small_gan(g_widths=(8, 8, 8, 8))  # one width: the factor M C is one number
    results = []
    for fields in ({"penalty": "mean", "lambda_r": 0.1, "lambda_s": 0.01}, {"penalty": "mean"}, {},
                   {"penalty": "sum", "lambda_r": 0.1 / (M * 8), "lambda_s": 0.01 / (N * M)}):
        generator, plan, _ = planned(gan, **fields)
        randomise(generator)
        results.append(penalties(generator, plan, gan))
    assert all(result == pytest.approx(results[0], rel=1e-5) for result in results)  # also what None stands for
    generator, plan, _ = planned(small_gan())  # several widths: C is their mean over the tensors
    channels = sum(norm.channels for _, norm in generator.class_norms()) / 6
    assert f"lambda_r {0.1 / (M * channels):.3g}, lambda_s {0.01 / (N * M):.3g}" in "\n".join(plan.notes)


# ---- Table 2 ---------------------------------------------------------------------------------------------

ABLATIONS = {
    "frozen prior, no residuals": {"tune_prior": False, "residuals": False},
    "frozen prior, residuals": {"tune_prior": False},
    "tunable prior, no residuals": {"residuals": False},
    "shared scores, tunable prior, no residuals": {"shared_scores": True, "residuals": False},
    "final, no regularisation": {"lambda_r": 0.0, "lambda_s": 0.0},
    "final, no l1": {"lambda_s": 0.0},
    "final, no l2": {"lambda_r": 0.0},
    "final": {},
    "final with shared scores": {"shared_scores": True},
}


@pytest.mark.parametrize("parametrisation", [*PARAMETRISATIONS, "official"])
@pytest.mark.parametrize("row", list(ABLATIONS))
@pytest.mark.parametrize("kind", ["table", "hierarchical"])
def test_the_ablations_train_what_they_state(kind: str, row: str, parametrisation: str) -> None:
    fields = ABLATIONS[row]
    if parametrisation == "official":
        parametrisation = FLAVOUR[kind]
        if fields.get("shared_scores"):
            with pytest.raises(UsageError, match="shared_scores"):
                CGANTransfer(parametrisation=parametrisation, **fields)
            return
    gan = small_gan(kind)
    generator, plan, _ = planned(gan, parametrisation=parametrisation, **fields)
    expected = {"scores", "D"} | ({"prior"} if fields.get("tune_prior", True) else set())
    expected |= {"residual"} if fields.get("residuals", True) else set()
    expected |= {"noise"} if kind == "hierarchical" else set()
    assert plan.groups.keys() == expected
    assert set(plan.phases[1].updates) == expected - {"D"} and plan.phases[0].updates == ("D",)
    for a, b in pairwise(sorted(expected)):
        assert not params(plan, a) & params(plan, b)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    generator.requires_grad_(False)
    ours = [p for name in expected - {"D"} for p in plan.groups[name].params]
    for param in ours:
        param.requires_grad_(True)
    generator.train()
    for module in plan.fixed:
        module.eval()
    losses = plan.phases[1].loss(batch(gan))
    assert set(losses.terms) == {"adversarial"} | (
        {"sparsity"} if fields.get("lambda_s", 1) else set()) | (
        {"residual"} if fields.get("lambda_r", 1) and "residual" in expected else set())
    sum(losses.terms.values()).backward()
    torch.optim.SGD(ours, lr=0.1).step()
    names = dict(generator.named_parameters(remove_duplicate=False))
    moved = {id(p) for k, p in names.items() if not torch.equal(p, before[k])}
    grad_free = {id(p) for p in ours if p.grad is None or not p.grad.any()}
    assert moved <= {id(p) for p in ours} and {id(p) for p in ours} - moved <= grad_free
    assert len(moved) > len(ours) / 2
    if "residual" not in expected:
        for _, norm in generator.class_norms():
            assert float(norm.gain.parametrizations.weight.original.abs().max()) == 0


def test_rates() -> None:
    gan = small_gan("hierarchical")
    _, plan, _ = planned(gan, lr=0.5, finetune_nimg=10)
    assert {n: g.lr for n, g in plan.groups.items()} == {
        "scores": 0.5, "prior": 0.5, "residual": 0.5, "noise": 0.5, "D": 4e-4, "body": 1e-4}
    _, plan, _ = planned(gan, lr_scores=1.0, lr_prior=2.0, lr_residual=0.0, lr_noise=4.0, lr_d=5.0)
    assert [plan.groups[n].lr for n in ("scores", "prior", "residual", "noise", "D")] == [1.0, 2.0, 0.0, 4.0, 5.0]


# ---- the critic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_propagation_in_the_critic(parametrisation: str) -> None:
    gan = small_gan()
    _, plan, _ = planned(gan, propagate_in_d=True, parametrisation=parametrisation)
    critic, source = plan.extras["critic"], gan.discriminator.embed.weight.detach()
    assert parametrize.is_parametrized(critic.embed, "weight") and not parametrize.is_parametrized(gan.discriminator)
    torch.testing.assert_close(critic.embed.weight, source.mean(0).expand(M, -1), atol=1e-6, rtol=0)
    layer = critic.embed.parametrizations.weight[0]
    assert {id(layer.scores), id(layer.prior)} <= params(plan, "D")
    loss = sum(plan.phases[0].loss(batch(gan)).terms.values())
    assert torch.autograd.grad(loss, layer.scores)[0].any()
    plain, plan, _ = planned(gan, d_embedding="mean")
    assert not parametrize.is_parametrized(plan.extras["critic"].embed)
    torch.testing.assert_close(plan.extras["critic"].embed.weight, source.mean(0).expand(M, -1), atol=1e-6, rtol=0)


# ---- fine-tuning (section 5.4) ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_fine_tuning_stage(kind: str) -> None:
    gan = small_gan(kind)
    generator, plan, _ = planned(gan, finetune_nimg=48, lr_finetune=3e-5)
    critic, first, second = plan.phases
    assert (critic.start_nimg, critic.stop_nimg) == (0, None)
    assert (first.start_nimg, first.stop_nimg, second.start_nimg, second.stop_nimg) == (0, 48, 48, None)
    noise = {"noise"} if kind == "hierarchical" else set()
    assert set(first.updates) == {"scores", "prior", "residual"} | noise
    assert set(second.updates) == {"residual", "body"} | noise
    body, everything = params(plan, "body"), {id(p) for p in generator.parameters()}
    groups = [params(plan, n) for n in first.updates]
    assert body == everything - set().union(*groups) and not any(body & group for group in groups)
    assert id(generator.blocks[0][0].conv1.weight) in body and id(generator.output_layer[0].gain) in body
    assert plan.fixed and plan.fixed_until_nimg == 48  # then power iterations of the body move again
    _, plan, _ = planned(gan)
    assert plan.fixed and plan.fixed_until_nimg is None and "body" not in plan.groups
    without, plan, _ = planned(gan, finetune_nimg=48, residuals=False, tune_prior=False)
    owned = {id(p) for _, layer in propagations(without) for p in layer.parameters()}
    assert not params(plan, "body") & owned and "residual" not in plan.phases[2].updates
