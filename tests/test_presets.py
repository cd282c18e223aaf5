"""The published experiments: their plans are complete, fit their kind of source, and say what they wait for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Capture, call
from tiny import make_source

from gantransfer import api
from gantransfer.cli.comparing import comparison
from gantransfer.cli.parsing import parse
from gantransfer.cli.verbs import BY_NAME
from gantransfer.compare.plan import method_fields
from gantransfer.registry import methods
from gantransfer.shipped import preset_names

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
# The kinds of source, where not hierarchical.
NETWORK = {"cgantransfer-cifar100": "tables", "transfergan-bedrooms": "wgan_gp-unconditional",
           "transfergan-lsun10": "wgan_gp-unconditional", "transfergan-sources": "wgan_gp-unconditional"}
NETWORK |= dict.fromkeys(("adafm-1k", "adafm-25", "adafm-celeba", "adafm-small"), "gp_gan")


def plan_of(name: str) -> Any:
    return comparison(parse(BY_NAME["compare"], [name]))


def test_all_are_known() -> None:
    assert preset_names() == [
        "adafm-1k", "adafm-25", "adafm-celeba", "adafm-small", "bsa-adversarial", "bsa-published",
        "cgantransfer-ablation", "cgantransfer-animalface", "cgantransfer-cifar100", "cgantransfer-places",
        "minegan-few", "minegan-places", "transfergan-bedrooms", "transfergan-lsun10", "transfergan-sources"]


@pytest.mark.parametrize("name", preset_names())
def test_every_row_fits_its_source_and_has_published_figures_for_real_cells(name: str) -> None:
    plan = plan_of(name)
    plan.check()
    gan = make_source(NETWORK.get(name, "hierarchical"))
    for variant in plan.variants:
        api.check_fit(gan, variant.method, method_fields(variant))
    assert plan.title and plan.about and (plan.expected or name in ("adafm-25", "bsa-published"))
    for label, figures in plan.expected.items():
        assert label in [variant.label for variant in plan.variants]
        assert set(figures) <= {task.name for task in plan.tasks}


@pytest.mark.parametrize("name", preset_names())
def test_dry_run_without_data_and_checkpoints(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, text, err = call(capsys, "compare", name, "--dry-run", "--json")
    assert code == 0, err
    planned = json.loads(text)
    assert len(planned["cells"]) == len(plan_of(name).cells()) and planned["seconds"] is None
    said = " ".join(planned["missing"])
    assert "models/" in said and "data/" in said and "inception.safetensors" in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("minegan_*.yaml")), ids=lambda file: file.stem)
def test_plans_of_minegan_s_studies(file: Path) -> None:
    plan = comparison(parse(BY_NAME["compare"], [str(file)]))
    plan.check()
    kinds = ["tables", "hierarchical", "unconditional", "shared"]
    for task in plan.tasks:
        gans = [make_source(kinds[i], i) for i in range(task.source.count(",") + 1)]
        for variant in plan.variants:
            api.check_fit(gans if len(gans) > 1 else gans[0], variant.method, method_fields(variant))


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("adafm_*.yaml")), ids=lambda file: file.stem)
def test_plans_of_adafm_s_studies(file: Path) -> None:
    plan = comparison(parse(BY_NAME["compare"], [str(file)]))
    plan.check()
    gan = make_source("gp_gan", variant="resnet", channels=3)  # results/adafm/source is a wider one
    for variant in plan.variants:
        api.check_fit(gan, variant.method, method_fields(variant))


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("transfergan_*.yaml")), ids=lambda file: file.stem)
def test_plans_of_transfergan_s_studies(file: Path) -> None:
    plan = comparison(parse(BY_NAME["compare"], [str(file)]))
    plan.check()
    labels = "" if file.stem != "transfergan_conditional" else "-unconditional"
    for task in plan.tasks:
        kind = f"wgan_gp{labels}" if "wgan-gp" in task.source else labels.lstrip("-") or "tables"
        gan = make_source(kind)
        for variant in plan.variants:
            if variant.runs_on(task.name):
                api.check_fit(gan, variant.method, method_fields(variant))


@pytest.mark.parametrize("file", sorted([*BENCHMARKS.glob("papers_*.yaml"), *BENCHMARKS.glob("first_study_*.yaml")]),
                         ids=lambda file: file.stem)
def test_plans_of_the_papers_studies(file: Path) -> None:
    plan = comparison(parse(BY_NAME["compare"], [str(file)]))
    plan.check()
    gan = make_source()  # as glyph80-32: a class table per layer
    for variant in plan.variants:
        api.check_fit(gan, variant.method, method_fields(variant))


def test_the_plan_of_all_baselines_names_every_method() -> None:
    plan = comparison(parse(BY_NAME["compare"], [str(BENCHMARKS / "baselines.yaml")]))
    plan.check()
    gan = make_source()  # as glyph80-32: a class table per layer
    for variant in plan.variants:
        api.check_fit(gan, variant.method, method_fields(variant))
    assert {variant.method for variant in plan.variants} == set(methods)
    for variant in plan.variants:  # three seeds of what trains a critic
        judged = not hasattr(methods[variant.method], "unused")
        assert len(plan.seeds_of(plan.tasks[0], variant)) == (3 if judged else 1), variant.label


def test_table_1_is_the_papers() -> None:
    plan = plan_of("cgantransfer-cifar100")
    texts = {row: [str(figure).split(", early ") for figure in of.values()] for row, of in plan.expected.items()}
    means = {row: sum(float(full) for full, *_ in of) / 6 for row, of in texts.items()}
    means["bsa, early"] = sum(float(early) for _, early in texts["bsa"]) / 6
    published = {"scratch": 58.76, "transfergan": 40.60, "bsa": 37.08, "bsa, early": 44.87,
                 "cgantransfer as published": 36.71}
    assert means == pytest.approx(published, abs=0.006)
