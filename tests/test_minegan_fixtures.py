"""MineGAN's BigGAN variant against golden tensors of the official code (``../shared/fixtures``)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_biggan_fixtures import Case, check_gradients, close
from test_biggan_steps import recorded_trainer, zero_gradient

import gantransfer as gt
from gantransfer import errors
from gantransfer.losses import AdversarialLoss
from gantransfer.methods.minegan import MineGAN
from gantransfer.plan import Batch, Losses, Phase, Target
from gantransfer.sources import GAN


class MinedCase(Case):
    """The converted miner with the networks that it was trained on."""

    def __init__(self, root: Path, name: str = "minegan_hier64") -> None:
        self.root = root / "fixtures" / "biggan" / name
        self.config = self.json("config")
        plain = self.root.parent / self.config["pretrained"]
        self.source = Case(root, self.config["pretrained"])
        self.gan = gt.convert("minegan", plain / "G.safetensors", plain / "D.safetensors", self.root / "config.json",
                              miner=self.root / "M.safetensors")
        self.g, self.d = self.gan.generator, self.gan.discriminator
        self.io = self.tensors("io")


def official(key: str) -> str:
    """Our name of a miner's tensor -> the official one."""
    _, _, stack, place, what = key.split(".")
    number = int(place) + (5 if stack == "label" else 1)
    return f"linear{number if number > 1 else ''}.{what}"


def miner_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {official(k): v for k, v in tensors.items() if k.startswith("miners.")}


def test_eval_mode(shared: Path) -> None:
    c = MinedCase(shared)
    with torch.no_grad():
        z, embedding = c.g.miners[0](c.io["u"])
        close(z, c.io["eval_z"])
        close(embedding, c.io["eval_y"])
        images = c.g(c.io["u"])
        close(images, c.io["eval_images"])
        close(c.d(images, None), c.io["eval_logits_fake"], 1e-3)
        close(c.d(c.io["x_real"], None), c.io["eval_logits_real"], 1e-3)
    assert c.gan.classes == ["0"] and "80 entries" in c.gan.notes[0]


def test_train_mode_and_gradients(shared: Path) -> None:
    c = MinedCase(shared)
    for name, value in (("softplus", lambda d: F.softplus(-d)), ("hinge", lambda d: -d)):
        c = MinedCase(shared)
        c.g.train()
        c.d.train()
        logits = c.d(c.g(c.io["u"]), None)
        close(logits, c.io["train_logits_fake"], 1e-3)
        c.g.zero_grad()
        value(logits).mean().backward()
        ours = {official(k): p.grad for k, p in c.g.named_parameters() if k.startswith("miners.")}
        check_gradients(ours, c.tensors(f"M_grads_{name}"), [])
    buffers = miner_state(dict(c.g.named_buffers()))
    for key, expected in c.tensors("M_buffers_after_train_forward").items():
        close(buffers[key], expected, 1e-5)


def test_saved_loaded_and_sampled_as_it_is(shared: Path, tmp_path: Path) -> None:
    c = MinedCase(shared)
    again = GAN.from_pretrained(c.gan.save_pretrained(tmp_path))
    assert again.sha256 == c.gan.sha256 and (again.sample(4, seed=1) == c.gan.sample(4, seed=1)).all()


@pytest.mark.parametrize("stage", [1, 2])
def test_two_official_iterations(shared: Path, tmp_path: Path, stage: int) -> None:
    """In float64, see `test_biggan_steps`; the official code keeps the fixed generator in training mode."""
    c = MinedCase(shared)
    info: dict[str, Any] = c.json(f"steps_stage{stage}")
    method = MineGAN("biggan", buffers="official", lr=info["M_lr"], lr_g=info["G_lr"], lr_d=info["D_lr"],
                     mining_nimg=10**6 if stage == 1 else 0)
    target = Target(12, (), 64, 3)
    generator = method.reshape([c.source.gan], target)
    plan = method.plan(generator, [c.source.gan], target, AdversarialLoss("non-saturating"))
    generator.load_state_dict(c.g.state_dict())
    plan = replace(plan, groups={k: replace(g, eps=info["adam_eps"]) for k, g in plan.groups.items()})
    read = c.tensors

    def tensors(name: str) -> dict[str, torch.Tensor]:
        found = read(name)
        if name.endswith("_inputs"):
            found |= {"z": found["u"], "y": torch.zeros(len(found["u"]), dtype=torch.int64),
                      "x_labels": torch.zeros(found["x"].shape[:2], dtype=torch.int64)}
        return found

    c.tensors = tensors
    seen: list[tuple[str, dict[str, float]]] = []

    def watched(phase: Phase) -> Phase:
        def loss(batch: Batch) -> Losses:
            found = phase.loss(batch)
            seen.append((phase.name, {k: float(v.detach()) for k, v in found.terms.items()}))
            return found

        return replace(phase, loss=loss)

    plan = replace(plan, phases=[watched(phase) for phase in plan.phases])
    trainer = recorded_trainer(c, f"_stage{stage}", plan, generator, [2, 2, 2], torch.float64, tmp_path)
    start = {k: v.clone() for k, v in generator.state_dict().items()}
    critic = {k: v.clone() for k, v in plan.extras["critic"].state_dict().items()}
    for metrics in info["metrics"]:
        assert trainer._iteration()[1]
        # The official log has the last of the accumulated chunks: of D undivided, of G divided by their number.
        last = {phase: terms for phase, terms in seen}
        assert last["D"]["fake"] == pytest.approx(metrics["D_loss_fake"], rel=1e-5)
        assert last["G"]["adversarial"] / 2 == pytest.approx(metrics["G_loss"], rel=1e-5)
    assert not trainer.draws
    after = generator.state_dict()
    theirs = {k: v for k, v in c.tensors(f"steps_stage{stage}_M_after").items() if k != "shared.weight"}
    # Stage 1's recorded float32 gradients are less exact (the losses above agree alike): a tenth of a rate there.
    errors = torch.cat([(miner_state(after)[k].reshape(v.shape) - v).abs().flatten() for k, v in theirs.items()])
    assert (errors <= (1e-6 if stage == 2 else 1e-5)).double().mean() >= 0.99 and errors.max() <= 2 * info["M_lr"]
    for name, before, now, norms in (("G", start, after, info["G_param_delta_norms"]),
                                     ("D", critic, plan.extras["critic"].state_dict(), info["D_param_delta_norms"])):
        prefix = "sources.0." if name == "G" else ""
        for key, norm in norms.items():
            if key == "embed.weight" or key in zero_gradient(c.source):
                continue  # the class projection is gone here and unused there
            moved = float((now[prefix + key] - before[prefix + key]).norm())
            assert moved == pytest.approx(norm, rel=2e-2, abs=1e-9), key


def test_the_miner_files_are_checked(shared: Path, tmp_path: Path) -> None:
    root = shared / "fixtures" / "biggan"
    g, m = root / "hier64" / "G.safetensors", root / "minegan_hier64" / "M.safetensors"
    with pytest.raises(errors.UsageError, match="takes a miner's file"):
        gt.convert("minegan", g)
    with pytest.raises(errors.UsageError, match="takes no miner's file"):
        gt.convert("biggan-pytorch", g, miner=m)
    with pytest.raises(errors.ModelError, match="no shared|shared class embedding"):
        gt.convert("minegan", root / "cifar32" / "G.safetensors", miner=m)
    with pytest.raises(errors.ModelError, match="which no MineGAN miner has"):
        gt.convert("minegan", g, miner=root / "hier64" / "D.safetensors")
    assert json.loads((root / "minegan_hier64" / "config.json").read_text())["dim_z"] == 83 and load_file(m)
