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
from fake_run import COMMAND, write_fake_run
from PIL import Image

import gantransfer.report as report
from gantransfer.errors import OutputError, UsageError
from gantransfer.report import write_report

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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("tiny"), classes="QWE", sources="ABCDEFGHIJKL", columns=4)


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Path:
    """A run of three classes, for the tests that render many pages."""
    return Path(shutil.copytree(tiny, tmp_path / "run"))


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
def test_any_file_may_be_missing(small: Path, gone: str) -> None:
    path = small / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = rendered(small)
    assert "What was run" in page.text
    section = {"analysis": "borrowed", "samples": "samples", "samples/nearest.png": "copies"}.get(gone)
    assert section not in page.ids()


@pytest.mark.parametrize("kept", ["config.yaml", "result.json", "metrics.jsonl", "stats.jsonl", "samples"])
def test_any_file_may_be_alone(small: Path, tmp_path: Path, kept: str) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.move(small / kept, alone / kept)
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
def test_damaged_files_are_named(small: Path, name: str, content: bytes) -> None:
    (small / name).write_bytes(content)
    page = rendered(small)
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


def test_many_classes_are_counted_and_only_the_first_shown(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(30)]
    write_fake_run(tmp_path, classes=names, columns=2)
    edit(tmp_path / "data.json", classes=[*names, *"xyz"], counts=dict.fromkeys([*names, *"xyz"], 7))
    text = rendered(tmp_path).text
    assert "33 classes × 7 images" in text
    assert "(the first 24 of 33)" in text and "The first 12 of 33 classes are shown." in text


def test_pretraining_has_no_source(run: Path) -> None:
    edit(run / "config.yaml", kind="pretrain", source={"name": "", "arch": "biggan"})
    text = rendered(run).text
    assert "random start → letters10" in text and "pre-training report" in text


def test_training_images_as_reference_are_said(run: Path) -> None:
    edit(run / "result.json", reference="training images")
    assert "A generator that copies them scores well" in rendered(run).text


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


def test_settings_are_blocks_with_something_in_them_and_the_plan_is_whole() -> None:
    """Scalars at the top of ``config.yaml`` are no block of settings; a plan's sentences are not cut."""
    sentence = "copied: " + ", ".join(f"blocks.{i}.conv1.weight" for i in range(20))
    found = report._settings({"kind": "adapt", "command": COMMAND, "train": {"steps": 2}, "plan": [sentence, "more"]})
    assert [block["title"] for block in found] == ["Training", "Plan"]
    assert found[1]["items"] == [("", sentence), ("", "more")]
