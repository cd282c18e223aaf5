"""MineGAN: miners, what moves when, supersamples, the selector, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import NETWORKS, UNLABELLED, adapter_of, assemble, make_data, make_source, moved, snapshot, write_images
from torch import Tensor, nn

import gantransfer as gt
from gantransfer import api
from gantransfer.data import ImageData
from gantransfer.errors import DataError, GanTransferError, ModelError, UsageError
from gantransfer.losses import AdversarialLoss, gradient_penalty
from gantransfer.methods.minegan import VARIANTS, MineGAN
from gantransfer.networks.mined import Mined, MinerConfig
from gantransfer.norm import ClassMixture
from gantransfer.plan import Batch, Target
from gantransfer.runs import make_method
from gantransfer.sources import GAN
from gantransfer.supersamples import Supersample

TARGET = Target(10, (), 32, 1)


def three() -> list[GAN]:
    """Sources of three kinds: other latents, class parameters and classes, one image shape."""
    return [make_source("tables"), make_source("unconditional", 1, z_dim=6), make_source("hierarchical", 2, z_dim=12)]


def mined(sources: list[GAN], target: Target = TARGET, **fields: Any) -> Mined:
    return MineGAN(**fields).reshape(sources, target)


def draws(generator: nn.Module, n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed))


# ---- miners ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_published_miners(variant: str, network: str) -> None:
    gan = make_source(network)
    generator = mined([gan], variant=variant)
    miner, preset = generator.miners[0], VARIANTS[variant]
    assert generator.z_dim == miner.config.u_dim == preset.get("u_dim", gan.generator.z_dim)
    layers = [layer for layer in miner.latent if isinstance(layer, nn.Linear)]
    assert len(layers) == preset["depth"] and all(hasattr(x, "u0") == preset["spectral"] for x in layers)
    assert len(miner.latent) == preset["depth"] * 2 - 1 if preset["activation"] == "relu" else preset["depth"]
    z, condition = miner(draws(generator, 5))
    assert z.shape == (5, gan.generator.z_dim)
    if network in UNLABELLED:
        assert condition is None
    elif gan.generator.class_embedding() is None:
        assert isinstance(condition, ClassMixture) and condition.weights.shape == (5, 4)
        torch.testing.assert_close(condition.weights.sum(1), torch.ones(5))
    else:
        assert condition.shape == (5, gan.generator.class_embedding().shape[1])
    assert generator(draws(generator, 5)).shape == (5, 1, 32, 32)


def test_fields_stand_over_the_variant() -> None:
    miner = mined([make_source()], variant="biggan", depth=3, width=5, u_dim=7, activation="lrelu",
                  spectral=False).miners[0]
    assert [tuple(x.weight.shape) for x in miner.latent if isinstance(x, nn.Linear)] == [(5, 7), (5, 5), (8, 5)]
    assert miner.config == MinerConfig(7, 8, 3, 5, "lrelu", False, "mixture", 4, miner.config.sn_eps)
    with pytest.raises(ModelError, match="activation 'tanh'"):
        MinerConfig(4, 4, activation="tanh")


def test_an_affine_miner_is_one_matrix_and_a_narrow_one_reads_little() -> None:
    generator = mined([make_source()], variant="biggan")
    a, b = draws(generator, 4), draws(generator, 4, 1)
    latent = generator.miners[0].latent
    torch.testing.assert_close(latent((a + b) / 2), (latent(a) + latent(b)) / 2, atol=1e-5, rtol=0)
    assert mined([make_source()], variant="mnist").z_dim == 4


@torch.no_grad()
def test_unit_miners_keep_the_size_of_z_and_start_at_the_mean_class() -> None:
    gan = make_source("shared", shared_dim=64, z_dim=64)
    u = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    z, embedding = mined([gan], miner_init="unit").miners[0](u)
    assert 0.8 < float(z.std()) < 1.2
    table = gan.generator.class_embedding()
    torch.testing.assert_close(embedding.mean(0), table.mean(0), atol=0.05, rtol=0)
    assert 0.7 < float((embedding - table.mean(0)).std() / table.std()) < 1.3
    small, _ = mined([gan], miner_init="torch").miners[0](u)
    assert float(small.std()) < 0.5


@torch.no_grad()
def test_mixtures_start_near_the_sources_own_classes() -> None:
    """One class leads, each as often as the others, with logits of the deviation that is asked for."""
    gan = make_source("tables", num_classes=16, z_dim=64)
    u = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    miner = mined([gan]).miners[0]
    logits = miner.label(u)
    assert float((logits - logits.mean(0)).std()) == pytest.approx(3, rel=0.05)
    assert float(logits.mean(0).abs().max()) < 0.3
    weights = miner(u)[1].weights
    assert float(weights.amax(1).mean()) > 0.5
    assert len(weights.argmax(1).unique()) == 16
    blended = mined([gan], class_spread=0.1).miners[0](u)[1]
    assert float(blended.weights.amax(1).max()) < 0.2


# ---- what moves when -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3])
def test_mining_moves_no_weight_and_no_buffer_of_the_generator(number: int, tmp_path: Path) -> None:
    sources = three()[:number] if number > 1 else [make_source("hierarchical")]
    data = make_data(tmp_path / "images", False)
    generator, plan, trainer = _training(sources, data, tmp_path, mining_nimg=8)
    start = snapshot(generator)
    for _ in range(2):
        trainer._iteration()
    changed = moved(start, generator)
    assert changed and not {k for k in changed if k.startswith("sources.")}
    assert {k.split(".")[0] for k in changed} == {"miners", "p"} - ({"p"} if number == 1 else set())
    critic = plan.extras["critic"]
    assert all(p.grad is None for p in generator.sources.parameters()) and critic.training
    trainer._iteration()  # released
    assert {k for k in moved(start, generator) if k.startswith("sources.") and k.endswith(".weight")}
    assert {k for k in moved(start, generator) if k.endswith(("u0", "stored_mean"))}


def test_fine_tuning_refuses_classes_of_adapters(tmp_path: Path) -> None:
    gan, data = make_source("tables"), make_data(tmp_path / "images")
    extended = gt.extend(gan, adapter_of(tmp_path, gan, data, data.classes[:2]))
    with pytest.raises(ModelError, match="2 classes from adapters, which fine-tuning would drop; add --no-finetune"):
        MineGAN().reshape([extended], TARGET)
    MineGAN(finetune=False).reshape([extended], TARGET)


def test_the_generator_can_be_updated_first(tmp_path: Path) -> None:
    generator, plan, trainer = _training(three(), make_data(tmp_path / "images", False), tmp_path,
                                         AdversarialLoss(order="generator"), mining_nimg=8, p_half_life_nimg=4)
    assert [(p.name, p.updates, p.start_nimg, p.stop_nimg) for p in plan.phases] == [
        ("G", ("M",), 0, 8), ("G", ("M", "G"), 8, None), ("D", ("D",), 0, None)]
    start = snapshot(generator)
    for _ in range(4):
        trainer._iteration()
    assert {k for k in moved(start, generator) if k.startswith("sources.") and k.endswith(".weight")}
    assert float(plan.extras["selector"].wins.sum()) == 4 * 4 and "p" in moved(start, generator)


def test_p_of_the_averaged_generator_is_the_last(tmp_path: Path) -> None:
    generator, _, trainer = _training(three(), make_data(tmp_path / "images", False), tmp_path, p_half_life_nimg=4)
    for _ in range(2):
        trainer._iteration()
    assert torch.equal(trainer.ema.module.p, generator.p) and not torch.equal(generator.p, torch.full((3,), 1 / 3))


def _training(
    sources: list[GAN], data: ImageData, folder: Path, loss: AdversarialLoss | None = None, **fields: Any
) -> Any:
    from tiny import schedule

    from gantransfer.trainer import Trainer

    method = MineGAN(**fields)
    generator = method.reshape(sources, TARGET)
    plan = method.plan(generator, sources, TARGET, loss or AdversarialLoss())
    return generator, plan, Trainer(generator, plan, data, schedule(), folder)


def test_official_buffers_move_while_mining(tmp_path: Path) -> None:
    generator, _, trainer = _training([make_source()], make_data(tmp_path / "images", False), tmp_path,
                                      buffers="official")
    start = snapshot(generator)
    trainer._iteration()
    changed = {k for k in moved(start, generator) if k.startswith("sources.")}
    assert changed and all(k.endswith(("u0", "sv0", "stored_mean", "stored_var")) for k in changed)


def test_without_labels_the_critic_has_no_projection() -> None:
    gan = make_source("hierarchical")
    method = MineGAN()
    plan = method.plan(method.reshape([gan], TARGET), [gan], TARGET, AdversarialLoss())
    critic = plan.extras["critic"]
    images = torch.randn(3, 1, 32, 32)
    assert critic.embed is None and torch.equal(critic(images, None), gan.discriminator(images, None))
    labelled = Target(10, ("a", "b"), 32, 1)
    method = MineGAN(per_class=True, finetune=False)
    plan = method.plan(method.reshape([gan], labelled), [gan], labelled, AdversarialLoss())
    assert plan.extras["critic"].embed.num_embeddings == 2 and "G" not in plan.groups


def test_stage_lengths_in_iterations(tmp_path: Path) -> None:
    data = make_data(tmp_path / "images", False)
    parts = assemble(tmp_path / "run", make_source(), data, "minegan", {"mining_steps": 3}, accumulate=2)
    assert parts.method.mining_nimg == 24 and parts.trainer.plan.fixed_until_nimg == 24
    assert parts.job.fields == {"mining_steps": 3}


# ---- several sources -------------------------------------------------------------------------------------


class Preferring(nn.Module):
    """A critic that scores image batch i of a supersample by `scores[i]`; differentiable in the images."""

    def __init__(self, scores: list[list[float]]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores).flatten()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        own = self.scores if len(images) == len(self.scores) else torch.zeros(len(images))
        return own + self.weight * images.mean((1, 2, 3)) * 1e-3


def supersample(scores: list[list[float]], update: str = "ema", half_life: int = 10) -> tuple[Mined, Supersample]:
    generator = mined(three())
    return generator, Supersample(generator, Preferring(scores), update, half_life)


SCORES = [[0.0, 5.0, 0.0, 1.0], [1.0, 0.0, 9.0, 0.0], [0.0, 1.0, 0.0, -1.0]]  # winners 1, 0, 1, 0; never 2


@pytest.mark.parametrize("training", [False, True])
def test_only_winners_receive_a_gradient(training: bool) -> None:
    generator, sample = supersample(SCORES)
    generator.sources.train(training)
    generator.requires_grad_(True)
    u = draws(generator, 4)
    fakes = sample(u)
    expected = [1, 0, 1, 0]
    if not training:
        for row, i in enumerate(expected):
            torch.testing.assert_close(fakes[row], generator.from_miner(i, u[row : row + 1])[0], atol=1e-5, rtol=0)
    sample.critic(fakes).sum().backward()
    for i in range(3):
        for part in (generator.miners[i], generator.sources[i]):
            given = [p.grad is not None for p in part.parameters()]
            assert any(given) if i < 2 else not any(given), (i, type(part))
    # Per sample: a miner's gradient is that of the rows that it won.
    if not training:
        before = generator.miners[0].latent[0].weight.grad.clone()
        generator.zero_grad()
        (generator.from_miner(0, u[[1, 3]]).mean((1, 2, 3)).sum() * 1e-3).backward()
        torch.testing.assert_close(before, generator.miners[0].latent[0].weight.grad, atol=1e-7, rtol=1e-4)


def test_the_selector_in_closed_form() -> None:
    generator, sample = supersample(SCORES, half_life=10)
    u = draws(generator, 4)
    share, p = torch.tensor([0.5, 0.5, 0.0]), torch.full((3,), 1 / 3)
    keep = 0.5 ** (4 / 10)
    for _ in range(3):
        with torch.no_grad():
            sample(u)
        p = keep * p + (1 - keep) * share
        torch.testing.assert_close(generator.p, p, atol=1e-6, rtol=0)
    sample(u)  # the miners' own update counts nothing
    torch.testing.assert_close(generator.p, p, atol=1e-6, rtol=0)
    generator, sample = supersample(SCORES, "mean")
    for _ in range(2):
        with torch.no_grad():
            sample(u)
    assert generator.p.tolist() == [0.5, 0.5, 0.0] and sample.wins.tolist() == [4.0, 4.0, 0.0]


def test_scoring_moves_nothing_of_the_critic() -> None:
    gans = three()
    generator, critic = mined(gans), copy.deepcopy(gans[0].discriminator).train()
    before = snapshot(critic)
    sample = Supersample(generator, critic, "ema", 10)
    sample.winners([generator.from_miner(i, draws(generator, 2)) for i in range(3)])
    assert not moved(before, critic) and critic.training


@torch.no_grad()
def test_samples_come_from_one_source_each_in_proportion() -> None:
    generator = mined(three()).eval()
    generator.p.copy_(torch.tensor([0.2, 0.0, 0.8]))
    u = draws(generator, 20_000)
    shares = torch.bincount(generator.pick(u), minlength=3) / len(u)
    torch.testing.assert_close(shares, generator.p, atol=0.01, rtol=0)
    few, picked = u[:12], generator.pick(u[:12])
    images = generator(few)
    for row, i in enumerate(picked.tolist()):
        torch.testing.assert_close(images[row], generator.from_miner(i, few[row : row + 1])[0], atol=1e-5, rtol=0)
    gan = GAN(generator, arch="mined")
    assert (gan.sample(6, seed=3) == gan.sample(6, seed=3)).all()
    assert (gan.sample(6, seed=3) != gan.sample(6, seed=4)).any()


def test_truncation_leaves_the_pick_alone() -> None:
    from gantransfer.sampling import draw_latents

    whole, cut = draw_latents(5000, 4, 0), draw_latents(5000, 4, 0, 0.5, free=1)
    assert torch.equal(whole[:, 3], cut[:, 3]) and float(cut[:, :3].abs().max()) <= 1
    assert torch.equal(draw_latents(50, 4, 0, 0.5)[:, 0], draw_latents(50, 4, 0, 0.5, free=0)[:, 0])


@pytest.mark.parametrize(("noise", "z_dim"), [("separate", 8 + 6 + 12 + 1), ("shared", 12 + 1)])
def test_noise_of_their_own_or_shared(noise: str, z_dim: int) -> None:
    generator = mined(three(), noise=noise)
    assert generator.z_dim == z_dim and generator.starts == ([0, 8, 14] if noise == "separate" else [0, 0, 0])
    u = draws(generator, 3)
    other = u.clone()
    other[:, 0] += 1  # the first source's, and with shared noise everyone's
    assert torch.equal(generator.from_miner(1, u), generator.from_miner(1, other)) == (noise == "separate")


def test_the_critic_is_drawn_by_seed_or_named() -> None:
    gans = three()
    drawn = {id(MineGAN(init_seed=seed).critic_source(gans)) for seed in range(20)}
    assert drawn == {id(gan) for gan in gans}
    assert MineGAN(init_seed=5).critic_source(gans) is MineGAN(init_seed=5).critic_source(gans)
    assert MineGAN(critic=2).critic_source(gans) is gans[1]
    gans[0].discriminator = gans[2].discriminator = None
    assert {id(MineGAN(init_seed=seed).critic_source(gans)) for seed in range(9)} == {id(gans[1])}
    with pytest.raises(UsageError, match="critic 4 names no source: choose 1 to 3"):
        MineGAN(critic=4).critic_source(gans)
    method = MineGAN(critic=1)
    with pytest.raises(ModelError, match="no discriminator"):
        method.plan(method.reshape(gans, TARGET), gans, TARGET, AdversarialLoss())


def test_p_is_logged_and_follows_wins(tmp_path: Path) -> None:
    _, _, trainer = _training(three(), make_data(tmp_path / "images", False), tmp_path, p_update="mean")
    logs, _ = trainer._iteration()
    wins = trainer.extras["selector"].wins
    assert [logs[f"D/p{i}"] for i in (1, 2, 3)] == pytest.approx((wins / wins.sum()).tolist())
    assert [logs[f"D/won{i}"] for i in (1, 2, 3)] == pytest.approx((wins / wins.sum()).tolist())
    assert torch.equal(trainer.generator.p, wins / wins.sum())
    assert torch.equal(trainer.ema.module.p, trainer.generator.p)


def test_p_is_the_mixture_that_has_the_images_features() -> None:
    """By default, whoever wins (here always the second source), through the phases of the plan."""
    gans = [make_source("unconditional", seed) for seed in range(2)]
    method = MineGAN(finetune=False, critic=1, p_half_life_nimg=10**6)
    generator = method.reshape(gans, TARGET)
    plan = method.plan(generator, gans, TARGET, AdversarialLoss())
    rng, phase = torch.Generator().manual_seed(0), next(p for p in plan.phases if p.name == "D")
    generator.eval()
    for _ in range(20):
        u, labels = torch.randn(32, generator.z_dim, generator=rng), torch.zeros(32, dtype=torch.int64)
        with torch.no_grad():
            images = generator.from_miner(0, torch.randn(32, generator.z_dim, generator=rng))
        phase.loss(Batch(images, labels, torch.arange(32), u, labels, rng))
    wins = plan.extras["selector"].wins
    assert float(generator.p[0]) > 0.9 and wins.tolist() == [0.0, 640.0]


def test_families_of_sources_may_differ(tmp_path: Path) -> None:
    gans = [make_source("tables"), make_source("gp_gan-unconditional"), make_source("wgan_gp")]
    images = make_data(tmp_path / "images", False)
    parts = assemble(tmp_path / "run", gans, images, "minegan", {"mining_nimg": 4}, steps=2)
    parts.trainer.run()
    generator = parts.trainer.generator
    assert {source.config.__class__.__name__ for source in generator.sources} == {
        "BigGANConfig", "GPGANConfig", "WGANGPConfig"}
    assert generator.eval()(draws(generator, 4)).shape == (4, 1, 32, 32)


def test_normed_miners_score_the_images_that_they_then_draw() -> None:
    """The pass that scores moves no power iteration, so that winners are computed from the same weights."""
    generator = mined(three(), variant="biggan").train()
    generator.sources.eval()
    seen = []

    class Watching(Preferring):
        def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
            seen.append(images.detach())
            return super().forward(images, y)

    sample = Supersample(generator, Watching(SCORES), "ema", 10)
    shown = sample(draws(generator, 4))
    scored = seen[0].view(3, 4, *seen[0].shape[1:])[torch.tensor([1, 0, 1, 0]), torch.arange(4)]
    torch.testing.assert_close(shown.detach(), scored, atol=1e-5, rtol=0)
    assert generator.miners.training


def test_normed_miners_start_after_their_power_iterations() -> None:
    miner = mined([make_source()], variant="biggan", miner_init="unit").miners[0]
    for layer in (m for m in miner.modules() if hasattr(m, "u0")):
        weight = layer.weight.detach().reshape(len(layer.weight), -1)
        sigma = torch.linalg.matrix_norm(weight, 2)
        torch.testing.assert_close(layer.unmodulated().detach() * sigma, layer.weight.detach(), atol=0, rtol=0.02)


def test_mining_may_be_none_and_is_said_once(tmp_path: Path) -> None:
    gan = make_source()
    assert MineGAN(mining_steps=3).in_images(32).mining_nimg == 96
    method = MineGAN(mining_steps=0).in_images(32)
    plan = method.plan(method.reshape([gan], TARGET), [gan], TARGET, AdversarialLoss())
    assert plan.fixed_until_nimg == 0 and "fixed for 0 images" in plan.notes[-1]
    with pytest.raises(UsageError, match="mining_nimg 100 and mining_steps 5 both say how long to mine"):
        MineGAN(mining_nimg=100, mining_steps=5)


def test_a_source_that_cannot_be_mined_is_named() -> None:
    gans = [make_source("shared"), make_source("tables")]
    with pytest.raises(UsageError, match="source 2 has one table per layer"):
        MineGAN(label_miner="embedding").reshape(gans, TARGET)
    with pytest.raises(UsageError, match="mines a class and source 2 has none"):
        MineGAN(label_miner="mixture").reshape([gans[0], make_source("unconditional")], TARGET)
    few = {"iterations": 1, "classifier_width": 4}
    steered = make_method("dgn-am", few).reshape([gans[1]], Target(4, ("a", "b"), 32, 1))
    with pytest.raises(ModelError, match="samples iteratively is no source"):
        MineGAN(finetune=False).reshape([gans[1], GAN(steered, arch="steered")], TARGET)


def test_losses_are_the_papers(tmp_path: Path) -> None:
    """Eqs. 2 and 3 with the penalty of eq. 1, on a batch."""
    gan = make_source("unconditional")
    method = MineGAN(finetune=False)
    generator = method.reshape([gan], TARGET)
    plan = method.plan(generator, [gan], TARGET, AdversarialLoss("wgan-gp"))
    critic = plan.extras["critic"].eval()
    generator.eval()
    images, rng = torch.rand(3, 1, 32, 32) * 2 - 1, torch.Generator().manual_seed(0)
    batch = Batch(images, torch.zeros(3, dtype=torch.int64), torch.arange(3), draws(generator, 3),
                  torch.zeros(3, dtype=torch.int64), rng)
    score, state = critic(generator(batch.z)), rng.get_state()
    d = plan.phases[0].loss(batch).terms
    torch.testing.assert_close(d["fake"] + d["real"], score.mean() - critic(images).mean(), atol=1e-5, rtol=1e-5)
    again = torch.Generator().set_state(state)
    wanted = gradient_penalty(critic, images, generator(batch.z).detach(), None, again)
    torch.testing.assert_close(d["gradient_penalty"], 10 * wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plan.phases[1].loss(batch).terms["adversarial"], -score.mean(), atol=1e-5, rtol=1e-5)


# ---- loss of the source ----------------------------------------------------------------------------------


def test_the_default_loss_is_what_the_critic_was_trained_with() -> None:
    from gantransfer.defaults import Training

    gans = [make_source(), make_source(seed=1)]
    gans[1].card |= {"loss": "non-saturating", "r1_gamma": 10.0}

    def loss(training: Training, method: str = "minegan", **fields: Any) -> tuple[Any, Any]:
        found = api.as_source_was_trained(training, gans, method, fields)
        return found.loss, found.r1_gamma

    assert loss(Training(), critic=1) == ("hinge", None) and loss(Training(), critic=2) == ("non-saturating", 10.0)
    assert loss(Training(loss="wgan-gp"), critic=2) == ("wgan-gp", None)
    assert loss(Training(r1_gamma=1.0), critic=2) == ("non-saturating", 1.0)
    assert loss(Training(), "bsa") == (None, None)


# ---- wrong inputs ----------------------------------------------------------------------------------------

WRONG: dict[str, tuple[list[dict[str, Any]], dict[str, Any], type[GanTransferError], str]] = {
    "no source": ([], {}, UsageError, "no source was given; name at least one with --source"),
    "no critic": ([{"critic": False}], {}, ModelError, "no discriminator"),
    "other channels": ([{}, {"channels": 3}], {}, ModelError,
                       r"source 2 makes images of 32 px with 3 channel\(s\) and source 1 of 32 px with 1"),
    "other size": ([{}, {"resolution": 64, "g_widths": (8,) * 5, "d_widths": (8,) * 5}], {}, ModelError,
                   "source 2 makes images of 64 px"),
    "label miner": ([{"network": "unconditional"}], {"label_miner": "mixture"}, UsageError,
                    "label_miner 'mixture' mines a class and this source has none"),
    "no embedding": ([{}], {"label_miner": "embedding"}, UsageError, "needs a shared class embedding"),
    "per class and fine-tuning": ([{}], {"per_class": True}, UsageError, "add --no-finetune"),
    "per class, two sources": ([{}, {}], {"per_class": True, "finetune": False}, UsageError, "mines one source, not 2"),
    "depth": ([{}], {"depth": 0}, UsageError, "depth 0 is not possible; give 1 or more"),
    "variant": ([{}], {"variant": "biggun"}, UsageError, "did you mean 'biggan'"),
    "p update": ([{}], {"p_update": "median"}, UsageError, "p_update 'median' does not exist"),
    "rate": ([{}], {"lr": -1.0}, UsageError, "lr -1.0 is not possible"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_wrong_inputs_are_one_sentence_before_training(case: str) -> None:
    kinds, fields, error, match = WRONG[case]
    sources = [make_source(**{"seed": i, **kind}) for i, kind in enumerate(kinds)]
    with pytest.raises(error, match=match) as caught:
        if not sources:
            api.as_gans([])
        api.check_fit(sources, "minegan", fields)
    assert type(caught.value) is error and "\n" not in str(caught.value)


def test_per_class_needs_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass --class-name NAME"):
        assemble(tmp_path, make_source(), make_data(tmp_path / "images", False), "minegan",
                 {"per_class": True, "finetune": False})


def test_a_mined_model_is_no_source(tmp_path: Path) -> None:
    gan = GAN(mined([make_source()]), make_source().discriminator, arch="mined")
    for method in ("minegan", "transfergan", "bsa"):
        with pytest.raises(ModelError, match="mined|class-conditional"):
            api.check_fit(gan, method, {})


def test_a_target_smaller_than_a_batch_is_shown_more_than_once(tmp_path: Path) -> None:
    data = ImageData(write_images(tmp_path / "few", {"": 3}), size=32, channels=1)
    parts = assemble(tmp_path / "run", make_source(), data, "minegan", steps=1, batch_size=8)
    parts.trainer.run()
    assert parts.trainer.progress.nimg == 8


def test_a_flat_folder_needs_no_class_name(tmp_path: Path) -> None:
    gan, folder = make_source(), write_images(tmp_path / "flat", {"": 5})
    images = api.target_images(folder, None, gan, make_method("minegan", {}))
    assert not images.labelled
    for method, fields in (("bsa", {}), ("minegan", {"per_class": True, "finetune": False})):
        with pytest.raises(DataError, match="--class-name"):
            api.target_images(folder, None, gan, make_method(method, fields))


def test_several_classes_are_mined_as_one(tmp_path: Path) -> None:
    data = make_data(tmp_path / "images")
    parts = assemble(tmp_path / "run", make_source(), data, "minegan", steps=1)
    assert parts.data.classes == ["all"] and parts.target.classes == () and parts.data.settings == data.settings
    assert len(parts.data) == len(data) and not parts.data.labels.any()
    one = assemble(tmp_path / "one", make_source(), data.class_subset("b"), "minegan", steps=1)
    assert one.data.classes == ["b"] and one.trainer.generator.num_classes == 1
