"""Method adafm as a user meets it: grey and unlabelled targets, the source's loss, what is refused, small adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Capture, call
from picture_files import noise, png, tree
from PIL import Image
from safetensors.torch import load_file
from tiny import assemble, latents, make_data, make_source, write_images

import gantransfer as gt
from gantransfer import api
from gantransfer.cli.pictures import class_folders
from gantransfer.data import ImageData
from gantransfer.defaults import Training
from gantransfer.errors import DataError, ModelError, UsageError
from gantransfer.losses import AdversarialLoss
from gantransfer.methods.adafm import AdaFM
from gantransfer.plan import Target
from gantransfer.registry import architectures
from gantransfer.report.filters import modulated
from gantransfer.report.reading import RunFiles

SHORT: dict[str, Any] = {"steps": 2, "batch_size": 4, "eval_nimg": 0, "evaluate": False, "threads": 1,
                         "style_dim": 6, "mapping_layers": 2}


def test_a_flat_folder_and_the_sources_loss(tmp_path: Path, capsys: Capture) -> None:
    """No labels are needed though the source has some, and the loss is what its critic was trained with."""
    images = write_images(tmp_path / "images", {"": 10})
    run = gt.adapt(make_source("gp_gan"), images, "adafm", tmp_path / "run", **SHORT)
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "kind: non-saturating" in config and "r1_gamma: 20.0" in config
    assert run.generator.num_classes == 0 and run.gan.sample(3).shape == (3, 32, 32, 1)
    assert (tmp_path / "run" / "samples" / "style-mixing.png").is_file()
    assert (tmp_path / "run" / "analysis" / "modulation.json").is_file()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Modulated filters" in page and "Style mixing" in page
    assert gt.style_mix(run.gan, [0], [1]).shape == (1, 1, 32, 32, 1)
    code, text, err = call(capsys, "sample", run.path, "--augment-to", 2, "--out", tmp_path / "more")
    assert code == 0 and sorted(file.name for file in (tmp_path / "more").iterdir()) == ["00000.png", "00001.png"], err
    hinge = gt.adapt(make_source("gp_gan"), images, "adafm", tmp_path / "hinge", **SHORT, loss="hinge")
    assert "kind: hinge" in (hinge.path / "config.yaml").read_text()
    with pytest.raises(DataError, match="flat folder"):
        gt.adapt(make_source(), images, "cgantransfer", tmp_path / "no", steps=2)


def test_scales_of_runs_and_adapters_side_by_side(tmp_path: Path, capsys: Capture) -> None:
    """Appendix E from the command line: runs of one name in two folders, a run's adapter alone, and what is refused."""
    source, images = make_source("gp_gan"), write_images(tmp_path / "images", {"": 10})
    place = source.save_pretrained(tmp_path / "source")
    for seed, folder in enumerate(("emoji", "faces")):
        gt.adapt(place, images, "adafm", tmp_path / folder / "run", **SHORT, seed=seed, lr_modulation=0.05)
    shutil.copytree(tmp_path / "faces" / "run" / "adapter", tmp_path / "given")
    run = tmp_path / "emoji" / "run"
    others = f"{tmp_path / 'faces' / 'run'},{tmp_path / 'given'}"
    code, text, err = call(capsys, "explain", run, "--beside", others, "--json")
    assert code == 0, err
    found = json.loads(text)["compared"]
    assert found["runs"] == ["emoji/run", "faces/run", f"{tmp_path.name}/given"]
    assert found["rows"][1] == found["rows"][2] and found["columns"][1:] == [0, 0]  # the adapter is that run's
    gamma = load_file(tmp_path / "faces" / "run" / "analysis" / "modulation.safetensors")
    own = load_file(run / "analysis" / "modulation.safetensors")
    name = found["convolution"]
    wanted = ((m[f"{name}.gamma"].clamp(0.9, 1.1) - 0.9) / 0.2 for m in (own, gamma))
    first, second = (m.flatten() for m in wanted)
    leads = (first - second > 0.03).nonzero().flatten()
    order = leads[first[leads].argsort(stable=True)]
    assert found["columns"][0] == len(leads) > 0
    assert found["rows"][0] == pytest.approx(first[order].tolist(), abs=6e-4)
    page = (run / "report.html").read_text()
    for part in ("Modulated filters", "Scale γ", "Shift β", "Group 2", "Sorted comparison of scales", "emoji/run"):
        assert part in page, part
    code, text, err = call(capsys, "explain", run, "--beside", run)
    assert code == 0 and "No run leads the others" in (run / "report.html").read_text()
    record = json.loads((run / "analysis" / "modulation.json").read_text())
    del record["groups"][0]["group"]
    record["compared"] |= {"rows": [[1.0]] * 2, "columns": ["many", 1]}
    (run / "analysis" / "modulation.json").write_text(json.dumps(record))
    found = modulated(RunFiles(run))  # a damaged record costs its own part of the page
    assert "Group 2" not in found["charts"][0][1] and "Group 3" in found["charts"][0][1] and not found["sorted"]
    for words, message in ((("--out", tmp_path / "figures"), "means nothing for run"), (("--top", 2), "top '2' means"),
                           (("--seed", 1), "seed '1' means"), (("--beside", place), "no modulated filters to compare")):
        code, _, err = call(capsys, "explain", run, *words)
        assert code in (2, 4) and message in err and not (tmp_path / "figures").exists(), err


def test_classes_whose_names_make_one_folder_stay_apart(tmp_path: Path, capsys: Capture) -> None:
    assert class_folders(["a b", "a_b", "!", "?", "x", "X"]) == ["a_b_0", "a_b_1", "__2", "__3", "x_4", "X_5"]
    images = write_images(tmp_path / "images", {"a b": 5, "a_b": 5, "c": 5})
    gt.adapt(make_source("gp_gan"), images, "adafm", tmp_path / "run", **SHORT)
    code, text, err = call(capsys, "sample", tmp_path / "run", "--augment-to", 7, "--out", tmp_path / "more")
    assert code == 0 and "7 style-mixed images in 3 folders" in text, err
    counts = {folder.name: len(list(folder.glob("*.png"))) for folder in (tmp_path / "more").iterdir()}
    assert set(counts) == {"a_b_0", "a_b_1", "c"} and sum(counts.values()) == 7
    code, text, err = call(capsys, "sample", tmp_path / "run", "--augment-to", 2, "--out", tmp_path / "two")
    assert code == 0 and "2 style-mixed images in 2 folders" in text, err
    for way in (("--augment-to", 2), ("--mix-styles", "0,1:2")):
        code, _, err = call(capsys, "sample", tmp_path / "run", *way, "--columns", 3, "--out", tmp_path / "no.png")
        assert code == 2 and "--columns 3 has no meaning beside" in err
    for words, message in ((("--mix-styles", ""), "--mix-styles is ''; give seeds of sources"),
                           (("--mix-styles", "0:1", "--style-groups", ","), "--style-groups names no group"),
                           (("--augment-to", 2, "--out", "more.zip"), "writes a folder per class"),
                           (("--classes", ""), "--classes names no class")):
        code, _, err = call(capsys, "sample", tmp_path / "run", *words)
        assert code == 2 and message in err, err
    mixing = ("--mix-styles", "0,1:2,3,4", "--out", tmp_path / "mix.png")
    code, text, err = call(capsys, "sample", tmp_path / "run", *mixing)
    with Image.open(tmp_path / "mix.png") as picture:
        assert picture.size[0] > picture.size[1], err


def test_a_scratch_start_trains_every_filter(tmp_path: Path) -> None:
    """A modulation behind a norm would keep random filters for ever."""
    gan, target = make_source("hierarchical"), Target(6, ("a", "b"), 32, 1)
    fields = {"start": "scratch", "head": "source", "general_g": 3}
    with pytest.raises(UsageError, match="would freeze them; add --modulation none"):
        AdaFM(**fields).reshape([gan], target)
    fields["modulation"] = "none"
    parts = assemble(tmp_path / "run", gan, make_data(tmp_path / "images"), "adafm", fields, steps=1)
    trained = {id(p) for group in parts.trainer.plan.groups.values() for p in group.params}
    left = [k for k, p in parts.trainer.generator.named_parameters() if id(p) not in trained]
    assert not left, left


def test_a_grey_target_of_a_colour_source(tmp_path: Path) -> None:
    """Appendix I: the image layers keep their three channels, D's input is repeated, G's output averaged."""
    source = make_source("gp_gan", channels=3)
    images = tree(tmp_path / "images", {f"a/{i}.png": png(noise(i, 32, 32)) for i in range(6)})
    run = gt.adapt(source, images, "adafm", tmp_path / "run", **SHORT, grey=True)
    assert run.gan.config["channels"] == 1 and run.gan.sample(2).shape == (2, 32, 32, 1)
    assert torch.equal(run.generator.conv_img.weight, source.generator.conv_img.weight)
    again = gt.GAN.from_pretrained(run.gan.save_pretrained(tmp_path / "model"))
    assert (again.sample(4, seed=1) == run.gan.sample(4, seed=1)).all()

    method, target = AdaFM(grey=True, head="source", first_layer="source", modulation="none"), Target(6, (), 32, 1)
    generator = method.reshape([source], target)
    critic = method.plan(generator, [source], target, AdversarialLoss()).extras["critic"]
    grey = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        ours, theirs = critic.features(grey), source.discriminator.features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours, theirs)
    colour = make_source("gp_gan-unconditional", channels=3)
    z, _ = latents(colour, 3)
    averaged = colour.generator.with_changes(0, True, channels=1, replicate=True)
    with torch.no_grad():
        torch.testing.assert_close(averaged(z), colour.generator(z).mean(1, keepdim=True))


def test_classes_of_a_kept_first_layer_start_from_the_mean() -> None:
    source = make_source("gp_gan", channels=3)
    mean = source.generator.embedding.weight.mean(0)
    for grey in (True, False):
        method = AdaFM(grey=grey, head="source", first_layer="source", modulation="none")
        own = method.reshape([source], Target(6, ("a", "b"), 32, 1 if grey else 3)).embedding.weight
        torch.testing.assert_close(own, mean.expand(2, -1))
    fresh = AdaFM(grey=True, head="source", modulation="none").reshape([source], Target(6, ("a", "b"), 32, 1))
    assert not torch.isclose(fresh.embedding.weight, mean).all()


def test_grey_images_for_a_colour_source_name_the_way_out(tmp_path: Path) -> None:
    images = ImageData(write_images(tmp_path / "images", {"a": 4}), size=32, channels=1)
    with pytest.raises(DataError, match=r"trains on 32 px with 3; load them so \(or give grey\)"):
        gt.adapt(make_source("gp_gan", channels=3), images, "adafm", tmp_path / "run", **SHORT)


def test_the_weight_of_r1_is_the_sources_unless_another_loss_is_asked_for() -> None:
    gan = make_source("gp_gan")
    for asked, kind, gamma in ((None, "non-saturating", 20), ("non-saturating", "non-saturating", 20),
                               ("hinge", "hinge", 2)):  # hinge: the default weight
        found = api.as_source_was_trained(Training(loss=asked), [gan], "adafm", {}).resolve(100, "adapt")[1]
        assert (found.kind, found.r1_gamma) == (kind, gamma)


def test_without_filters_to_modulate_none_is_named(tmp_path: Path) -> None:
    notes = assemble(tmp_path / "run", make_source("gp_gan"), make_data(tmp_path / "images"), "adafm",
                     {"general_g": 1, "style_dim": 6, "mapping_layers": 2}, steps=1).trainer.plan.notes
    assert notes[0] == "G1 and D2 frozen, filters: not modulated"


def test_a_grey_source_needs_no_such_thing(tmp_path: Path) -> None:
    generator = AdaFM(grey=True).reshape([make_source("gp_gan")], Target(6, (), 32, 1))
    assert not generator.config.replicate and generator.config.channels == 1


def test_the_adapter_holds_head_and_modulation_alone(tmp_path: Path) -> None:
    gan = make_source("gp_gan")
    run = gt.adapt(gan, make_data(tmp_path / "images"), "adafm", tmp_path / "run", **SHORT)
    loaded = gt.inspect(run.path / "adapter")["tensors"]
    assert all(key.startswith(("embedding.", "specific.")) or ".parametrizations.weight.0." in key for key in loaded)
    assert any(key.endswith("weight.0.gamma") for key in loaded)
    assert not any("parametriz" in key for key in run.generator.state_dict())
    with pytest.raises(ModelError, match="use merge instead"):
        gt.extend(gan, run.path)


@pytest.mark.parametrize(("fields", "error", "message"), [
    ({"general_g": 8}, UsageError, "general_g 8 is outside 1 to 7, the groups of this source's generator"),
    ({"general_g": 0}, UsageError, "general_g 0 is outside 1 to 7"),
    ({"general_d": 8}, UsageError, "general_d 8 is outside 0 to 7, the groups of this source's discriminator"),
    ({"general_g": 7}, ModelError, "a style head of 2 blocks does not fit above G7 at 32 px"),
    ({"head": "styles"}, UsageError, "head 'styles' does not exist; did you mean 'style'"),
    ({"modulation": "ada"}, UsageError, "did you mean 'adafm'"),
    ({"style_blocks": 0}, ModelError, "style_blocks 0 is not possible"),
    ({"head": "source", "first_layer": "source", "z_dim": 5}, UsageError,
     "z_dim 5 is not the source's 8, which its first layer takes; use first_layer 'random'"),
])
def test_what_does_not_fit_is_said_before_any_image_is_read(
    fields: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        gt.adapt(make_source("gp_gan"), tmp_path / "nothing", "adafm", tmp_path / "run", **fields)


def test_other_sources(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot take another z_dim; use head 'source' with the source's z_dim"):
        gt.adapt(make_source(), tmp_path / "nothing", "adafm", tmp_path / "a", head="source", z_dim=5)
    with pytest.raises(UsageError, match="general_g 5 is outside 0 to 4"):
        gt.adapt(make_source(), tmp_path / "nothing", "adafm", tmp_path / "a", head="source", general_g=5)
    run = gt.adapt(make_source("gp_gan"), make_data(tmp_path / "images"), "adafm", tmp_path / "run", **SHORT)
    critic = make_source("gp_gan", num_classes=3).discriminator
    styled = gt.GAN(run.generator, critic, arch="gp_gan", classes=run.classes)
    with pytest.raises(ModelError, match="has a style head already"):
        api.check_fit(styled, "adafm", {})
    api.check_fit(styled, "transfergan", {})
    with pytest.raises(ModelError, match="takes up labels only if it was made with them"):
        styled.generator.with_classes(0, None)


def test_the_modulation_starts_when_it_should(tmp_path: Path) -> None:
    data = make_data(tmp_path / "images")
    parts = assemble(tmp_path / "run", make_source("gp_gan"), data, "adafm", {"modulation_nimg": 8}, steps=2)
    before = {k: v.clone() for k, v in parts.trainer.generator.state_dict().items()}
    parts.trainer.run()
    changed = {k for k, v in parts.trainer.generator.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any("parametrizations" in k for k in changed)
    parts = assemble(tmp_path / "run", make_source("gp_gan"), data, "adafm", {"modulation_nimg": 8}, steps=3)
    parts.trainer.restore()
    parts.trainer.run()
    changed = {k for k, v in parts.trainer.generator.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.endswith("weight.0.gamma") for k in changed) and not any(k.endswith("original") for k in changed)


@pytest.mark.parametrize(("settings", "message"), [
    ({"variant": "resnet5"}, "variant 'resnet5' does not exist"),
    ({"resolution": 48}, "give a power of two from 32"), ({"resolution": 16}, "give a power of two from 32"),
    ({"variant": "resnet3"}, "resolution 32 is not possible with variant 'resnet3'; give a power of two from 64"),
    ({"channels": 2}, "image channels 2 are not possible; give 1 or 3"),
    ({"channels": 3, "replicate": True}, "give 1, as replicate is for grey images"),
    ({"num_classes": -1}, "num_classes -1 is negative"), ({"embed_dim": 0}, "embed_dim 0 is not possible"),
    ({"general": 9}, "this generator has G1 to G7"),
])
def test_networks_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        architectures["gp_gan"].tiny(**settings)


@pytest.mark.parametrize("variant", ["resnet", "resnet2", "resnet3", "resnet4"])
@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_every_variant_at_every_size(variant: str, resolution: int) -> None:
    if variant in ("resnet3", "resnet4") and resolution == 32:
        return
    arch = architectures["gp_gan"]
    config = arch.tiny(variant=variant, resolution=resolution, g_width=1, d_width=1, channels=3)
    g, d = arch.build_generator(config), arch.build_discriminator(config)
    y = torch.tensor([0, 3])
    with torch.no_grad():
        images = g(torch.randn(2, 8), y)
        assert images.shape == (2, 3, resolution, resolution) and d(images, y).shape == (2,)
    groups = len(config.layout.g)
    for m in range(1, groups - 1):
        head = arch.tiny(variant=variant, resolution=resolution, g_width=1, d_width=1, channels=3, general=m,
                         style_blocks=1)
        with torch.no_grad():
            assert arch.build_generator(head)(torch.randn(2, 8), y).shape == images.shape


def test_pretraining_a_gp_gan(tmp_path: Path) -> None:
    """With the published optimiser and noise on the images; the model says what its critic was trained with."""
    data = ImageData(write_images(tmp_path / "images", {"a": 6, "b": 6}), size=32, channels=1)
    run = gt.pretrain(data, tmp_path / "run", arch="gp_gan", evaluate=False, steps=2, batch_size=4, d_steps=1,
                      network={"width": 2, "z_dim": 4, "embed_dim": 3}, optimizer="rmsprop", image_noise=1 / 128,
                      loss="non-saturating", r1_gamma=20.0, r1_every=1, threads=1)
    gan = gt.GAN.from_pretrained(run.path / "model")
    assert gan.arch == "gp_gan" and gan.trained_with == {"loss": "non-saturating", "r1_gamma": 20.0}
    assert gan.classes == ["a", "b"] and gan.discriminator is not None
    with pytest.raises(UsageError, match="width and g_width both say"):
        gt.pretrain(data, tmp_path / "no", arch="gp_gan", network={"width": 2, "g_width": 2})
    with pytest.raises(UsageError, match="optimizer 'sgd' is not possible"):
        gt.pretrain(data, tmp_path / "no", arch="gp_gan", optimizer="sgd")
    with pytest.raises(UsageError, match="order 'generator' shows the critic .* d_steps 2 is not possible"):
        AdversarialLoss(order="generator", d_steps=2)
    with pytest.raises(UsageError, match="order 'gen' does not exist; did you mean 'generator'"):
        AdversarialLoss(order="gen")
