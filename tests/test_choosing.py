"""Ranking sources: the order where it is known, its evidence, the page, the verb, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bars import bars
from command import Capture, call
from PIL import Image
from tiny import make_source, write_images

import gantransfer as gt
from gantransfer.choosing import _order
from gantransfer.errors import DataError, ModelError, OutputError, UsageError


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars at the top half, as PNGs in two classes."""
    root = tmp_path_factory.mktemp("target")
    images = gt.GAN.sample(bars(0, 14, "x"), 60, seed=9)
    for i, image in enumerate(images):
        folder = root / ("even" if i % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.asarray(image)[:, :, 0]).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def known(target: Path) -> dict[str, Any]:
    sources = [bars(18, 28, "elsewhere"), bars(0, 14, "the target's own"), bars(0, 4, "a part of it")]
    return gt.rank_sources(sources, target, n_fake=200)


def test_the_order_is_right_where_it_is_known(known: dict[str, Any]) -> None:
    assert [row["name"] for row in known["sources"]] == ["the target's own", "a part of it", "elsewhere"]
    best, part, far = known["sources"]
    assert best["frechet"] < part["frechet"] < far["frechet"] and best["told_apart"] and part["told_apart"]
    assert best["coverage"] > 0.9 > part["coverage"] >= far["coverage"] and best["recall"] > part["recall"]
    assert [row["rank"] for row in known["sources"]] == [1, 2, 3] and best["mean_rank"] == 1


def test_the_result_says_what_it_is_made_of(known: dict[str, Any]) -> None:
    assert known["target"]["images"] == 60 and known["ordered_by"] == ["frechet", "coverage"]
    assert "n_real=60 n_fake=200" in known["protocol"] and known["floor"] > 0
    assert any("not where it ends" in sentence for sentence in known["says"])
    assert json.loads(json.dumps(known)) == known
    for row in known["sources"]:
        assert row["probe"] is None and row["own"] is None and row["real_frechet"] is None
        assert row["frechet_spread"] >= 0 and (row["resolution"], row["channels"], row["classes"]) == (32, 1, 0)


def test_the_same_seed_gives_the_same_result(target: Path, known: dict[str, Any]) -> None:
    again = gt.rank_sources([bars(18, 28, "elsewhere"), bars(0, 14, "the target's own"), bars(0, 4, "a part of it")],
                            target, n_fake=200)
    assert again["sources"] == known["sources"]


def test_equal_evidence_is_not_told_apart() -> None:
    rows = [{"name": n, "frechet": f, "frechet_spread": 0.3, "coverage": c, "probe": None}
            for n, f, c in (("a", 1.0, 0.5), ("b", 1.2, 0.5), ("c", 3.0, None))]
    assert _order(rows) == ["frechet"]
    assert [(row["name"], row["told_apart"]) for row in rows] == [("a", False), ("b", True), ("c", True)]
    probed = [{"name": n, "frechet": 1.0, "frechet_spread": 0.1, "coverage": 0.5, "probe": {"frechet": p}}
              for n, p in (("a", 2.0), ("b", 1.0))]
    assert _order(probed) == ["frechet", "coverage", "probe"]
    assert [(row["name"], row["mean_rank"]) for row in probed] == [("b", 4 / 3), ("a", 5 / 3)]


def test_real_images_of_the_sources(target: Path, tmp_path: Path) -> None:
    noise = write_images(tmp_path / "noise", {"": 40})
    found = gt.rank_sources([bars(0, 14, "near"), bars(18, 28, "far")], target, n_fake=100,
                            source_data=[target, noise])
    near, far = found["sources"]
    assert near["real_frechet"] == pytest.approx(0, abs=1e-6) and far["real_frechet"] > 1
    assert near["own"]["frechet"] < far["own"]["frechet"] and "n_real=60" in near["own"]["protocol"]


def test_a_probe_mines_every_source_that_has_a_critic(target: Path) -> None:
    found = gt.rank_sources([make_source("unconditional"), make_source("tables", 1)], target, n_fake=50, probe=2)
    assert found["ordered_by"][-1] == "probe"
    for row in found["sources"]:
        assert row["probe"]["steps"] == 2 and row["probe"]["frechet"] > 0
        assert abs(row["probe"]["closes"]) > 1e-3  # of the same latents: mining has moved the images
    found = gt.rank_sources([make_source("unconditional"), make_source("tables", 1, critic=False)], target, n_fake=50,
                            probe=2)
    assert "probe" not in found["ordered_by"]
    assert [w for w in found["warnings"] if "source 2 has no discriminator and was not probed, so that the order" in w]


def test_a_source_s_own_quality_is_read_from_its_run_or_card(target: Path, tmp_path: Path) -> None:
    run = gt.pretrain(target, tmp_path / "run", arch="wgan_gp", network={"width": 2, "z_dim": 4}, steps=1,
                      batch_size=2, n_fake=16)
    carded = make_source("tables")
    carded.card = {"name": "carded", "frechet": 3.5, "protocol": "p"}
    for name in (run.path, run.path / "model"):
        found = gt.rank_sources([name, carded], target, n_fake=50)
        rows = {row["name"]: row for row in found["sources"]}
        assert rows[str(name)]["own"]["frechet"] == next(
            r["after"] for r in run.result["rows"] if r["metric"] == "frechet")
        assert rows["carded"]["own"] == {"frechet": 3.5, "protocol": "p"}


def test_a_damaged_record_costs_only_the_quality_it_held(target: Path, tmp_path: Path) -> None:
    odd = make_source("unconditional", 1)
    odd.card = {"name": "odd", "frechet": "good"}
    for content, told in (("{", True), ('{"rows": [{"metric": "frechet", "after": "x"}, 3]}', False), ("[]", False)):
        folder = tmp_path / "run"
        make_source("tables").save_pretrained(folder / "model")
        (folder / "result.json").write_text(content)
        found = gt.rank_sources([folder / "model", odd], target, n_fake=50)
        assert all(row["own"] is None for row in found["sources"])
        assert any("result.json is not valid JSON" in warning for warning in found["warnings"]) is told
        shutil.rmtree(folder)


def test_a_page_that_cannot_be_written_is_refused_before_measuring(target: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[Any] = []
    with pytest.raises(OutputError, match="cannot write"):
        gt.rank_sources([make_source("tables"), make_source("unconditional")], target, progress=said.append,
                        out=tmp_path / "file" / "page.html")
    assert not said


def test_no_other_run_s_quality_is_taken_for_a_source_s(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipped name, a model in memory and one saved in a run's folder are none of that run's."""
    monkeypatch.chdir(tmp_path)
    gt.pretrain(target, tmp_path / "run", arch="wgan_gp", network={"width": 2, "z_dim": 4}, steps=1, batch_size=2,
                n_fake=16)
    inside = make_source("tables").save_pretrained(tmp_path / "run" / "other")
    (tmp_path / "model").mkdir()
    (tmp_path / "result.json").write_text((tmp_path / "run" / "result.json").read_text())
    found = gt.rank_sources([make_source("unconditional"), inside, "glyph80-32"], target, n_fake=50)
    rows = {row["name"]: row["own"] for row in found["sources"]}
    assert rows[str(inside)] is None and rows["source 1"] is None
    assert rows["glyph80-32"]["frechet"] == pytest.approx(1.6753, abs=1e-4)  # its card, from results/glyph80-32
    moved = shutil.copytree(tmp_path / "run" / "model", tmp_path / "moved")
    told = gt.rank_sources([moved, "glyph80-32"], target, n_fake=50)["sources"]
    own = {row["name"]: row["own"] for row in told}[str(moved)]
    result = json.loads((tmp_path / "result.json").read_text())
    assert own == {"frechet": next(r["after"] for r in result["rows"] if r["metric"] == "frechet"),
                   "protocol": result["protocol"]}


def test_the_images_that_a_run_names(target: Path, tmp_path: Path) -> None:
    """`own`: with the classes and the number that its run took, not all that the path holds."""
    images = write_images(tmp_path / "images", {"a": 20, "b": 20, "c": 20})
    run = gt.pretrain(gt.ImageData(images, size=32, channels=1, classes=["a", "b"], per_class=12), tmp_path / "run",
                      arch="wgan_gp", network={"width": 2, "z_dim": 4}, steps=1, batch_size=2, evaluate=False)
    found = gt.rank_sources([run.path / "model", "glyph80-32"], target, n_fake=50, source_data=["own", None])
    row = next(row for row in found["sources"] if row["name"] != "glyph80-32")
    assert "n_real=24" in row["own"]["protocol"] and row["real_frechet"] > 0
    with pytest.raises(DataError, match="source 'glyph80-32' is no pre-training run's"):
        gt.rank_sources([run.path, "glyph80-32"], target, n_fake=50, source_data=["own", "own"])
    said: list[str] = []
    with pytest.raises(DataError, match="nowhere"):  # before anything is measured
        gt.rank_sources([run.path, "glyph80-32"], target, source_data=[None, tmp_path / "nowhere"],
                        progress=lambda event: said.append(event["text"]))
    assert not said
    small = gt.ImageData(images, size=16, channels=1)
    with pytest.raises(DataError, match="real images of glyph80-32 are 16 px"):
        gt.rank_sources([run.path, "glyph80-32"], target, n_fake=50, source_data=[None, small])


def test_the_verb_and_its_page(target: Path, tmp_path: Path, capsys: Capture) -> None:
    names = [str(make_source("unconditional", i).save_pretrained(tmp_path / f"source{i}")) for i in range(2)]
    page = tmp_path / "pages" / "sources.html"
    words = ["rank", "--data", str(target), "--sources", ",".join(names), "--n-fake", "50"]
    code, out, err = call(capsys, *words, "--source-data", f"-,{target}", "--out", str(page))
    assert code == 0, err
    assert "What" not in out and "ordered by: frechet, coverage\n" in out
    assert "not where it ends" in out and f"page: {page}" in out
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 3 and "What this can and cannot say" in html
    assert "http" not in html.replace("http-equiv", "") and names[0] in html
    for several in (("--sources", *names), ("--sources", names[0], "--sources", names[1])):
        code, out, err = call(capsys, "rank", *several, "--data", target, "--n-fake", 50, "--source-data", "-", target,
                              "--json")
        rows = json.loads(out)["sources"]
        assert code == 0 and {row["name"] for row in rows} == set(names), err
        assert {row["name"]: row["real_frechet"] is None for row in rows} == {names[0]: True, names[1]: False}


def test_what_is_refused(target: Path, tmp_path: Path, capsys: Capture) -> None:
    gan, wide, colour = make_source("tables"), make_source("wgan_gp", resolution=64), make_source("tables", channels=3)

    def refused(kind: type, *sources: Any, data: Path = target, **settings: Any) -> str:
        with pytest.raises(kind) as caught:
            gt.rank_sources(list(sources), data, **settings)
        return str(caught.value)

    assert "ranking needs two sources or more" in refused(UsageError, gan)
    assert "source 'glyph80-32' is named twice" in refused(UsageError, "glyph80-32", "glyph80-32")
    assert "sources of different size cannot be ranked" in refused(ModelError, gan, wide)
    assert "source 2: 32 px, 3 channel(s)" in refused(ModelError, gan, colour)
    other = make_source("unconditional")
    assert "names 1 data sets for 2 sources" in refused(UsageError, gan, other, source_data=[target])
    assert "probe -1 is not possible" in refused(UsageError, gan, other, probe=-1)
    assert "n_fake=1 generated images" in refused(UsageError, gan, other, n_fake=1)
    assert "is no shipped model" in refused(ModelError, "glyph81", gan)
    few = write_images(tmp_path / "few", {"": 5})
    assert "5 target images are too few" in refused(DataError, gan, other, data=few)
    images = gt.ImageData(target, size=16, channels=1)
    assert "the images are 16 px" in refused(DataError, gan, other, data=images)
    code, _, err = call(capsys, "rank", "--data", str(target), "--sources", "a,b", "--out", "page.txt")
    assert code == 2 and "give the name of an .html page" in err
    code, _, err = call(capsys, "rank", "--data", str(target))
    assert code == 2 and "--sources" in err
