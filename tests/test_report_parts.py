"""The report's parts: cutting cells, numbers, charts, contributions, and what becomes a column or a curve."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_run import CLASSES, LAYERS, STEPS, grid, letter, write_fake_run
from PIL import Image, ImageChops

from gantransfer.report import charts, contributions, curves, formatting, pictures, sections
from gantransfer.report.reading import RunFiles


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_fake_run(tmp_path)


@pytest.mark.parametrize(
    ("columns", "rows", "edge", "pad"), [(8, 10, 32, 2), (8, 1, 32, 2), (16, 2, 28, 2), (10, 8, 32, 0), (4, 4, 7, 2)]
)
def test_cells_are_cut_exactly(columns: int, rows: int, edge: int, pad: int) -> None:
    images = [letter("ABCDEFGH"[i % 8], i, edge) for i in range(columns * rows)]
    sheet = grid(images, columns, pad)
    cells = [cell for row in pictures.cut(sheet, columns, rows) for cell in row]
    assert len(cells) == len(images)
    assert not any(ImageChops.difference(a, b).getbbox() for a, b in zip(images, cells, strict=True))
    if pad == 2:
        assert pictures.geometry(*sheet.size, None, rows) == (columns, edge + pad, pad)


@pytest.mark.parametrize("args", [(100, 100, 3, 2), (0, 10, 1, 1), (10, 10, 0, 1), (10, 10, 1, 0), (5, 500, 8, 2)])
def test_what_is_no_grid(args: tuple[int, int, int, int]) -> None:
    assert pictures.geometry(*args) is None


def test_shown_size_is_a_whole_multiple() -> None:
    assert [pictures.shown_px(e) for e in (8, 28, 32, 48, 64, 128)] == [64, 56, 64, 48, 64, 64]


def test_data_uri_drops_colour_that_is_none() -> None:
    grey = letter("A", 0)
    assert pictures.data_uri(Image.merge("RGB", [grey] * 3)) == pictures.data_uri(grey)


def test_number_formats() -> None:
    found = [formatting.number(v) for v in (0, 1.915, 41.23, 251.3, 12345.6, -0.02, 3e-7, 7, 1200, None, float("nan"))]
    assert found == ["0", "1.92", "41.2", "251", "12,346", "−0.0200", "3.0e−7", "7", "1,200", "–", "–"]
    assert [formatting.duration(v) for v in (3.21, 71.4, 200, 7500, None)] == [
        "3.2 s", "71 s", "3 min 20 s", "2 h 5 min", "–",
    ]  # fmt: skip
    assert [formatting.size(v) for v in (12, 30960, 1_400_000)] == ["12 B", "31.0 KB", "1.4 MB"]


def test_ticks_are_round_and_inside() -> None:
    assert charts.linear_ticks(0, 1000, 5) == [0, 200, 400, 600, 800, 1000]
    assert charts.linear_ticks(-1.2, 0.9, 4) == [-1, -0.5, 0, 0.5]
    assert charts.log_ticks(0.3, 400) == [1, 10, 100]
    assert charts.log_ticks(2, 30) == [2, 5, 10, 20]
    assert charts.linear_ticks(3, 3) == [3]


def test_chart_survives_odd_data() -> None:
    for values in ([], [(0, 5.0)], [(0, 0.0), (5, 0.0)], [(0, -1.0), (9, 1e9)], [(0, float("nan")), (1, float("inf"))]):
        drawn = charts.line_chart([charts.Series("a", values)], title="t")
        assert "nan" not in drawn and "inf" not in drawn
    assert charts.line_chart([], title="t") == ""


def test_labels_do_not_overlap() -> None:
    lines = [charts.Series(f"line {i}", [(0, 0.0), (1, 1.0 + i / 1000)]) for i in range(5)]
    drawn = charts.line_chart(lines, title="t", rules=[("rule", 1.0)])
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)" fill="var', drawn))
    assert all(b - a >= 14.9 for a, b in zip(heights, heights[1:], strict=False))


def test_contributors_are_the_strongest_by_size(run: Path) -> None:
    record = json.loads((run / "analysis/contributions.json").read_text("utf-8"))
    record["scores"]["scale"][0][0] = [0.0] * len(record["source_classes"])
    record["scores"]["scale"][0][0][5:8] = [0.5, -0.7, 0.1]
    (run / "analysis/contributions.json").write_text(json.dumps(record), encoding="utf-8")
    found = contributions.borrowed(RunFiles(run))
    names = record["source_classes"]
    top = found["rows"][0]["layers"][0]["kinds"][0]
    assert [(i["name"], i["score"], i["negative"]) for i in top["items"][:3]] == [
        (names[6], "−0.70", True), (names[5], "+0.50", False), (names[7], "+0.10", False),
    ]  # fmt: skip
    assert top["counting"] == 2 and len(found["rows"][0]["layers"]) == len(LAYERS)
    assert set(found["pictures"]) and len(found["rows"]) == len(CLASSES)


def test_only_some_classes_named_in_the_contributions(run: Path) -> None:
    record = json.loads((run / "analysis/contributions.json").read_text("utf-8"))
    record["classes"] = record["classes"][:4]
    (run / "analysis/contributions.json").write_text(json.dumps(record), encoding="utf-8")
    found = contributions.borrowed(RunFiles(run))
    assert len(found["rows"]) == 4 and found["total"] == len(CLASSES)


def test_kept_generator_has_its_column_in_time(run: Path) -> None:
    found = sections.timeline(RunFiles(run), list(CLASSES), 8, 900)
    assert [s["label"] for s in found["steps"] if s["best"]] == ["900"]
    assert [s["label"] for s in found["steps"]][-2:] == ["900", "1,000"]
    assert found["recorded"] == len(STEPS) == len(found["steps"]) - 1
    found = sections.timeline(RunFiles(run), list(CLASSES), 8, 512)
    assert len(found["steps"]) == len(STEPS)


def test_only_inception_features_are_called_fid() -> None:
    row = {"metric": "frechet", "before": 9.0, "after": 3.0, "better": "lower"}
    names = {"FID": "FID", "Frechet distance (glyph-cnn)": "Fréchet distance", None: "Fréchet distance"}
    for label, name in names.items():
        assert sections.metrics_table({"rows": [{**row, "label": label}]}, [])["rows"][0]["name"] == name


def test_loss_terms_and_logits_by_their_recorded_names() -> None:
    """The trainer's hinge terms are D/real and D/fake; then the logits have names of their own."""
    row = {"step": 1, "D/real": 3.0, "D/fake": 4.0, "D/logits_real": 0.5, "D/logits_fake": -0.5, "G/adversarial": 2.0}
    found = curves.small_charts([], [row, {**row, "step": 2}])
    assert [chart["title"] for chart in found] == ["Losses", "Critic's answers"]
    assert ">6<" in found[0]["chart"] and ">6<" not in found[1]["chart"]  # a tick below D's loss of 7
    old = {"step": 1, "D/loss": 1.0, "G/loss": 2.0, "D/real": 0.5, "D/fake": -0.5}
    assert [chart["title"] for chart in curves.small_charts([], [old])] == ["Losses", "Critic's answers"]


def test_many_steps_are_thinned_evenly() -> None:
    kept = sections._spread([2**i for i in range(20)], 14)
    assert len(kept) == len(set(kept)) == 14 and kept[0] == 1 and kept[-1] == 2**19
    assert sections._spread(list(STEPS), 14) == list(STEPS)
