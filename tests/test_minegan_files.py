"""MineGAN's runs and adapters: several sources on disk, resuming, merging, extending, the command line, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from api_run import FAST, stopped_at
from command import Capture, call, refused
from tiny import (
    NETWORKS,
    adapter_of,
    assemble,
    assert_same_runs,
    latents,
    make_data,
    make_source,
    same,
    snapshot,
    write_images,
)

import gantransfer as gt
from gantransfer import api
from gantransfer.adapter import read_adapter, save_adapter
from gantransfer.errors import Interrupted, ModelError, UsageError
from gantransfer.modulation import fold
from gantransfer.sources import GAN

PER_CLASS = {"per_class": True, "finetune": False}


class Place:
    """Two saved sources, images, and a finished run of both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gans = [make_source("tables"), make_source("hierarchical", 1, z_dim=12)]
        self.models = [gan.save_pretrained(root / name) for gan, name in zip(self.gans, ("one", "two"), strict=True)]
        self.images = write_images(root / "images", dict.fromkeys("abc", 28))
        self.run = gt.adapt(self.models, self.images, "minegan", root / "run", data_options={"per_class": 6},
                            mining_nimg=8, **FAST)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("mined"))


def draw(gan: GAN, n: int = 9) -> torch.Tensor:
    z = torch.randn(n, gan.generator.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return gan.generator(z)


# ---- several sources -------------------------------------------------------------------------------------


def test_the_adapter_names_every_source_and_refuses_any_other(place: Place, tmp_path: Path) -> None:
    adapter = read_adapter(place.run.path)
    assert (adapter.source_name, adapter.source_sha256) == (str(place.models[0]), place.gans[0].sha256)
    assert adapter.others == ((str(place.models[1]), place.gans[1].sha256),)
    assert "p" in adapter.tensors and {key.split("/")[0] for key in adapter.from_source.values()} <= {"0", "1"}
    found = gt.inspect(place.run.path / "adapter")
    assert found["other_sources"][0]["sha256"] == place.gans[1].sha256 and sum(found["p"]) == pytest.approx(1, abs=1e-4)
    merged = [gt.merge(gans, place.run.path) for gans in (place.gans, place.gans[0], place.models)]
    assert all(torch.equal(draw(m), draw(place.run.gan)) for m in merged)
    assert same(dict(merged[0].generator.state_dict()), dict(place.run.generator.state_dict()))
    again = GAN.from_pretrained(merged[0].save_pretrained(tmp_path / "merged"))
    assert again.sha256 == merged[0].sha256 and torch.equal(draw(again), draw(merged[0]))
    assert (again.sample(5, seed=2) == merged[0].sample(5, seed=2)).all() and again.summary()["p"] == found["p"]
    other = make_source("hierarchical", 7, z_dim=12)
    for wrong in ([other, place.gans[1]], [place.gans[0], other], [place.gans[1], place.gans[0]]):
        with pytest.raises(ModelError, match="belongs to source"):
            gt.merge(wrong, place.run.path)
    with pytest.raises(UsageError, match=r"made from 2 source\(s\) and 3 were given"):
        gt.merge([*place.gans, other], place.run.path)


def test_fine_tuned_sources_and_mined_ones(place: Place, tmp_path: Path) -> None:
    """Without fine-tuning nothing of a source is in the file."""
    run = gt.adapt(place.models, place.images, "minegan", tmp_path / "run", data_options={"per_class": 6},
                   finetune=False, **FAST)
    own = read_adapter(run.path).tensors
    assert {key.split(".")[0] for key in own} == {"miners", "p"}
    assert run.result["adapter_bytes"] < run.result["generator_bytes"] / 2 and run.result["bytes_per_class"] == 0


def test_a_run_of_several_sources_resumes_bit_for_bit(place: Place, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data_options": {"per_class": 6}, "mining_nimg": 8, **FAST, "steps": 5}
    whole = gt.adapt(place.models, place.images, "minegan", tmp_path / "whole", **settings)
    with pytest.raises(Interrupted):
        gt.adapt(place.models, place.images, "minegan", tmp_path / "broken", progress=stopped_at(2), **settings)
    resumed = gt.resume(tmp_path / "broken")
    assert_same_runs(tmp_path / "whole", tmp_path / "broken")
    assert torch.equal(draw(whole.gan), draw(resumed.gan))
    names = sorted(path.name for path in (whole.path / "samples").iterdir())
    assert names == sorted(path.name for path in (resumed.path / "samples").iterdir())
    config = (whole.path / "config.yaml").read_text()
    assert place.gans[1].sha256 in config and "others:" in config


def test_sources_without_a_name_are_kept_beside_the_run(place: Place, tmp_path: Path) -> None:
    run = gt.adapt(place.gans, place.images, "minegan", tmp_path / "run", data_options={"per_class": 6},
                   evaluate=False, **{k: v for k, v in FAST.items() if k != "n_fake"})
    assert (run.path / "source" / "config.json").is_file() and (run.path / "source2" / "config.json").is_file()
    assert torch.equal(draw(gt.load(run.path)), draw(run.gan))


def test_no_old_classes_to_extend(place: Place) -> None:
    with pytest.raises(ModelError, match="belongs to 2 sources, whose classes no one model has; use merge"):
        gt.extend(place.gans[0], place.run.path)


# ---- extending by mined classes --------------------------------------------------------------------------


class Mined:
    def __init__(self, network: str, root: Path) -> None:
        self.gan, self.data = make_source(network), make_data(root / "images")
        self.adapter = adapter_of(root / "a", self.gan, self.data, "ab", "minegan", {**PER_CLASS, "lr": 0.05})
        self.second = adapter_of(root / "b", self.gan, self.data, "c", "minegan", {**PER_CLASS, "depth": 3})
        self.both = gt.extend(self.gan, self.adapter, self.second)


@pytest.fixture(scope="module", params=list(NETWORKS))
def extended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mined:
    return Mined(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5, 6], [6, 0, 4, 1, 5, 2, 6, 3], [4] * 7 + [3], [0] * 5])
@torch.no_grad()
def test_old_classes_are_bit_identical_beside_mined_ones(extended: Mined, labels: list[int]) -> None:
    old = max(extended.gan.generator.num_classes, 1)
    y = torch.tensor([min(label, old + 2) if label >= 4 else label % old for label in labels])
    z, before = latents(extended.gan, len(y))[0], y < old
    plain = extended.gan.generator(z, y.where(before, 0) if extended.gan.generator.num_classes else None)
    found = extended.both.generator(z, y)
    assert torch.equal(found[before], plain[before])
    for adapter, first, count in ((extended.adapter, old, 2), (extended.second, old + 2, 1)):
        rows = (y >= first) & (y < first + count)
        if rows.any():
            merged = gt.merge(extended.gan, adapter).generator
            own = merged(z, (y - first).clamp(0, count - 1))
            torch.testing.assert_close(found[rows], own[rows], atol=1e-5, rtol=0)


def test_an_extended_model_is_saved_and_knows_its_base(extended: Mined, tmp_path: Path) -> None:
    both = extended.both
    assert both.classes == [*extended.gan.classes, "a", "b", "c"] and both.base_sha256 == extended.gan.sha256
    again = GAN.from_pretrained(both.save_pretrained(tmp_path / "model"))
    assert again.sha256 == both.sha256 and again.lineage == both.lineage
    assert (again.sample(8, seed=1) == both.sample(8, seed=1)).all() and again.discriminator is not None
    merged = [gt.merge(gan, extended.second) for gan in (again, extended.gan)]
    assert merged[0].sha256 == merged[1].sha256
    assert gt.extend(gt.extend(extended.gan, extended.adapter), extended.second).sha256 == both.sha256
    sizes = read_adapter(extended.adapter).tensors
    assert all(key.startswith("miners.") for key in sizes)


@pytest.mark.parametrize("network", ["tables", "hierarchical"])
def test_mined_classes_beside_those_of_another_adapter(network: str, tmp_path: Path) -> None:
    gan, data = make_source(network), make_data(tmp_path / "images")
    norms = adapter_of(tmp_path / "norms", gan, data, "a", "bsa")
    miner = adapter_of(tmp_path / "miner", gan, data, "bc", "minegan", {**PER_CLASS, "lr": 0.05})
    once, both = gt.extend(gan, norms), gt.extend(gan, norms, miner)
    y = torch.tensor([0, 4, 5, 6, 3, 4, 6, 1])
    z, before = latents(gan, len(y))[0], y < 5
    with torch.no_grad():
        found, plain = both.generator(z, y), once.generator(z, y.where(before, 0))
        own = gt.merge(gan, miner).generator(z, (y - 5).clamp_min(0))
    assert torch.equal(found[before], plain[before])
    torch.testing.assert_close(found[~before], own[~before], atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="extend the source with the other adapters first"):
        gt.extend(gan, miner, norms)


def test_what_cannot_extend(tmp_path: Path) -> None:
    gan, data = make_source(), make_data(tmp_path / "images")
    tuned = adapter_of(tmp_path / "tuned", gan, data, "a", "minegan", {"mining_nimg": 0})
    with pytest.raises(ModelError, match="tensors that old classes use"):
        gt.extend(gan, tuned)
    unlabelled = adapter_of(tmp_path / "all", gan, data, "abc", "minegan", {"finetune": False})
    with pytest.raises(ModelError, match="mined without labels has no classes to add"):
        gt.extend(gan, unlabelled)
    one = adapter_of(tmp_path / "one", gan, data, "b", "minegan", {"finetune": False})
    assert gt.extend(gan, one).classes == [*gan.classes, "b"]
    both = gt.extend(gan, one)
    with pytest.raises(ModelError, match="asked for class 9"):
        both.generator(latents(gan, 1)[0], torch.tensor([9]))
    with pytest.raises(ModelError, match="pass int64 labels"):
        both.generator(latents(gan, 1)[0], None)


def test_per_class_bytes_grow_with_the_classes(tmp_path: Path) -> None:
    gan, data = make_source(), make_data(tmp_path / "images")
    parts = assemble(tmp_path / "run", gan, data, "minegan", PER_CLASS, steps=1)
    best = fold(parts.trainer.ema.module)
    sizes = save_adapter(tmp_path / "adapter", best, gan, "tiny", parts.method, "minegan", parts.target)
    own = read_adapter(tmp_path / "adapter").tensors
    assert sizes["shared"] == 0 and sizes["per_class"] == sum(t.numel() * t.element_size() for t in own.values()) // 3


def test_the_source_of_a_mined_run_is_untouched(tmp_path: Path) -> None:
    gan, data = make_source("shared"), make_data(tmp_path / "images")
    before = snapshot(gan.generator)
    adapter_of(tmp_path / "a", gan, data, "abc", "minegan", {"mining_nimg": 0})
    assert same(before, dict(gan.generator.state_dict()))


# ---- command line, report --------------------------------------------------------------------------------


def test_the_command_line(capsys: Capture, place: Place, tmp_path: Path) -> None:
    sources, out = ",".join(map(str, place.models)), tmp_path / "run"
    words = ["adapt", "--source", sources, "--data", place.images, "--method", "minegan", "--per-class", 6, "--steps",
             3, "--batch-size", 4, "--mining-nimg", 4, "--n-fake", 16, "--device", "cpu"]
    code, text, err = call(capsys, *words, "--dry-run")
    assert code == 0 and "2 miner(s) before 2 source(s)" in text and not out.exists(), err
    code, text, err = call(capsys, *words, "--out", out)
    assert code == 0 and "Mean variance" in text, err
    code, text, err = call(capsys, *words, "--no-evaluate", "--out", tmp_path / "last")
    assert code == 0, err
    page = (tmp_path / "last" / "report.html").read_text()  # the last generator is the kept one
    for part in ("What was mined", "without a miner", "Fine-tuned", "Which source", "Share of each source"):
        assert part in page
    card = (out / "adapter" / "README.md").read_text()
    assert "new classes" not in card and "merge SOURCE,SOURCE ADAPTER" in card and "extend" not in card
    record = json.loads((out / "samples" / "mining.json").read_text())
    assert record["sources"] == ["one", "two"] == record["rows"] and len(record["picked"]) == 24
    again = ["--config", out / "config.yaml", "--out", tmp_path / "again", "--no-evaluate"]
    code, text, err = call(capsys, "adapt", *again)
    assert code == 0, err
    assert gt.load(tmp_path / "again").generator.picks == 1
    labelled = ["adapt", "--source", place.models[0], *words[3:], "--class-miners", "--no-finetune", "--out",
                tmp_path / "labelled"]
    code, text, err = call(capsys, *labelled)
    assert code == 0 and gt.load(tmp_path / "labelled").classes == ["a", "b", "c"], err
    code, text, err = call(capsys, "extend", place.models[0], tmp_path / "labelled", "--out", tmp_path / "seven")
    assert code == 0 and "4 old classes, untouched, and 3 new ones: a b c" in text, err
    code, text, err = call(capsys, "adapt", "--config", tmp_path / "labelled" / "config.yaml", "--dry-run")
    assert code == 0 and "per_class: true" in text and "per_class: 6" in text, err
    assert call(capsys, "resume", out)[0] == 0 and call(capsys, "report", out)[0] == 0
    code, text, err = call(capsys, "inspect", out / "adapter", "--json")
    assert code == 0 and json.loads(text)["other_sources"][0]["name"] == str(place.models[1])
    for model, name in ((place.models[0], "first"), (sources, "both")):
        code, text, err = call(capsys, "merge", model, out, "--out", tmp_path / name)
        assert code == 0 and "1 classes: 0" in text, err
    assert gt.load(tmp_path / "first").sha256 == gt.load(tmp_path / "both").sha256
    code, _, err = call(capsys, "sample", tmp_path / "both", "--out", tmp_path / "s.png", "--truncation", 0.7)
    assert code == 0, err
    code, text, err = call(capsys, "evaluate", tmp_path / "both", "--data", place.images, "--metrics", "mv,kmmd",
                           "--n-fake", 16, "--json")
    assert code == 0 and set(json.loads(text)["metrics"]) == {"mv", "kmmd"}, err


def test_the_command_line_refuses(capsys: Capture, place: Place, tmp_path: Path) -> None:
    make_source("tables", channels=3).save_pretrained(tmp_path / "colour")
    words = ["--data", place.images, "--out", tmp_path / "run"]
    both = f"{place.models[0]},{tmp_path / 'colour'}"
    assert "source 2 makes images of 32 px with 3" in refused(
        capsys, 4, "adapt", "--source", both, "--method", "minegan", *words)
    sources = ",".join(map(str, place.models))
    assert "takes one source, not 2" in refused(capsys, 2, "adapt", "--source", sources, *words)
    assert "no source was given" in refused(capsys, 2, "adapt", "--source", ",", "--method", "minegan", *words)
    assert "did you mean 'minegan'" in refused(capsys, 2, "adapt", "--source", sources, "--method", "minigan", *words)
    assert not (tmp_path / "run").exists()
    assert "mined model is made from trained sources" in refused(
        capsys, 2, "pretrain", "--data", place.images, "--arch", "mined", "--out", tmp_path / "run")


def test_a_comparison_with_several_sources(capsys: Capture, place: Place, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "study"
    plan.write_text(f"""
out: {out}
data: {place.images}
sources: {{both: [{place.models[0]}, {place.models[1]}], one: {place.models[0]}}}
targets: {{few: {{per_class: 6}}}}
steps: 2
batch_size: 4
n_fake: 16
device: cpu
variants:
  mined: {{method: minegan, finetune: false}}
  tuned: {{method: minegan, mining_nimg: 4}}
""")
    code, text, err = call(capsys, "compare", plan, "--dry-run", "--json")
    assert code == 0 and json.loads(text)["seconds"] > 0 and not out.exists(), err
    code, text, err = call(capsys, "compare", plan, "--json")
    found = json.loads(text)
    assert code == 0 and {cell["status"] for cell in found["cells"]} == {"finished"}, err
    assert len(found["cells"]) == 4 and api.load(out / "both-few" / "tuned-seed0").generator.picks == 1
    assert api.load(out / "one-few" / "tuned-seed0").generator.picks == 0
