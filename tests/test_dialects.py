"""Reading checkpoints of other code bases: what is inferred, what is said, what is refused.

The files are made here from our own networks, whose state dicts carry the official names; the golden ones are
in test_biggan_fixtures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_gans import KINDS, latents, small_gan
from tiny import write_images

import gantransfer as gt
from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import seeded
from gantransfer.modulation import attach_official_propagation, start_official_propagation
from gantransfer.sources import GAN

IMAGES = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def write(gan: GAN, folder: Path) -> dict[str, Path]:
    """The GAN's official-looking files."""
    files = {}
    for name, net in (("generator", gan.generator), ("discriminator", gan.discriminator)):
        if net is not None:
            files[name] = folder / f"{name[0].upper()}.safetensors"
            save_file({k: v.clone() for k, v in net.state_dict().items()}, files[name])
    return files


def same_networks(a: GAN, b: GAN) -> None:
    z, y = latents(a, 3), torch.tensor([0, 3, 1])
    with torch.no_grad():
        assert torch.equal(a.generator(z, y), b.generator(z, y))
        if a.discriminator is not None:
            assert torch.equal(a.discriminator(IMAGES, y[:2]), b.discriminator(IMAGES, y[:2]))


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in KINDS},
    "thin critic": ("table", {"d_wide": False}),
    "standing statistics": ("hierarchical", {"standing_statistics": True}),
    "attention": ("shared", {"g_attention": (8,), "d_attention": (16,)}),
    "colour, one class": ("table", {"channels": 3, "num_classes": 1}),
    "64 px": ("hierarchical", {"resolution": 64, "z_dim": 10, "g_widths": (8, 8, 8, 8, 8),
                               "d_widths": (8, 8, 8, 8, 8), "g_attention": (16, 64), "d_attention": (32, 4)}),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_architecture_is_inferred_and_said(variant: str, tmp_path: Path) -> None:
    kind, changes = VARIANTS[variant]
    gan = small_gan(kind, **changes)
    read = gt.convert("biggan-pytorch", **write(gan, tmp_path))
    assert {k: v for k, v in read.config.items() if k != "init"} == {
        k: v for k, v in gan.config.items() if k != "init"}
    for net in (read.generator, read.discriminator):
        assert not net.training
    for a, b in ((read.generator, gan.generator), (read.discriminator, gan.discriminator)):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert read.classes == [str(i) for i in range(gan.generator.num_classes)]
    said = "\n".join(read.notes)
    for name in ("resolution", "channels", "z_dim", "g_widths", "d_widths", "d_wide", "class_affine", "hierarchical",
                 "g_attention", "d_attention", "standing_statistics"):
        assert f"from tensor shapes: {name} = {getattr(gan.generator.config, name)}" in said
    assert "default taken: bn_eps = 1e-05" in said and "default taken: sn_eps = 1e-06" in said


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "itr": 7},
                                  lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_pth_files(wrap: Any, tmp_path: Path) -> None:
    gan = small_gan("hierarchical")
    files = {"generator": tmp_path / "G.pth", "discriminator": tmp_path / "D.safetensors"}  # whatever the suffix
    for name, path in files.items():
        torch.save(wrap(dict(getattr(gan, name).state_dict())), path)
    same_networks(gan, gt.convert("biggan-pytorch", **files))


def test_the_config_adds_what_shapes_cannot_tell(tmp_path: Path) -> None:
    gan = small_gan("table", bn_eps=1e-3, sn_eps=1e-2)
    config = {"BN_eps": 1e-3, "SN_eps": 1e-2, "G_init": "N02", "resolution": 32, "n_classes": 4, "extra": [1]}
    read = gt.convert("biggan-pytorch", **write(gan, tmp_path), config=config, classes=["a", "b", "c", "d"])
    assert read.generator.config.init == "N02" and read.classes == ["a", "b", "c", "d"]
    assert not any("default taken" in note for note in read.notes)
    same_networks(gan, read)


def test_a_missing_discriminator(tmp_path: Path) -> None:
    gan = small_gan("hierarchical", g_widths=(32, 16, 8, 8))
    files = write(gan, tmp_path)
    read = gt.convert("biggan-pytorch", files["generator"])
    assert read.discriminator is None
    # 32 channels at 4x4 are 4 x 8 in the official table, so a fresh critic would have 4 x 8 in every block.
    assert read.generator.config.d_widths == (32, 32, 32, 32)
    notes = [note for note in read.notes if "d_widths" in note or "d_wide" in note or "d_attention" in note]
    assert len(notes) == 1 and "no discriminator file" in notes[0]
    told = gt.convert("biggan-pytorch", files["generator"],
                      config={"D_ch": 3, "D_wide": False, "D_attn": "16"})
    config = told.generator.config
    assert (config.d_widths, config.d_wide, config.d_attention) == ((12, 12, 12, 12), False, (16,))


OFFICIAL = {"resolution": 32, "n_classes": 4, "G_ch": 2, "D_ch": 2, "G_attn": "0", "D_attn": "0", "hier": True,
            "G_shared": True, "shared_dim": 6, "dim_z": 14, "mybn": False, "D_wide": True, "BN_eps": 1e-5}


@pytest.mark.parametrize(("key", "value"), [
    ("resolution", 64), ("n_classes", 5), ("G_ch", 4), ("D_ch", 4), ("G_attn", "16"), ("D_attn", "16"), ("hier", False),
    ("G_shared", False), ("shared_dim", 8), ("shared_dim", 0), ("dim_z", 16), ("mybn", True), ("D_wide", False),
])
def test_a_contradictory_config_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    gan = small_gan("hierarchical", g_widths=(8, 8, 8, 8), d_widths=(8, 8, 8, 8), z_dim=14)  # 14 is rounded to 12
    files = write(gan, tmp_path)
    assert gt.convert("biggan-pytorch", **files, config=OFFICIAL).generator.z_dim == 12
    with pytest.raises(ModelError, match=f"config says .*{key}.* but the tensors have .*; give the config"):
        gt.convert("biggan-pytorch", **files, config={**OFFICIAL, key: value})


def test_a_config_may_leave_out_or_spell_differently(tmp_path: Path) -> None:
    gan = small_gan("hierarchical", g_widths=(8, 8, 8, 8), d_widths=(8, 8, 8, 8), z_dim=14)
    files = write(gan, tmp_path)
    for key in OFFICIAL:
        less = {k: v for k, v in OFFICIAL.items() if k != key}
        assert gt.convert("biggan-pytorch", **files, config=less).sha256 == gan.sha256, key
    spelled = {**OFFICIAL, "resolution": "32", "G_ch": "2", "BN_eps": "1e-5", "G_nl": "inplace_relu", "seed": 0}
    assert gt.convert("biggan-pytorch", **files, config=spelled).generator.config.bn_eps == 1e-5


def test_widths_outside_the_official_tables(tmp_path: Path) -> None:
    files = write(small_gan(g_widths=(9, 7, 5, 3), d_widths=(3, 5, 7, 9)), tmp_path)
    told = {"G_ch": 64, "g_widths": [9, 7, 5, 3], "D_ch": 64, "d_widths": [3, 5, 7, 9]}
    assert gt.convert("biggan-pytorch", **files, config=told).generator.config.g_widths == (9, 7, 5, 3)
    with pytest.raises(ModelError, match=r"config says g_widths \(9, 7, 5, 4\) but the tensors have \(9, 7, 5, 3\)"):
        gt.convert("biggan-pytorch", **files, config={"g_widths": [9, 7, 5, 4]})


@pytest.mark.parametrize(("key", "value", "message"), [
    ("num_G_SV_itrs", 2, "config says num_G_SV_itrs 2, which is not supported; have: 1"),
    ("G_nl", "leaky_relu", "config says G_nl 'leaky_relu', which is not supported; have: relu, inplace_relu"),
    ("norm_style", "in", "norm_style 'in'"), ("BN_eps", None, "config says BN_eps None, which is no number"),
    ("G_ch", "wide", "config says G_ch 'wide', which is no whole number"),
])
def test_settings_that_would_compute_something_else_are_refused(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    files = write(small_gan(), tmp_path)
    with pytest.raises(ModelError, match=message):
        gt.convert("biggan-pytorch", **files, config={key: value})


# ---- files that are something else -----------------------------------------------------------------------


def transferred(kind: str) -> tuple[GAN, dict[str, torch.Tensor]]:
    """A generator in the published code's parametrisation, and its tensors under the official names."""
    source = small_gan(kind)
    with seeded(3):
        target = source.generator.with_class_tables(3)
        attach_official_propagation(target, 4, spectral=kind == "hierarchical")
        start_official_propagation(target, source.generator)
    names = {"scores": "comb_layer", "prior": "prev_knowledge", "noise": "z_layer"}
    tensors = dict(source.generator.state_dict())
    for key, tensor in target.state_dict().items():
        norm, _, rest = key.partition(".gain." if ".gain." in key else ".bias.")
        which = "g" if ".gain." in key else "b"
        if rest == "parametrizations.weight.original":
            tensors[f"{norm}.res_{which}.weight"] = tensor.t()
        elif rest.startswith("parametrizations.weight.0."):
            layer, what = rest.removeprefix("parametrizations.weight.0.").split(".")
            tensors[f"{norm}.{names[layer]}_{which}.{what}"] = tensor
        elif rest.startswith("noise."):
            tensors[f"{norm}.z_layer_{which}.{rest.removeprefix('noise.')}"] = tensor
        elif key not in tensors:
            raise AssertionError(key)
    if kind == "hierarchical":
        for name, _ in source.generator.class_norms():
            tensors[f"{name}.pretrain_embedding_w"] = tensors["shared.weight"]
    return GAN(target.eval()), {k: v.contiguous().clone() for k, v in tensors.items()}


@pytest.mark.parametrize("kind", ["table", "hierarchical"])
def test_cgantransfer_checkpoints_load_and_fold(kind: str, tmp_path: Path) -> None:
    gan, tensors = transferred(kind)
    save_file(tensors, tmp_path / "G.safetensors")
    critic = small_gan(kind, num_classes=3).discriminator
    state = {k.replace("embed.", "new_embed."): v for k, v in critic.state_dict().items()}
    state |= {k: v for k, v in small_gan(kind).discriminator.state_dict().items() if k.startswith("embed.")}
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "D.safetensors")
    read = gt.convert("cgantransfer", tmp_path / "G.safetensors", tmp_path / "D.safetensors",
                      config={"n_classes": 3, "n_pretrain_classes": 4, "hier": kind == "hierarchical"})
    assert read.classes == ["0", "1", "2"] and "4 source classes, 3 target classes" in read.notes[0]
    z, y = latents(read, 5), torch.tensor([2, 0, 1, 1, 2])
    with torch.no_grad():
        images = read.generator(z, y)
        assert torch.equal(images, gan.generator(z, y))
        assert torch.equal(read.discriminator(IMAGES, y[:2]), critic(IMAGES, y[:2]))
    read.save_pretrained(tmp_path / "model")
    again = GAN.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(again.generator(z, y), images, atol=5e-6, rtol=0)  # folding rounds once
        assert torch.equal(again.discriminator(IMAGES, y[:2]), critic(IMAGES, y[:2]))
    assert not any("parametrizations" in key for key in again.generator.state_dict())
    with torch.no_grad():
        assert torch.equal(read.generator(z, y), images)  # saving folded a copy
    with pytest.raises(ModelError, match="n_classes 4 but the tensors have 3"):
        gt.convert("cgantransfer", tmp_path / "G.safetensors", config={"n_classes": 4})
    with pytest.raises(ModelError, match="n_classes 5 but the tensors have 4"):
        gt.convert("cgantransfer", tmp_path / "G.safetensors", config={"n_pretrain_classes": 5})


@pytest.mark.parametrize("kind", ["table", "hierarchical"])
def test_a_transferred_checkpoint_that_lacks_a_tensor_is_refused(kind: str, tmp_path: Path) -> None:
    tensors = transferred(kind)[1]
    own = [k for k in tensors if k.startswith("blocks.2.0.bn2.") and k.rsplit(".", 2)[-2][:-2] in
           ("comb_layer", "prev_knowledge", "z_layer", "res")]
    assert len(own) >= 8
    for key in own:
        save_file({k: v for k, v in tensors.items() if k != key}, tmp_path / "G.safetensors")
        with pytest.raises(ModelError, match="1 missing"):
            gt.convert("cgantransfer", tmp_path / "G.safetensors")


@pytest.mark.parametrize("method", ["bsa", "cgantransfer", "transfergan", "freezed", "scratch"])
@pytest.mark.parametrize("kind", ["table", "hierarchical"])
def test_a_transferred_checkpoint_is_a_source(kind: str, method: str, tmp_path: Path) -> None:
    """Its combinations are folded first: the same run as from the saved model."""
    tensors = transferred(kind)[1]
    save_file(tensors, tmp_path / "G.safetensors")
    critic = small_gan(kind, num_classes=3).discriminator
    save_file({k: v.clone() for k, v in critic.state_dict().items()}, tmp_path / "D.safetensors")
    read = gt.convert("cgantransfer", tmp_path / "G.safetensors", tmp_path / "D.safetensors")
    saved = GAN.from_pretrained(read.save_pretrained(tmp_path / "model"))
    assert saved.sha256 == read.sha256
    root = write_images(tmp_path / "data", {"a": 4, "b": 4})
    for name, source in (("read", read), ("saved", saved)):
        gt.adapt(source, root, method, tmp_path / name, steps=1, batch_size=2, evaluate=False, device="cpu")
    z, y = latents(read, 4), torch.arange(4) % 2
    images = [gt.load(tmp_path / name).generator(z, y) for name in ("read", "saved")]
    assert torch.equal(*images)
    if method in ("bsa", "cgantransfer"):
        assert gt.extend(read, tmp_path / "read").classes == ["0", "1", "2", "a", "b"]
    assert any("parametrizations" in key for key in read.generator.state_dict())  # the caller's is untouched


def test_the_wrong_dialect_or_file_is_named(tmp_path: Path) -> None:
    gan = small_gan()
    files = write(gan, tmp_path)
    g, d = files["generator"], files["discriminator"]
    save_file(transferred("table")[1], tmp_path / "transfer.safetensors")
    with pytest.raises(UsageError, match="'biggan' not found; did you mean 'biggan-pytorch'"):
        gt.convert("biggan", g)
    with pytest.raises(ModelError, match="no cGANTransfer layers.*'biggan-pytorch'"):
        gt.convert("cgantransfer", g, d)
    with pytest.raises(ModelError, match="cGANTransfer layers.*'cgantransfer'"):
        gt.convert("biggan-pytorch", tmp_path / "transfer.safetensors")
    with pytest.raises(ModelError, match="holds no BigGAN generator"):
        gt.convert("biggan-pytorch", d, g)
    with pytest.raises(ModelError, match="holds no BigGAN discriminator"):
        gt.convert("biggan-pytorch", g, g)
    other = write(small_gan(num_classes=5), tmp_path)
    save_file({k: v.clone() for k, v in gan.generator.state_dict().items()}, tmp_path / "four.safetensors")
    with pytest.raises(ModelError, match="4 classes, the discriminator 5"):
        gt.convert("biggan-pytorch", tmp_path / "four.safetensors", other["discriminator"])
    large = small_gan(resolution=64, g_widths=(8,) * 5, d_widths=(8,) * 5)
    big = write(large, tmp_path)
    with pytest.raises(ModelError, match="5 blocks does not belong to a generator of 32 px"):
        gt.convert("biggan-pytorch", tmp_path / "four.safetensors", big["discriminator"])


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("blocks.1.0.conv2.weight"), r"1 missing \(first: blocks.1.0.conv2.weight\)"),
    (lambda s: s.update(surprise=torch.zeros(1)), r"1 unexpected \(first: surprise\)"),
    (lambda s: s.update({"linear.bias": torch.zeros(3)}), r"1 of another shape \(first: linear.bias\)"),
    (lambda s: s.pop("blocks.0.0.bn1.gain.weight"), "no blocks.0.0.bn1.gain.weight"),
    (lambda s: s.pop("blocks.1.0.conv1.weight"), "no blocks.1.0.conv1.weight|2 blocks"),
])
def test_tensors_that_do_not_fit_are_named(change: Any, message: str, tmp_path: Path) -> None:
    files = write(small_gan(), tmp_path)
    state = load_file(files["generator"])
    change(state)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(ModelError, match=message):
        gt.convert("biggan-pytorch", tmp_path / "broken.safetensors")


def test_accumulated_statistics_in_a_file_are_mentioned(tmp_path: Path) -> None:
    gan = small_gan(standing_statistics=True)
    gan.accumulate_standing_statistics([latents(gan, 4)], [torch.arange(4)])
    read = gt.convert("biggan-pytorch", **write(gan, tmp_path))
    assert "the file holds standing statistics of 1 batches: in use" in read.notes
    same_networks(read, gan)
