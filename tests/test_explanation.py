"""The pictures of knowledge propagation: what they are made of, held against the generators they come from."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from command import Capture, call, refused
from command import place as place
from tiny import assemble, latents, make_data, make_source
from torch import nn

import gantransfer as gt
from gantransfer import explanation
from gantransfer.errors import ModelError, UsageError
from gantransfer.explanation import Learned, layer_by_layer, pseudo_classes
from gantransfer.modulation import fold
from gantransfer.norm import class_rows
from gantransfer.sources import GAN

DONOR = '<span class="donor'  # a contributor in the report


def learned(folder: Path, network: str, **fields: object) -> tuple[GAN, nn.Module, Learned]:
    """Source, folded generator and what was kept, after three iterations at high rates."""
    gan = make_source(network)
    data = make_data(folder / "images")
    parts = assemble(folder / "run", gan, data, "cgantransfer", {"lr": 0.05, **fields}, steps=3, eval_nimg=0,
                     checkpoint_nimg=0)
    parts.trainer.run()
    best = parts.trainer.ema.module
    assert explanation.record(best, gan, parts.target.classes, folder / "run")
    return gan, fold(copy.deepcopy(best)), explanation.read(folder / "run")


FORMS = [("tables", {}), ("hierarchical", {}), ("shared", {"parametrisation": "softmax"}),
         ("tables", {"parametrisation": "official-cifar"}),
         ("hierarchical", {"parametrisation": "official-imagenet", "buffers": "official"})]


@pytest.mark.parametrize(("network", "fields"), FORMS)
def test_layers_lead_from_the_first_scores_to_the_generator(tmp_path: Path, network: str, fields: dict) -> None:
    gan, generator, kept = learned(tmp_path, network, **fields)
    stages = list(layer_by_layer(generator, kept))
    assert len(stages) == len(kept.layers) and stages[-1] is generator
    first, last = kept.layers[0], kept.layers[-1]
    for kind, part in (("scale", "gain"), ("shift", "bias")):
        learned_rows = getattr(generator.get_submodule(last), part).weight
        residual = learned_rows - kept.scores(last, kind) @ kept.prior(last, kind)
        rows = getattr(stages[0].get_submodule(last), part).weight
        torch.testing.assert_close(rows, kept.scores(first, kind) @ kept.prior(last, kind) + residual, atol=1e-5,
                                   rtol=1e-4)
        assert torch.equal(getattr(stages[0].get_submodule(first), part).weight,
                           getattr(generator.get_submodule(first), part).weight)
    z, y = latents(GAN(generator), 4)
    assert not torch.allclose(stages[0](z, y), generator(z, y))


@pytest.mark.parametrize(("network", "fields"), FORMS)
def test_scores_times_prior_plus_residual_are_the_class_parameters(
    tmp_path: Path, network: str, fields: dict
) -> None:
    """Without residuals and noise bias nothing else is left: eq. 6 itself (offsets in the published code's form)."""
    if fields.get("parametrisation") == "official-imagenet":
        pytest.skip("its noise projection adds a bias of its own")
    _, generator, kept = learned(tmp_path, network, residuals=False, **fields)
    for layer in kept.layers:
        norm = generator.get_submodule(layer)
        for kind, part in (("scale", "gain"), ("shift", "bias")):
            combined = kept.scores(layer, kind) @ kept.prior(layer, kind)
            offset = kept.tensors[f"{layer}.{kind}.offset"]
            if fields.get("parametrisation") == "official-cifar":
                combined = combined + offset
            table = getattr(norm, part).weight + float(kind == "scale")
            torch.testing.assert_close(combined, table, atol=1e-5, rtol=1e-4)


def test_untouched_prior_rows_are_the_old_classes(tmp_path: Path) -> None:
    gan, generator, kept = learned(tmp_path, "tables", tune_prior=False, statistics="source")
    pseudo = pseudo_classes(generator, kept)
    for name, norm in gan.generator.class_norms():
        scales, shifts = class_rows(norm, gan.generator.class_embedding())
        torch.testing.assert_close(pseudo.get_submodule(name).gain.weight + 1, scales)
        torch.testing.assert_close(pseudo.get_submodule(name).bias.weight, shifts)
    z, y = latents(gan, 8)
    torch.testing.assert_close(pseudo(z, y), gan.generator(z, y), atol=1e-5, rtol=1e-4)


def test_contributors_are_the_first_layers_strongest() -> None:
    tensors = {f"{layer}.{kind}.{part}": torch.zeros(2, 3) for layer in ("a", "b") for kind in ("scale", "shift")
               for part in ("scores", "prior", "offset")}
    tensors["a.scale.scores"] = torch.tensor([[0.1, -0.5, 0.2], [0.0, 0.0, 1.0]])
    tensors["a.shift.scores"] = torch.tensor([[0.5, 0.3, 0.0], [0.0, 0.1, 0.0]])
    tensors["b.scale.scores"] = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    kept = Learned(tensors, ["a", "b"])
    assert kept.contributors(0, 3) == [0, 2, 1], "what is taken away does not contribute"
    assert kept.contributors(1, 1) == [2]
    assert kept.strongest("a", "scale", 0, 3) == [1, 2, 0]
    del tensors["b.shift.offset"]
    with pytest.raises(ModelError, match="has no 'b.shift.offset'"):
        Learned(tensors, ["a", "b"])


def test_the_verb(capsys: Capture, place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--source", place / "source", "--data", place / "images", "--steps", 2, "--batch-size", 4, "--no-evaluate"]
    assert call(capsys, "adapt", *words, "--out", run)[0] == 0
    names = json.loads((run / "analysis" / "contributions.json").read_text())
    made = {name: (run / "analysis" / name).read_bytes() for name in explanation.PICTURES}
    page = (run / "report.html").read_text()
    assert "Layer by layer" in page and "Pseudo-classes" in page
    code, text, err = call(capsys, "explain", run, "--top", 2, "--json", "--out", tmp_path / "figures")
    assert code == 0, err
    found = json.loads(text)
    assert list(found["classes"]) == names["classes"]
    layer = found["classes"][names["classes"][0]][names["layers"][0]]
    scores = names["scores"]["scale"][0][0]
    strongest = sorted(range(len(scores)), key=lambda i: -abs(scores[i]))[:2]
    assert [source for source, _ in layer["scale"]] == [names["source_classes"][i] for i in strongest]
    assert (tmp_path / "figures" / "layers.png").read_bytes() == made["layers.png"]
    (run / "report.html").unlink()
    code, text, err = call(capsys, "explain", run)
    assert code == 0 and "first layer: scale" in text and (run / "report.html").is_file(), err
    assert all((run / "analysis" / name).read_bytes() == content for name, content in made.items())
    assert page == (run / "report.html").read_text()
    assert call(capsys, "explain", run, "--top", 1)[0] == 0
    assert (run / "report.html").read_text().count(DONOR) < page.count(DONOR)
    assert call(capsys, "report", run)[0] == 0 and (run / "report.html").read_text().count(DONOR) < page.count(DONOR)
    assert call(capsys, "explain", run)[0] == 0 and (run / "report.html").read_text() == page
    assert "top 99 is not possible" in refused(capsys, 2, "explain", run, "--top", 99)
    assert call(capsys, "adapt", *words, "--method", "bsa", "--out", tmp_path / "bsa")[0] == 0
    assert "neither knowledge propagation nor modulated filters" in refused(capsys, 2, "explain", tmp_path / "bsa")
    with pytest.raises(UsageError):
        gt.explain(tmp_path / "bsa")
    assert refused(capsys, 4, "explain", tmp_path / "nothing")
    assert "is no run; give the --out" in refused(capsys, 4, "explain", place / "images")
