"""The report: made from files alone, complete, safe with hostile names, and robust to whatever is missing."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import CLASSES, COMMAND, LAYERS, STEPS, grid, letter, write_fake_run
from PIL import Image, ImageChops

import gantransfer.report as report
from gantransfer.errors import OutputError, UsageError
from gantransfer.report import charts, contributions, curves, formatting, pictures, sections, write_report
from gantransfer.report.reading import RunFiles

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails on tags that are closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def ids(self) -> set[str]:
        return {attrs["id"] for _, attrs in self.tags if attrs.get("id")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("run"), warnings=["the reference is small"])


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def rendered(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), encoding="utf-8")


def test_complete_page(run: Path) -> None:
    assert write_report(run) == run / "report.html"
    page = rendered(run)
    assert {"samples", "time", "curves", "measures", "copies", "borrowed", "data", "run"} <= page.ids()
    for expected in (
        "glyph80-32 → letters10", COMMAND, "251 → 1.92", "31.0 KB", "2.3 % of the generator", "71 s", "floor 0.310",
        "best 0.645 at step 900", "10 classes × 100 images", "features=glyph-cnn", "the reference is small",
        "truncated file", "2.13.0", "not used for training",
        "1 of 256 samples counts as a copy", "1 % quantile", "blocks.0.norm1",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert not list(run.glob(".report*")), "no draft is left behind"


def test_self_contained_and_small(run: Path) -> None:
    write_report(run)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text and "//www" not in text
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "base")
        for key in ("src", "href"):
            if attrs.get(key):
                assert attrs[key].startswith(("data:image/", "#")), attrs[key][:60]
    assert "@import" not in text and "url(" not in text
    assert len(text.encode()) < 3_000_000


def test_large_pictures_lose_detail_before_the_page_grows(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.frombytes("RGB", (520, 650), random.Random(0).randbytes(520 * 650 * 3))
    canvas = Image.new("RGB", (4 * 130 + 2, 5 * 130 + 2))
    canvas.paste(noise)
    for name in ("before", "after", "real"):
        canvas.save(run / f"samples/{name}.png")
    edit(run / "samples/classes.json", classes=list("QWERT"), columns=4)
    full = write_report(run).stat().st_size
    assert full < 3_000_000
    monkeypatch.setattr(report, "LARGEST", full // 2)
    assert write_report(run).stat().st_size < full // 2


def test_every_anchor_exists_and_pictures_have_names(run: Path) -> None:
    page = rendered(run)
    ids = page.ids()
    for tag, attrs in page.tags:
        if tag in ("a", "use"):
            assert attrs["href"][1:] in ids
        if tag == "img":
            assert "alt" in attrs
        if tag == "svg":
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"
        if attrs.get("role") == "img":
            assert attrs.get("aria-label")


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7*7 }}", "</style><b>", "a\u202eb & c")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    path = write_fake_run(tmp_path / "hostile", classes=HOSTILE, sources=HOSTILE + ("x", "y"), warnings=[HOSTILE[0]])
    edit(path / "config.yaml", command=HOSTILE[0], source={"name": HOSTILE[1]}, method={HOSTILE[0]: HOSTILE[1]})
    edit(path / "env.json", **{HOSTILE[0]: HOSTILE[1]})
    edit(path / "data.json", bad=[{"path": HOSTILE[1], "reason": HOSTILE[0]}], duplicates=[[HOSTILE[0]]])
    page, tame = rendered(path), rendered(_with_tame_names(path, tmp_path / "tame"))
    assert [(tag, sorted(attrs)) for tag, attrs in page.tags] == [(tag, sorted(attrs)) for tag, attrs in tame.tags]
    assert [tag for tag, _ in page.tags].count("script") == 1
    for name in HOSTILE:
        assert re.sub(r"\s+", " ", name) in page.text


def _with_tame_names(hostile: Path, path: Path) -> Path:
    """The same run under harmless names: the page must have the same elements."""
    shutil.copytree(hostile, path)
    for name in ("config.yaml", "env.json", "data.json", "result.json", "samples/classes.json"):
        _rename(path / name)
    _rename(path / "analysis/contributions.json")
    return path


def _rename(path: Path) -> None:
    def tame(value: object) -> object:
        if isinstance(value, dict):
            return {tame(k): tame(v) for k, v in value.items()}
        if isinstance(value, list):
            return [tame(v) for v in value]
        return f"name{HOSTILE.index(value)}" if value in HOSTILE else value

    path.write_text(json.dumps(tame(json.loads(path.read_text("utf-8")))), encoding="utf-8")


@pytest.mark.parametrize(
    "gone",
    ["config.yaml", "env.json", "data.json", "stats.jsonl", "metrics.jsonl", "result.json", "samples", "analysis",
     "adapter", "samples/classes.json", "samples/before.png", "samples/nearest.json", "samples/nearest.png",
     "samples/real.png", "analysis/source_classes.png", "analysis/contributions.json"],
)  # fmt: skip
def test_any_file_may_be_missing(run: Path, gone: str) -> None:
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = rendered(run)
    assert "What was run" in page.text
    section = {"analysis": "borrowed", "samples": "samples", "samples/nearest.png": "copies"}.get(gone)
    assert section not in page.ids()


@pytest.mark.parametrize("kept", ["config.yaml", "result.json", "metrics.jsonl", "stats.jsonl", "samples"])
def test_any_file_may_be_alone(run: Path, tmp_path: Path, kept: str) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.move(run / kept, alone / kept)
    assert "What was run" in rendered(alone).text


def test_unfinished_run_says_so(run: Path) -> None:
    (run / "result.json").unlink()
    page = rendered(run)
    assert "The run has not finished" in page.text
    assert "so far, on the selection split" in page.text


@pytest.mark.parametrize(
    "name", ["config.yaml", "result.json", "data.json", "metrics.jsonl", "samples/after.png", "samples/nearest.json"]
)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00{", b'{"step": ', b"[1, 2]"])
def test_damaged_files_are_named(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    page = rendered(run)
    if content != b"[1, 2]":
        assert name in page.text


def test_wrong_types_and_non_finite_numbers(run: Path) -> None:
    edit(run / "result.json", rows=[{"metric": "frechet", "before": None, "after": float("nan")}, 3], per_class=[],
         warnings="no list", seconds="soon", adapter_bytes=None, best_step="x")  # fmt: skip
    edit(run / "samples/classes.json", columns="eight")
    edit(run / "samples/nearest.json", distances=None, threshold="?", copies=None)
    edit(run / "analysis/contributions.json", scores={"scale": [[[1]]], "shift": 4})
    edit(run / "config.yaml", data="x", method=None, train=[1])
    edit(run / "data.json", counts=[1], duplicates=4, bad=[{}, 3], splits=None, sizes="s")
    with open(run / "stats.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 1002, "D/loss": NaN, "skipped": 3}\n{"step": "x", "G/loss": Infinity}\n{"step": 10')
    page = rendered(run)
    assert "3 updates were not finite" in page.text
    assert "stats.jsonl: 1 line could not be read" in page.text
    assert "contributions.json does not have the expected layout" in page.text
    assert "nan" not in page.text.lower().split()


def test_grid_of_another_shape_is_left_out_and_named(run: Path) -> None:
    Image.new("L", (101, 57)).save(run / "samples/after.png")
    assert "samples/after.png is no grid of 8 columns and 10 rows" in rendered(run).text


def test_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory: it holds none of config.yaml"):
        write_report(tmp_path)
    with pytest.raises(UsageError):
        write_report(tmp_path / "absent")


def test_cannot_write(run: Path) -> None:
    (run / ".report.html.part").mkdir()  # in the way of the draft, also for root
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(run)
    assert not (run / "report.html").exists()


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
    edit(run / "analysis/contributions.json", classes=record["classes"][:4])
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


def test_training_images_as_reference_are_said(run: Path) -> None:
    edit(run / "result.json", reference="training images")
    assert "A generator that copies them scores well" in rendered(run).text


def test_loss_terms_and_logits_by_their_recorded_names() -> None:
    """The trainer's hinge terms are D/real and D/fake; then the logits have names of their own."""
    row = {"step": 1, "D/real": 3.0, "D/fake": 4.0, "D/logits_real": 0.5, "D/logits_fake": -0.5, "G/adversarial": 2.0}
    found = curves.small_charts([], [row, {**row, "step": 2}])
    assert [chart["title"] for chart in found] == ["Losses", "Critic's answers"]
    assert ">7<" in found[0]["chart"] and ">7<" not in found[1]["chart"]
    old = {"step": 1, "D/loss": 1.0, "G/loss": 2.0, "D/real": 0.5, "D/fake": -0.5}
    assert [chart["title"] for chart in curves.small_charts([], [old])] == ["Losses", "Critic's answers"]


def test_pretraining_has_no_source(run: Path) -> None:
    edit(run / "config.yaml", kind="pretrain", source={"name": "", "arch": "biggan"})
    text = rendered(run).text
    assert "random start → letters10" in text and "pre-training report" in text


def test_many_steps_are_thinned_evenly() -> None:
    kept = sections._spread([2**i for i in range(20)], 14)
    assert len(kept) == len(set(kept)) == 14 and kept[0] == 1 and kept[-1] == 2**19
    assert sections._spread(list(STEPS), 14) == list(STEPS)


def test_report_knows_no_other_layer() -> None:
    allowed = {"PIL", "jinja2", "yaml"}
    for path in Path(report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                if name.startswith("gantransfer"):
                    assert name.startswith(("gantransfer.report", "gantransfer.errors")), (path.name, name)
                elif name.split(".")[0] not in allowed:
                    assert name.split(".")[0] in __import__("sys").stdlib_module_names, (path.name, name)
