"""cGANTransfer: the published code's parametrisation, extended and merged sources, folding."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_gans import KINDS, disturb, latents, small_gan
from test_cgantransfer import FLAVOUR, M, N, params, planned, randomise, tables

import gantransfer as gt
from gantransfer.dialects.biggan import official_keys
from gantransfer.errors import UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.methods.cgantransfer import OFFICIAL, CGANTransfer
from gantransfer.modulation import PARAMETRISATIONS, OfficialPropagation, fold, propagations
from gantransfer.norm import class_rows
from gantransfer.plan import Target
from gantransfer.sources import GAN

# ---- the published code's parametrisation ----------------------------------------------------------------


@pytest.mark.parametrize("init", ["ortho", "N02"])
@pytest.mark.parametrize("kind", list(FLAVOUR))
def test_official_initial_values(kind: str, init: str) -> None:
    gan = small_gan(kind, init=init, g_widths=(8, 8, 8, 8))
    generator, plan, _ = planned(gan, parametrisation=FLAVOUR[kind])
    spectral, width = kind == "hierarchical", gan.generator.config.shared_dim
    for name, norm in gan.generator.class_norms():
        ours = generator.get_submodule(name)
        for table, old in ((ours.gain, norm.gain), (ours.bias, norm.bias)):
            layer, residual = table.parametrizations.weight[0], table.parametrizations.weight.original
            assert isinstance(layer, OfficialPropagation)
            if spectral:  # raw weights, not divided by the source's sigma
                torch.testing.assert_close(
                    layer.prior.weight, old.weight[:, :width] @ gan.generator.shared.weight.t(), atol=1e-6, rtol=0)
                assert torch.equal(table.noise.weight, old.weight[:, width:])
                assert table.noise.bias is not None and layer.prior.bias is None
                assert layer.scores.sn_eps == table.noise.sn_eps == 1e-12 and layer.prior.sn_eps == 1e-6
                assert layer.scores.u0.shape == (1, N) and layer.prior.u0.shape == (1, 8)
            else:
                assert torch.equal(layer.prior.weight, old.weight.t()) and layer.prior.bias is not None
                assert not hasattr(layer.scores, "u0") and not hasattr(layer.prior, "u0")
            assert layer.scores.weight.shape == (N, M) and layer.scores.bias.shape == (N,)
            for weight in (layer.scores.weight, residual.t()):  # residuals do not start at zero
                if init == "ortho":
                    torch.testing.assert_close(weight.t() @ weight, torch.eye(M), atol=1e-5, rtol=0)
                else:
                    assert 0 < weight.std() < 0.04
    assert len({p.data_ptr() for p in gan.generator.parameters()} & {p.data_ptr() for p in generator.parameters()}) == 0
    assert len(params(plan, "scores")) == 24  # weight and bias of every score layer
    again, _, _ = planned(gan, parametrisation=FLAVOUR[kind])
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in generator.state_dict().items())
    other, _, _ = planned(gan, parametrisation=FLAVOUR[kind], init_seed=1)
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in generator.state_dict().items())


@pytest.mark.parametrize(("case", "source"), [("cgan_cifar32", "cifar32"), ("cgan_hier128", "hier128")])
def test_official_loading(shared: Path, case: str, source: str) -> None:
    """The deterministic part of what the published code makes of a pre-trained checkpoint."""
    root = shared / "fixtures" / "biggan"
    gan = gt.convert("biggan-pytorch", root / source / "G.safetensors", root / source / "D.safetensors",
                     config=root / source / "config.json")
    method = CGANTransfer(parametrisation=OFFICIAL[0] if source == "hier128" else OFFICIAL[1])
    new = load_file(root / case / "G_new_keys_after_load.safetensors")
    classes = next(v for k, v in new.items() if k.endswith("comb_layer_g.weight")).shape[1]
    target = Target(10, tuple("abcdefgh"[:classes]), gan.config["resolution"], 3)
    generator = method.reshape([gan], target)
    method.plan(generator, [gan], target, AdversarialLoss())
    own, checked = generator.state_dict(), 0
    renamed = dict(official_keys(new))
    assert renamed.keys() <= own.keys()
    for key, expected in renamed.items():
        assert own[key].shape == expected.shape, key
        if key.endswith(("prior.weight", "noise.weight")):
            torch.testing.assert_close(own[key], expected, atol=1e-6, rtol=0)
            checked += 1
    assert checked >= 12


@pytest.mark.parametrize(("kind", "flavour", "way_out"), [
    ("table", "official-imagenet", "official-cifar"), ("shared", "official-imagenet", "centred"),
    ("shared", "official-cifar", "centred"), ("hierarchical", "official-cifar", "official-imagenet"),
])
def test_a_flavour_that_does_not_fit_the_source_is_refused(kind: str, flavour: str, way_out: str) -> None:
    gan = small_gan(kind)
    with pytest.raises(UsageError, match=f"parametrisation '{flavour}'.*use.*'{way_out}'") as caught:
        planned(gan, parametrisation=flavour)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(KINDS))
def test_extended_and_merged_models_are_sources_too(kind: str) -> None:
    gan = small_gan(kind)
    norms = gan.generator.adapter_norms(2)
    for i, norm in enumerate(norms.values()):
        disturb(norm, i)
    extended = GAN(gan.generator.extended(norms, 2), gan.discriminator)
    generator, _, _ = planned(extended)
    layers = propagations(generator)
    assert all(layer.prior.shape[0] == N + 2 for _, layer in layers)  # adapters' classes contribute as well
    with pytest.raises(UsageError, match="extended"):
        planned(extended, parametrisation=FLAVOUR.get(kind, "official-cifar"))
    merged = GAN(fold(planned(gan)[0]))
    merged.discriminator = small_gan(kind, num_classes=M).discriminator
    generator, _, _ = planned(merged, classes=2)
    for name, (scales, shifts) in tables(generator).items():
        rows = class_rows(merged.generator.get_submodule(name), None)
        torch.testing.assert_close(scales, rows[0].mean(0).expand(2, -1), atol=1e-6, rtol=0)
        torch.testing.assert_close(shifts, rows[1].mean(0).expand(2, -1), atol=1e-6, rtol=0)


# ---- single classes, folding -----------------------------------------------------------------------------


@pytest.mark.parametrize("parametrisation", [*PARAMETRISATIONS, "official"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_folding_changes_no_image(kind: str, parametrisation: str) -> None:
    if parametrisation == "official":
        if kind not in FLAVOUR:
            pytest.skip("the published code has no flavour for plain z with a shared embedding")
        parametrisation = FLAVOUR[kind]
    gan = small_gan(kind)
    for classes in (1, M, 6):  # one target class, fewer and more than the source's
        generator, _, _ = planned(gan, classes, parametrisation=parametrisation)
        randomise(generator)
        z, y = latents(gan, 6), torch.arange(6) % classes
        with torch.no_grad():
            images = generator(z, y)
            folded = fold(copy.deepcopy(generator))
            if parametrisation == "official-imagenet":  # its noise bias moves into the table: one rounding
                torch.testing.assert_close(folded(z, y), images, atol=5e-6, rtol=0)  # how it grows is the processor's
                exact = copy.deepcopy(generator).double()
                torch.testing.assert_close(fold(copy.deepcopy(exact))(z.double(), y), exact(z.double(), y), atol=1e-13,
                                           rtol=0)
            else:
                assert torch.equal(folded(z, y), images)
            assert torch.equal(generator(z, y), images)
        plain = gan.generator.with_class_tables(classes)
        assert folded.state_dict().keys() == plain.state_dict().keys()
        assert {type(m) for m in folded.modules()} == {type(m) for m in plain.modules()}
        assert not propagations(folded) and not folded.training
        assert folded.num_classes == classes


def test_one_target_class_needs_no_labels() -> None:
    gan = small_gan("hierarchical")
    generator, plan, _ = planned(gan, 1)
    z = latents(gan, 2)
    with torch.no_grad():
        assert torch.equal(generator(z), generator(z, torch.zeros(2, dtype=torch.int64)))
    assert plan.extras["critic"].embed.num_embeddings == 1
