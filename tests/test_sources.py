"""A GAN as an object: round trips, identity, damage, standing statistics, reproducible samples."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_gans import KINDS, disturb, latents, small_gan
from torch import Tensor, nn

from gantransfer.errors import ModelError, OutputError, UsageError
from gantransfer.norm import StandingStatistics
from gantransfer.sources import GAN


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


# ---- saving and loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_round_trip_is_bit_identical(kind: str, tmp_path: Path) -> None:
    gan = small_gan(kind, g_attention=(8,), d_attention=(16,), channels=3, bn_eps=1e-4, init="N02", d_wide=False)
    gan = GAN(gan.generator, gan.discriminator, classes=["a", "Ж", "c", "d"], card={"name": "x", "license": "CC0"})
    saved = gan.save_pretrained(tmp_path / "model")
    again = GAN.from_pretrained(saved)
    assert again.config == gan.config and again.classes == gan.classes and again.sha256 == gan.sha256
    assert again.base_sha256 == gan.sha256 and again.raw_generator is None and again.card == gan.card
    assert equal_states(again.generator, gan.generator) and equal_states(again.discriminator, gan.discriminator)
    assert not again.generator.training and not again.discriminator.training
    assert np.array_equal(again.sample(6, seed=3), gan.sample(6, seed=3))
    names = sorted(p.name for p in saved.iterdir())
    assert names == ["README.md", "config.json", "discriminator.safetensors", "generator.safetensors"]
    assert "CC0" in (saved / "README.md").read_text(encoding="utf-8")
    second = again.save_pretrained(tmp_path / "second")
    for name in names:
        assert (saved / name).read_bytes() == (second / name).read_bytes(), name


def test_the_ema_generator_is_the_model_and_the_raw_one_is_kept(tmp_path: Path) -> None:
    gan = small_gan()
    raw = copy.deepcopy(gan.generator)
    disturb(raw, 9)
    both = GAN(gan.generator, None, raw_generator=raw)
    again = GAN.from_pretrained(both.save_pretrained(tmp_path))
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "generator.safetensors", "generator_ema.safetensors"]
    assert equal_states(again.generator, gan.generator) and equal_states(again.raw_generator, raw)
    assert again.discriminator is None and again.sha256 == gan.sha256
    (tmp_path / "generator.safetensors").unlink()
    assert equal_states(GAN.from_pretrained(tmp_path).generator, gan.generator)


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_extended_model_round_trips(kind: str, tmp_path: Path) -> None:
    gan = small_gan(kind)
    norms = gan.generator.adapter_norms(2)
    for i, norm in enumerate(norms.values()):
        disturb(norm, 50 + i)
    extended = GAN(gan.generator.extended(norms, 2), gan.discriminator, classes="abcdef", lineage=[gan.sha256])
    again = GAN.from_pretrained(extended.save_pretrained(tmp_path))
    assert equal_states(again.generator, extended.generator)
    assert again.base_sha256 == gan.sha256 != again.sha256
    z, y = latents(gan, 6), torch.arange(6)
    with torch.no_grad():
        assert torch.equal(again.generator(z, y), extended.generator(z, y))


def flip(path: Path, position: int = -3) -> None:
    blob = bytearray(path.read_bytes())
    blob[position] ^= 1
    path.write_bytes(bytes(blob))


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    gan = small_gan()

    def fresh(name: str) -> Path:
        return gan.save_pretrained(tmp_path / name)

    folder = fresh("bit")
    flip(folder / "generator.safetensors")
    with pytest.raises(ModelError, match="not those its config.json names"):
        GAN.from_pretrained(folder)
    folder = fresh("cut")
    (folder / "discriminator.safetensors").write_bytes((folder / "discriminator.safetensors").read_bytes()[:-9])
    with pytest.raises(ModelError, match="neither a whole safetensors file"):
        GAN.from_pretrained(folder)
    folder = fresh("lost tensor")
    state = load_file(folder / "generator.safetensors")
    del state["linear.bias"]
    save_file(state, folder / "generator.safetensors")
    with pytest.raises(ModelError, match="1 missing .*linear.bias"):
        GAN.from_pretrained(folder)
    folder = fresh("nan")
    state = load_file(folder / "generator.safetensors")
    state["linear.bias"][0] = float("nan")
    save_file(state, folder / "generator.safetensors")
    with pytest.raises(ModelError, match="non-finite"):
        GAN.from_pretrained(folder)
    folder = fresh("no generator")
    (folder / "generator.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no generator.safetensors"):
        GAN.from_pretrained(folder)


@pytest.mark.parametrize(("change", "message"), [
    ({"format_version": 99}, "format_version 99"),
    ({"network": {"resolution": 48}}, "48"),
    ({"network": {"no_such_field": 1}}, "no_such_field"),
    ({"network": None}, "describes no"),
    ({"classes": ["a"]}, "1 distinct class names for 4 classes"),
    ({"classes": ["a", "a", "b", "c"]}, "3 distinct class names for 4"),
    ({"arch": "bigan"}, "did you mean 'biggan'"),
])
def test_damaged_configs_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    folder = small_gan().save_pretrained(tmp_path / "m")
    meta = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = {**meta["network"], **(change.get("network") or {})} if "network" in change else meta["network"]
    meta |= {**change, "network": None if change.get("network", 0) is None else network}
    (folder / "config.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises((ModelError, UsageError), match=message):
        GAN.from_pretrained(folder)


def test_unknown_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no_such.* is no shipped model, directory or hub id"):
        GAN.from_pretrained("no_such")
    with pytest.raises(ModelError, match="has no config.json"):
        GAN.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create"):
        small_gan().save_pretrained(tmp_path / "file" / "m")


# ---- sampling --------------------------------------------------------------------------------------------


def test_samples_are_reproducible_and_do_not_depend_on_the_batch() -> None:
    gan = small_gan("hierarchical", channels=3)
    images = gan.sample(7, seed=5)
    assert images.shape == (7, 32, 32, 3) and images.dtype == np.uint8
    state = torch.random.get_rng_state()
    assert np.array_equal(images, gan.sample(7, seed=5)) and torch.equal(state, torch.random.get_rng_state())
    assert not np.array_equal(images, gan.sample(7, seed=6))
    small = gan.sample(7, seed=5, batch_size=3).astype(int)
    assert np.abs(small - images).max() <= 1  # rounding of the last bit, at most
    assert np.array_equal(gan.sample(4, classes="1", seed=2), gan.sample(4, classes=["1"], seed=2))
    mixed = gan.sample(4, classes=["2", "0"], seed=2)
    assert np.abs(mixed[::2].astype(int) - gan.sample(4, classes="2", seed=2)[::2]).max() <= 1
    with pytest.raises(UsageError, match="'5'"):
        gan.sample(1, classes="5")


# ---- standing statistics ---------------------------------------------------------------------------------


class NaiveBN(nn.Module):
    """BigGAN's own batch norm told from the fact sheet (1.3), in numpy-like steps and float64."""

    def __init__(self, old: StandingStatistics) -> None:
        super().__init__()
        self.mean, self.var, self.eps = old.stored_mean.double(), old.stored_var.double(), old.eps
        self.count, self.accumulating, self.divide = 0, False, False

    def forward(self, x: Tensor) -> Tensor:
        x = x.double()
        mean, var = self.mean, self.var
        if self.training:
            values = x.transpose(0, 1).flatten(1)
            mean = values.sum(1) / values.shape[1]
            var = values.pow(2).sum(1) / values.shape[1] - mean.pow(2)
            if self.accumulating:
                self.mean, self.var, self.count = self.mean + mean, self.var + var, self.count + 1
            else:
                self.mean, self.var = 0.9 * self.mean + 0.1 * mean, 0.9 * self.var + 0.1 * var
        elif self.divide:
            mean, var = mean / self.count, var / self.count
        return ((x - mean[None, :, None, None]) / (var[None, :, None, None] + self.eps).sqrt()).float()


def with_naive_norms(generator: nn.Module) -> tuple[nn.Module, list[NaiveBN]]:
    twin = copy.deepcopy(generator)
    for _, norm in twin.norms():
        norm.bn = NaiveBN(norm.bn)
    return twin, [norm.bn for _, norm in twin.norms()]


@pytest.mark.parametrize("kind", list(KINDS))
def test_standing_statistics_against_a_naive_generator(kind: str, tmp_path: Path) -> None:
    gan = small_gan(kind, standing_statistics=True)
    twin, norms = with_naive_norms(gan.generator)
    zs, ys = [latents(gan, n, seed=n) for n in (4, 6, 5)], [torch.randint(4, (n,)) for n in (4, 6, 5)]
    z, y = latents(gan, 4, seed=8), torch.arange(4)
    with torch.no_grad():  # before: ordinary running averages
        running = gan.generator(z, y)
        torch.testing.assert_close(running, twin.eval()(z, y), atol=2e-5, rtol=0)
        identity = gan.sha256
        gan.accumulate_standing_statistics(zs, ys)
        for norm in norms:
            norm.mean, norm.var, norm.accumulating = norm.mean * 0, norm.var * 0, True
        twin.train()
        for a, b in zip(zs, ys, strict=True):
            twin(a, b)
        twin.eval()
        for norm in norms:
            norm.accumulating, norm.divide = False, True
        images = gan.generator(z, y)
        torch.testing.assert_close(images, twin(z, y), atol=2e-5, rtol=0)
    assert (images - running).abs().max() > 1e-3 and gan.sha256 != identity and not gan.generator.training
    for (_, ours), naive in zip(gan.generator.norms(), norms, strict=True):
        assert float(ours.bn.accumulation_counter) == 3
        torch.testing.assert_close(ours.bn.stored_mean, naive.mean.float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.bn.stored_var, naive.var.float(), atol=1e-4, rtol=1e-4)
    for key, tensor in gan.generator.state_dict().items():  # power iterations move as in any training forward
        if key.endswith("u0"):
            torch.testing.assert_close(tensor, twin.state_dict()[key], atol=1e-5, rtol=0)
    # Accumulating again starts anew, and saved statistics stay switched on.
    gan.accumulate_standing_statistics(zs, ys)
    assert all(float(norm.bn.accumulation_counter) == 3 for _, norm in gan.generator.norms())
    again = GAN.from_pretrained(gan.save_pretrained(tmp_path))
    with torch.no_grad():
        assert torch.equal(again.generator(z, y), gan.generator(z, y))


@pytest.mark.parametrize("kind", list(KINDS))
def test_standing_statistics_of_an_extended_model_leave_the_base_alone(kind: str) -> None:
    gan = small_gan(kind, standing_statistics=True)
    gan.accumulate_standing_statistics([latents(gan, 6)], [torch.arange(6) % 4])
    norms = gan.generator.adapter_norms(2)
    for i, norm in enumerate(norms.values()):
        disturb(norm, i)
    both = GAN(gan.generator.extended(norms, 2), lineage=[gan.sha256])
    z, old, new = latents(gan, 6, seed=1), torch.arange(6) % 4, torch.tensor([4, 5, 4, 5, 4, 5])
    with torch.no_grad():
        images = both.generator(z, old), both.generator(z, new)
        both.accumulate_standing_statistics([latents(gan, 8, seed=s) for s in (2, 3)], [torch.arange(8) % 6] * 2)
        assert torch.equal(both.generator(z, old), images[0]) and torch.equal(gan.generator(z, old), images[0])
        assert not torch.equal(both.generator(z, new), images[1])
    assert GAN(both.generator.base()).sha256 == both.base_sha256
    for _, norm in both.generator.norms():
        assert [float(part.bn.accumulation_counter) for part in (norm.source, *norm.adapters)] == [1, 2]
    once = both.generator(z, new)
    both.accumulate_standing_statistics([z], [old])  # no new class in it
    assert torch.equal(both.generator(z, new), once)


def test_an_error_while_accumulating_restores_everything() -> None:
    gan = small_gan(standing_statistics=True)
    z, y = latents(gan, 4), torch.arange(4)
    with torch.no_grad():
        before = gan.generator(z, y)
    statistics = {k: v.clone() for k, v in gan.generator.state_dict().items() if ".bn." in k}
    with pytest.raises(IndexError):
        gan.accumulate_standing_statistics([z, z], [y, y + 1])
    assert not gan.generator.training and not any(n.accumulating or n.standing for n in gan.generator.standing_norms())
    assert all(torch.equal(gan.generator.state_dict()[k], v) for k, v in statistics.items())
    with torch.no_grad():  # the finished passes moved power iterations, as any training pass does
        torch.testing.assert_close(gan.generator(z, y), before, atol=0.5, rtol=0)


def test_standing_statistics_need_the_right_norm() -> None:
    gan = small_gan()
    with pytest.raises(ModelError, match="no standing statistics"):
        gan.accumulate_standing_statistics([latents(gan, 2)], [torch.tensor([0, 1])])


def test_training_a_standing_generator_moves_running_averages() -> None:
    gan = small_gan(standing_statistics=True)
    twin, norms = with_naive_norms(gan.generator)
    z, y = latents(gan, 4), torch.arange(4)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(gan.generator.train()(z, y), twin.train()(z, y), atol=2e-5, rtol=0)
    for (_, ours), naive in zip(gan.generator.norms(), norms, strict=True):
        assert float(ours.bn.accumulation_counter) == 0
        torch.testing.assert_close(ours.bn.stored_var, naive.var.float(), atol=1e-4, rtol=1e-4)


def test_networks_of_different_classes_make_no_gan() -> None:
    """They could be saved, and not loaded again."""
    gan, other = small_gan("table"), small_gan("table", num_classes=3)
    with pytest.raises(ModelError, match="the generator has 4 classes and the discriminator 3; give networks of"):
        GAN(gan.generator, other.discriminator)
