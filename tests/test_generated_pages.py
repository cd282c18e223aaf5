"""Every page that is written, from hostile names on: they are text, nothing runs, nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command import SHORT, Capture, call
from test_report import Page
from tiny import make_source, write_images

import gantransfer as gt

EVIL = "<script>alert(1)<"  # a folder's name has no slash
QUOTES = "\" onerror=alert(2) x='"
BRACES = "{{ 7*7 }}{% raw %}"
CLASSES = (EVIL, QUOTES, BRACES)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name, classes, source and files are hostile, and a finished run in it."""
    root = tmp_path_factory.mktemp("pages") / f"{EVIL}{QUOTES}"
    source = make_source("tables")
    source.classes = [*CLASSES, *source.classes[len(CLASSES) :]]
    source.card = {"name": EVIL, "license": QUOTES}
    source.save_pretrained(root / EVIL)
    write_images(root / "images", dict.fromkeys(CLASSES, 12))
    (root / "images" / EVIL / f"{QUOTES}.png").write_bytes(b"broken")
    gt.adapt(root / EVIL, root / "images", "cgantransfer", root / "run", steps=2, batch_size=4, n_fake=16,
             device="cpu", data_options={"per_class": 6, "on_bad": "skip"})
    return root


def assert_harmless(path: Path, scripts: int = 0) -> Page:
    """A page that runs and fetches nothing but what was written into it on purpose."""
    text = path.read_text(encoding="utf-8")
    page = _Loose(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == scripts and not {"iframe", "object", "embed", "base", "link", "form"} & set(tags)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(name)
            assert not value or value.startswith(("data:image/", "#")), (tag, name, value[:60])
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert "Content-Security-Policy" in text and "default-src 'none'" in text.replace("&#39;", "'")
    assert "49{" not in text, "a template in a name was run"
    return page


class _Loose(Page):
    """A page whose elements need not all be closed."""

    def __init__(self, text: str) -> None:
        super().__init__("")
        self.feed(text)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass


def test_the_report(evil: Path) -> None:
    page = assert_harmless(evil / "run" / "report.html", scripts=1)
    for name in CLASSES:
        assert name in " ".join(page.words), name
    assert f"{QUOTES}.png" in " ".join(page.words), "the bad file is named"


def test_the_report_that_explain_writes_again(evil: Path, capsys: Capture) -> None:
    (evil / "run" / "report.html").unlink()
    code, out, err = call(capsys, "explain", evil / "run")
    assert code == 0 and "\x1b" not in out, err
    assert EVIL in " ".join(assert_harmless(evil / "run" / "report.html", scripts=1).words)


def test_the_page_of_a_ranking(evil: Path, tmp_path: Path) -> None:
    gt.rank_sources([evil / EVIL, evil / "run"], evil / "images", data_options={"on_bad": "skip"}, n_fake=32,
                    out=tmp_path / "rank.html")
    assert EVIL in " ".join(assert_harmless(tmp_path / "rank.html").words)


def test_the_page_of_a_study(evil: Path, tmp_path: Path) -> None:
    page = assert_harmless(gt.new_study(evil / EVIL, evil / EVIL, tmp_path / "study.html", n=2), scripts=2)
    assert any(tag == "script" and attributes.get("type") == "application/json" for tag, attributes in page.tags)


def test_the_page_of_a_comparison(evil: Path, tmp_path: Path, capsys: Capture) -> None:
    plan = {"title": EVIL, "about": f"{EVIL} {QUOTES}", "out": str(tmp_path / "out"), "source": str(evil / EVIL),
            "data": str(evil / "images"), "per_class": 6, "on_bad": "skip", "seeds": [0], "levels": [1000],
            "variants": {f"bsa {BRACES[:9]}": {"method": "bsa"}, "scratch": {"method": "scratch"}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    code, _, err = call(capsys, "compare", tmp_path / "plan.yaml", *SHORT)
    if code == 2 and "variant" in err:  # names that no folder can have may be refused
        plan["variants"] = {"bsa": {"method": "bsa"}, "scratch": {"method": "scratch"}}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
        code, _, err = call(capsys, "compare", tmp_path / "plan.yaml", *SHORT)
    assert code == 0, err
    words = " ".join(assert_harmless(tmp_path / "out" / "compare.html").words)
    assert EVIL in words and QUOTES in words


def test_records_are_plain_json(evil: Path) -> None:
    for name in ("result.json", "data.json", "env.json", "samples/nearest.json"):
        assert json.loads((evil / "run" / name).read_text(encoding="utf-8"))
