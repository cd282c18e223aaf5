"""Preference studies: the page, a subject in a real browser, and the scores."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from command import Capture, call
from PIL import Image
from tiny import make_source

import gantransfer as gt
from gantransfer.errors import DataError, ModelError, OutputError, UsageError
from gantransfer.preference import QUESTION_ALONE, SPARE, _effective, wilson
from gantransfer.sources import GAN

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def model(seed: int, classes: str = "abcd", network: str = "tables") -> GAN:
    gan = make_source(network, seed, **({"num_classes": len(classes)} if network == "tables" else {}))
    if network == "tables":
        gan.classes = list(classes)
    gan.card = {"name": f"model {seed}"}
    return gan


def study_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', page.read_text(), re.S)
    return json.loads(found[1])


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


# ---- the page --------------------------------------------------------------------------------------------------


def test_pairs_are_of_one_class_one_of_each_model_on_random_sides(tmp_path: Path) -> None:
    a, b = model(0), model(1, "bcde")
    study = study_of(gt.new_study(a, b, tmp_path / "s.html", n=30, seed=4))
    pairs = study["pairs"]
    assert len(pairs) == SPARE * 30 and study["n"] == 30 and (study["a"], study["b"]) == ("model 0", "model 1")
    assert {p["class"] for p in pairs} == set("bcd")
    assert all(15 <= sum(p["class"] == c for p in pairs) <= 25 for c in "bcd")
    assert 15 < sum(p["first"] == "A" for p in pairs) < 45
    assert study["question"] == "Which of these two images of <class> is more realistic?"
    order = [p["class"] for p in pairs]
    drawn = {"A": a.sample(60, order, 8), "B": b.sample(60, order, 9)}
    for i, pair in enumerate(pairs):
        left, right = (pair["first"], "B" if pair["first"] == "A" else "A")
        assert (pixels(pair["left"]) == drawn[left][i, :, :, 0]).all()
        assert (pixels(pair["right"]) == drawn[right][i, :, :, 0]).all()


def test_the_same_seed_gives_the_same_page(tmp_path: Path) -> None:
    pages = [gt.new_study(model(0), model(1), tmp_path / f"{i}.html", n=3, seed=i // 2).read_bytes() for i in range(3)]
    assert pages[0] == pages[1] != pages[2]


def test_the_page_is_self_contained_and_safe(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>"
    a, b = model(0, "xy"), model(1, "xy")
    a.classes = b.classes = [hostile, "y"]
    page = gt.new_study(a, b, tmp_path / "s.html", n=2).read_text()
    assert "alert(1)</script>" not in page and page.count("<script") == 2
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page) and "default-src 'none'" in page
    assert hostile in {p["class"] for p in study_of(tmp_path / "s.html")["pairs"]}


def test_large_images_are_compressed_alike_and_models_without_classes_compared(tmp_path: Path) -> None:
    a, b = (make_source("wgan_gp-unconditional", i, resolution=128) for i in range(2))
    study = study_of(gt.new_study(a, b, tmp_path / "s.html", n=1))
    assert study["question"] == QUESTION_ALONE and {p["class"] for p in study["pairs"]} == {""}
    assert all(p[side].startswith("data:image/webp;") for p in study["pairs"] for side in ("left", "right"))


def test_studies_that_make_no_sense(tmp_path: Path, capsys: Capture) -> None:
    a, out = model(0), tmp_path / "s.html"

    def refused(kind: type, b: GAN, **settings: Any) -> str:
        with pytest.raises(kind) as caught:
            gt.new_study(a, b, **{"out": out, **settings})
        return str(caught.value)

    assert "no class in common" in refused(ModelError, model(1, "wxyz"))
    assert "32 px and model B 64 px" in refused(ModelError, make_source("wgan_gp", resolution=64))
    assert "class 'e' is not one that both models have; have: b, c, d" in refused(
        UsageError, model(1, "bcde"), classes=["e"])
    assert "n 0 is not possible" in refused(UsageError, model(1), n=0)
    assert "give the name of an .html page" in refused(UsageError, model(1), out=tmp_path / "s.txt")
    (tmp_path / "there.html").write_text("")
    assert "exists; choose another name" in refused(UsageError, model(1), out=tmp_path / "there.html")
    with pytest.raises(OutputError, match="cannot write"):
        gt.new_study(a, model(1), tmp_path / "there.html" / "s.html", n=1)
    for word, other in (("study", "study score"), ("data", "data glyph100")):
        code, out, err = call(capsys, word, "--help")
        assert code == 0 and other in out, err
    code, _, err = call(capsys, "study")
    assert code == 2 and "study is followed by one of: new, score" in err


# ---- a subject -------------------------------------------------------------------------------------------------


@needs_browser
def test_a_subject_with_keyboard_and_mouse(tmp_path: Path, capsys: Capture) -> None:
    page = gt.new_study(model(0), model(1), tmp_path / "study.html", n=5)
    pairs = study_of(page)["pairs"]

    def shown() -> int:
        source = browser.value("document.querySelector('#left img').src")
        return next(i for i, p in enumerate(pairs) if p["left"] == source)

    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.value("document.getElementById('asking').hidden")
        browser.click("subject")
        browser.type("Ada L.")
        browser.press("Enter")
        browser.wait("!document.getElementById('asking').hidden")
        assert browser.value("document.getElementById('question').textContent") == (
            f"Which of these two images of {pairs[0]['class']} is more realistic?")
        browser.wait("document.querySelector('#left img').naturalWidth === 32")  # the policy lets the pictures in
        browser.press("ArrowLeft")
        assert shown() == 1
        browser.press("ArrowDown")  # a skipped pair does not count
        assert shown() == 2 and browser.value("document.getElementById('count').textContent") == "1 of 5"
        browser.press("ArrowRight")
        browser.press("Backspace")  # taken back
        assert shown() == 2
        browser.press("ArrowRight")
        browser.click("right")
        browser.click("skip")
        browser.open(page)  # a reload loses nothing
        browser.wait("!document.getElementById('asking').hidden")
        assert shown() == 5
        browser.click("left")
        browser.press("s")
        assert browser.value("document.getElementById('done').hidden")
        browser.click("right")
        browser.wait("!document.getElementById('done').hidden")
        browser.press("ArrowLeft")  # too late
        text = browser.value("document.getElementById('json').value")
        link = browser.value("decodeURIComponent(document.getElementById('save').href.split(',')[1])")
        assert json.loads(link) == json.loads(text)
        assert browser.value("document.getElementById('save').download").endswith("-Ada_L_.json")
        assert browser.value("document.getElementById('short').hidden")
    file = tmp_path / "ada.json"
    file.write_text(text, encoding="utf-8")
    answers = json.loads(text)["answers"]
    sides = ["left", "skip", "right", "right", "skip", "left", "skip", "right"]
    expected = [side if side == "skip" else p["first"] if side == "left" else "AB"[p["first"] == "A"]
                for side, p in zip(sides, pairs, strict=False)]
    assert [x["choice"] for x in answers] == expected
    assert [x["left"] for x in answers] == [p["first"] for p in pairs[:8]]
    assert all(x["milliseconds"] >= 0 for x in answers)
    code, out, err = call(capsys, "study", "score", file)
    wins = expected.count("A")
    assert code == 0 and f"A was preferred in {wins * 20}" in out and "3 pairs skipped" in out, err + out
    assert "Ada L." in out and "A is model 0, B is model 1" in out


@needs_browser
def test_when_pairs_run_out_the_study_ends_with_fewer_answers(tmp_path: Path) -> None:
    page = gt.new_study(model(0), model(1), tmp_path / "study.html", n=2)
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        browser.click("start")
        for key in ("ArrowDown", "ArrowLeft", "ArrowDown", "ArrowDown"):
            browser.press(key)
        browser.wait("!document.getElementById('done').hidden")
        assert not browser.value("document.getElementById('short').hidden")
        found = json.loads(browser.value("document.getElementById('json').value"))
        assert not found["complete"] and len(found["answers"]) == 4
        browser.click("back")
        browser.wait("document.getElementById('done').hidden")
        browser.press("ArrowRight")
        browser.wait("!document.getElementById('done').hidden")
        assert json.loads(browser.value("document.getElementById('json').value"))["complete"]


# ---- scores ----------------------------------------------------------------------------------------------------


def answers(path: Path, choices: str, *, subject: str = "s", study: str = "x", n: int = 4, **changes: Any) -> Path:
    """A file with the choices "A", "B" and "-" (skipped); A is on the left in every second pair."""
    content = {"format": "gantransfer-study", "version": 1, "study": study, "a": "one", "b": "two", "n": n,
               "subject": subject, "started": f"2026-01-01 {subject}", "finished": None, "complete": True,
               "answers": [{"pair": i, "class": "cd"[i % 2], "left": "AB"[i % 2], "milliseconds": 5,
                            "choice": "skip" if c == "-" else c} for i, c in enumerate(choices)], **changes}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_wilson_is_the_published_formula() -> None:
    assert wilson(0.67, 100) == pytest.approx((0.5730, 0.7543), abs=1e-3)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3) and wilson(1, 10)[1] == pytest.approx(1)


def test_one_subject(tmp_path: Path) -> None:
    found = gt.score_study([answers(tmp_path / "a.json", "AAAB-A", n=5)])
    assert found["rate"] == 0.8 and found["valid"] == 5 and found["skipped"] == 1 and not found["warnings"]
    assert found["interval"] == pytest.approx(list(wilson(0.8, 5))) and found["interval_of"] == "answers"
    assert found["p"] == pytest.approx(0.375)  # of five fair coins four or more alike: 2 * 6 / 32
    assert found["per_class"]["c"]["rate"] == 1 and found["per_class"]["d"]["valid"] == 3
    assert found["left"] == pytest.approx(3 / 5) and json.loads(json.dumps(found)) == found


def test_several_subjects_are_worth_fewer_answers_than_they_gave(tmp_path: Path) -> None:
    files = [answers(tmp_path / f"{i}.json", "A" * (4 - i) + "B" * i, subject=str(i)) for i in range(3)]
    found = gt.score_study(files)
    assert found["rate"] == pytest.approx(9 / 12) and found["interval_of"] == "subjects"
    # deviations 1, 0, -1 of 12 answers: variance 3/2 * 2 / 144 = 1/48 against 3/16 / 12 = 1/64, so 4/3 as much; and
    # Student's points for 11 and 2 degrees of freedom are 2.20099 and 4.30265
    assert found["interval"] == pytest.approx(list(wilson(0.75, 12 * 3 / 4 * (2.20099 / 4.30265) ** 2)), abs=1e-5)
    of_class = [row["interval"] for row in found["per_class"].values()]  # of "c" each subject gave two of two, one, one
    assert of_class[0] == pytest.approx(list(wilson(5 / 6, _effective([(2, 2), (2, 2), (1, 2)]))))
    assert found["p"] == pytest.approx(0.5)  # leads 4, 2, 0: two sign patterns of four as far
    assert [row["rate"] for row in found["subjects"]] == [1, 0.75, 0.5]
    assert gt.score_study(files) == found


def test_two_subjects_who_agree_are_no_certainty(tmp_path: Path) -> None:
    for choices, rate in (("AAAB" * 25, 0.75), ("A" * 100, 1.0)):
        files = [answers(tmp_path / f"{i}.json", choices, subject=str(i), n=100) for i in range(2)]
        found = gt.score_study(files)
        low, high = found["interval"]
        assert found["rate"] == rate and low < 0.6 and high - low > 0.4  # p cannot be below 0.5 for two


@pytest.mark.parametrize("subjects", [3, 6, 12])
def test_intervals_cover_the_true_rate_of_a_population_of_subjects(subjects: int) -> None:
    """Subjects whose own rates scatter (beta, standard deviation 0.13 around 0.65), 40 answers each."""
    rng, true, covered = np.random.default_rng(subjects), 0.65, 0
    for _ in range(1000):
        wins = rng.binomial(40, rng.beta(true * 12, (1 - true) * 12, subjects))
        low, high = wilson(wins.sum() / (40 * subjects), _effective([(int(w), 40) for w in wins]))
        covered += low <= true <= high
    assert covered >= 940  # a percentile bootstrap over subjects covers in 789, 852 and 908


def test_unfinished_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    file = answers(tmp_path / "a.json", "AB-")
    code, out, err = call(capsys, "study", "score", file, "--json")
    assert code == 0 and json.loads(out)["subjects"][0]["complete"] is False
    assert json.loads(out)["warnings"] == [f"'{file}' has 2 of 4 valid answers"]


def test_files_that_cannot_be_scored(tmp_path: Path, capsys: Capture) -> None:
    good = answers(tmp_path / "good.json", "AABB")
    other = answers(tmp_path / "other.json", "AABB", study="y", subject="t")
    cases = {
        "belongs to study y and": [good, other], "is there twice (subject 's'": [good, good],
        "every pair was skipped": [answers(tmp_path / "skipped.json", "---")],
        "cannot be read as JSON": [tmp_path / "absent.json"],
        "holds no answers of a preference study": [answers(tmp_path / "odd.json", "A", format="else")],
    }
    (tmp_path / "list.json").write_text("[]")
    answers(tmp_path / "choice.json", "C")
    for message, files in cases.items():
        with pytest.raises(DataError) as caught:
            gt.score_study(files)
        assert message in str(caught.value)
    for name in ("list", "choice"):
        with pytest.raises(DataError, match="holds no answers of a preference study"):
            gt.score_study([tmp_path / f"{name}.json"])
    with pytest.raises(UsageError, match="no file was given"):
        gt.score_study([])
    code, _, err = call(capsys, "study", "score", tmp_path / "absent.json")
    assert code == 3 and "cannot be read as JSON" in err
