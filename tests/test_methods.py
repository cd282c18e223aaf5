"""The seven contracts of every method on every kind of network (STYLE.md 3.5), over the registry.

What is tested stands in `method_pairs`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from method_pairs import PAIRS, Pair
from tiny import (
    NETWORKS,
    UNLABELLED,
    Crash,
    assemble,
    assert_same_runs,
    break_at,
    identity_of,
    make_data,
    make_source,
    moved,
    same,
    snapshot,
)
from torch import Tensor, nn

from gantransfer import api
from gantransfer.adapter import save_adapter
from gantransfer.data import ImageData
from gantransfer.errors import Interrupted, ModelError
from gantransfer.layers import SpectralNorm
from gantransfer.modulation import fold, is_plain
from gantransfer.norm import ClassMixture
from gantransfer.plan import Plan
from gantransfer.runs import Parts
from gantransfer.sources import GAN


@dataclass
class Trained:
    """A finished run and what things were like before it."""

    pair: Pair
    gan: GAN
    data: ImageData
    parts: Parts
    source: dict[str, Any]
    generator: dict[str, Tensor]
    extras: dict[str, Tensor]
    start: dict[str, Tensor]
    adapter: Path

    @property
    def out(self) -> Path:
        return self.parts.trainer.out

    @property
    def plan(self) -> Plan:
        return self.parts.trainer.plan

    @property
    def best(self) -> nn.Module:
        return self.parts.trainer.ema.module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def images(folder: Path) -> dict[bool, ImageData]:
    return {labelled: make_data(folder / f"data-{labelled}", labelled) for labelled in (True, False)}


@pytest.fixture(scope="module", params=PAIRS, ids=str)
def trained(request: pytest.FixtureRequest, folder: Path, images: dict[bool, ImageData]) -> Iterator[Trained]:
    """A pair's uninterrupted run of four iterations."""
    pair: Pair = request.param
    gan = make_source(pair.network)
    data = images[pair.labelled]
    source = identity_of(gan)
    parts = assemble(folder / str(pair), gan, data, pair.method, pair.fields)
    trainer = parts.trainer
    result = Trained(pair, gan, data, parts, source, snapshot(trainer.generator), snapshot(trainer.extras),
                     snapshot(trainer.ema.module), folder / f"{pair}-adapter")
    trainer.run()
    yield result


def images_of(generator: nn.Module, classes: int, n: int = 6) -> Tensor:
    """Images in eval mode for fixed latents, all classes in turn."""
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return generator.eval()(z, torch.arange(n) % classes if classes else None)


# ---- 1 -------------------------------------------------------------------------------------------------


def test_the_source_is_untouched(trained: Trained) -> None:
    assert same(identity_of(trained.gan), trained.source)


# ---- 2 -------------------------------------------------------------------------------------------------


def _mean_class(gan: GAN, z: Tensor, classes: int) -> Tensor:
    n, old = len(z), gan.generator.num_classes
    return gan.generator(z, ClassMixture(torch.full((n, old), 1 / old)))


def _drawn_classes(gan: GAN, z: Tensor, classes: int) -> Tensor:
    picks = torch.randint(gan.generator.num_classes, (classes,), generator=torch.Generator().manual_seed(0))
    return gan.generator(z, picks[torch.arange(len(z)) % classes])


def _the_source(gan: GAN, z: Tensor, classes: int) -> Tensor:
    return gan.generator(z, None)


def _every_class_the_source(gan: GAN, z: Tensor, classes: int) -> Tensor:
    return gan.generator(z)


# Claims of a start: what the adapted generator's images equal before the first update.
STARTS = {
    **{Pair("cgantransfer", n, v): _mean_class for n in NETWORKS
       for v in ("", "linear", "softmax", "shared-scores", "fixed-prior", "no-residuals", "fine-tuning")},
    **{Pair("bsa", n, "mean"): _mean_class for n in NETWORKS},
    **{Pair("bsa", n, "random-source"): _drawn_classes for n in NETWORKS},
    **{Pair(m, n): _mean_class for n in NETWORKS for m in ("transfergan", "freezed")},
    **{Pair("transfergan", n, "random-source"): _drawn_classes for n in NETWORKS},
    **{Pair(m, n): _the_source for m in ("transfergan", "freezed") for n in UNLABELLED},
    **{Pair("transfergan", n, v): _mean_class for n, v in (
        ("hierarchical", "no-classes"), ("wgan_gp", "no-classes"), ("wgan_gp-concat", "no-classes-concat"))},
    Pair("transfergan", "wgan_gp-unconditional", "cond-bnorm"): _every_class_the_source,
    **{Pair("adafm", n, v): _mean_class for n, v in (("gp_gan", "source-head"), ("hierarchical", "biggan"),
                                                     ("hierarchical", "biggan-all"))},
}


def test_it_starts_where_it_claims(trained: Trained) -> None:
    claim = STARTS.get(trained.pair)
    if claim is None:
        return
    trained_ema, generator = trained.best.state_dict(), copy.deepcopy(trained.best)
    generator.load_state_dict(trained.start)
    z = torch.randn(6, generator.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = claim(trained.gan, z, max(generator.num_classes, 1))
    actual = images_of(generator, generator.num_classes)
    if claim is _the_source:
        assert torch.equal(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert same(trained_ema, trained.best.state_dict())


# ---- 3 and 4 -------------------------------------------------------------------------------------------


def _named_parameters(trained: Trained) -> dict[str, nn.Parameter]:
    trainer = trained.parts.trainer
    found = {f"generator.{k}": p for k, p in trainer.generator.named_parameters(remove_duplicate=False)}
    return found | {f"extras.{k}": p for k, p in trainer.extras.named_parameters(remove_duplicate=False)}


def _moved(trained: Trained) -> set[str]:
    trainer = trained.parts.trainer
    return ({f"generator.{k}" for k in moved(trained.generator, trainer.generator)}
            | {f"extras.{k}" for k in moved(trained.extras, trainer.extras)})


def test_only_declared_groups_moved(trained: Trained) -> None:
    params, changed = _named_parameters(trained), _moved(trained)
    declared = {id(p): name for name, group in trained.plan.groups.items() for p in group.params}
    undeclared = {k for k in changed if k in params and id(params[k]) not in declared}
    assert not undeclared
    shown = trained.parts.trainer.progress.nimg
    begun = {name for phase in trained.plan.phases if phase.start_nimg < shown for name in phase.updates}
    for name, group in trained.plan.groups.items():
        if name not in begun:
            continue
        ids = {id(p) for p in group.params}
        mine = {k for k, p in params.items() if id(p) in ids}
        assert mine & changed, f"no parameter of group '{name}' moved"
        if still := mine - changed:  # a hinge bias can have exactly zero gradient
            warnings.warn(f"{trained.pair}: declared but still: {sorted(still)}", stacklevel=1)


def test_fixed_modules_kept_parameters_and_buffers(trained: Trained) -> None:
    if trained.plan.fixed_until_nimg is not None:
        return  # released during the run; the next test looks before that
    trainer, changed = trained.parts.trainer, _moved(trained)
    ids = {id(m) for m in trained.plan.fixed}
    declared = {id(p) for group in trained.plan.groups.values() for p in group.params}
    params = _named_parameters(trained)
    for part, root in (("generator", trainer.generator), ("extras", trainer.extras)):
        for name, module in root.named_modules():
            if id(module) in ids:
                inside = {k for k in changed if k.startswith(f"{part}.{name}.")}
                assert not {k for k in inside if k not in params or id(params[k]) not in declared}, name


def test_fine_tuning_releases_frozen_layers_on_time(images: dict[bool, ImageData], tmp_path: Path) -> None:
    fields = {"match_steps": 0, "finetune_nimg": 8}
    parts = assemble(tmp_path, make_source(), images[True], "cgantransfer", fields, steps=2)
    generator = parts.trainer.generator
    frozen = {f"{name}.{part}" for name, m in generator.named_modules() if isinstance(m, SpectralNorm)
              for part in ("weight", "bias", "u0", "sv0")}
    before = snapshot(generator)
    parts.trainer.run()
    assert not frozen & moved(before, generator)
    parts = assemble(tmp_path, make_source(), images[True], "cgantransfer", fields, steps=3)
    parts.trainer.restore()
    kept = {k: v for k, v in snapshot(parts.trainer.generator).items() if "prior" in k or "scores" in k}
    parts.trainer.run()
    changed = moved(before, parts.trainer.generator)
    assert {k for k in frozen & before.keys() if k.endswith("weight")} <= changed
    assert kept and all(torch.equal(v, parts.trainer.generator.state_dict()[k]) for k, v in kept.items())


def test_frozen_convolutions_keep_their_power_iteration(trained: Trained) -> None:
    """u0 and sv0 of everything the source shares with the target; buffers='official' moves them."""
    if trained.pair.method not in ("bsa", "cgantransfer") or trained.plan.fixed_until_nimg is not None:
        return  # only for methods that leave the source's layers frozen to the end
    changed = moved(trained.generator, trained.parts.trainer.generator)
    source = trained.gan.generator.state_dict()
    vectors = {k for k in trained.generator if k.endswith(("u0", "sv0")) and k in source}
    assert bool(vectors) == any(isinstance(m, SpectralNorm) for m in trained.gan.generator.modules())
    official = getattr(trained.parts.method, "buffers", "fixed") == "official" and bool(vectors)
    assert bool(vectors & changed) == official
    own = {k for k in changed if not any(k.startswith(f"{n}.") for n, _ in trained.gan.generator.norms())}
    assert official or not own  # nothing outside the norm layers moved: what `extend` relies on
    statistics = {k for k in trained.generator if k.endswith(("stored_mean", "stored_var"))}
    assert bool(statistics & changed) == (getattr(trained.parts.method, "statistics", "batch") == "batch")


# ---- 5 and 6 -------------------------------------------------------------------------------------------


def _saved(trained: Trained) -> nn.Module:
    """The folded EMA generator, after writing its adapter."""
    best = fold(copy.deepcopy(trained.best), filters=False)
    sizes = save_adapter(trained.adapter, best, trained.gan, "tiny", trained.parts.method, trained.pair.method,
                         trained.parts.target)
    assert sizes["adapter"] == (trained.adapter / "adapter_model.safetensors").stat().st_size
    return fold(best)


def test_the_adapter_gives_the_same_images_and_refuses_another_source(trained: Trained) -> None:
    best = _saved(trained)
    merged = api.merge(trained.gan, trained.adapter)
    assert torch.equal(images_of(best, best.num_classes), images_of(merged.generator, best.num_classes))
    assert same(dict(best.state_dict()), dict(merged.generator.state_dict()))
    data = trained.parts.data  # of one class for a method that reads no labels
    assert merged.classes == (data.classes if data.labelled else ["0"])
    with pytest.raises(ModelError, match="belongs to source 'tiny'") as caught:
        api.merge(make_source(trained.pair.network, seed=1), trained.adapter)
    assert caught.value.exit_code == 4


def test_merging_gives_the_same_images_from_plain_modules(trained: Trained, tmp_path: Path) -> None:
    expected = images_of(trained.best, trained.best.num_classes)
    _saved(trained)
    merged = api.merge(trained.gan, trained.adapter)
    torch.testing.assert_close(images_of(merged.generator, merged.generator.num_classes), expected,
                               atol=1e-5, rtol=0)
    assert is_plain(merged.generator)
    assert not any("parametriz" in k for k in merged.generator.state_dict())
    again = GAN.from_pretrained(merged.save_pretrained(tmp_path))
    assert again.sha256 == merged.sha256
    assert (again.sample(4, seed=1) == merged.sample(4, seed=1)).all()


# ---- 7 -------------------------------------------------------------------------------------------------

# One graceful stop between checkpoints (which writes one), one at a checkpoint, one loss of power between them;
# all but the plainest network with a method's defaults are broken off once, the last way.
BREAKS = [(1, "stop"), (2, "stop"), (3, "crash")]


def test_interrupted_and_resumed_equals_uninterrupted(trained: Trained, tmp_path: Path) -> None:
    plain = trained.pair.network == "tables" and not trained.pair.variant
    for step, how in BREAKS if plain else BREAKS[-1:]:
        holder: list[Any] = []
        out = tmp_path / f"{how}-{step}"
        parts = assemble(out, trained.gan, trained.data, trained.pair.method, trained.pair.fields,
                         break_at(step, how, holder))
        holder.append(parts.trainer)
        with pytest.raises(Crash if how == "crash" else Interrupted):
            parts.trainer.run()
        resumed = assemble(out, trained.gan, trained.data, trained.pair.method, trained.pair.fields).trainer
        resumed.restore()
        assert resumed.progress.step == (2 if how == "crash" else step)
        resumed.run()
        assert_same_runs(out, trained.out)
