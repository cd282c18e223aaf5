"""The report's section on mining, from files alone: complete, partial, hostile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_run import grid, letter, write_fake_run

from gantransfer.report import write_report
from gantransfer.report.mining import mined, share_chart
from gantransfer.report.reading import RunFiles

NAMES = ["latin", "<b>digits</b>"]


def mining(run: Path, pictures: tuple[str, ...] = ("source", "mined", "tuned", "picked")) -> list[dict[str, float]]:
    for name in pictures:
        cells = 24 if name == "picked" else 16
        grid([letter(chr(65 + i), f"{name} {i}") for i in range(cells)], 8).save(run / "samples" / f"{name}.png")
    record = {"sources": NAMES, "rows": NAMES, "columns": 8, "p": [0.25, 0.75], "picked": [0, 1, 1] * 8}
    (run / "samples" / "mining.json").write_text(json.dumps(record), encoding="utf-8")
    stats = [{"step": s, "nimg": 32 * s, "D/p1": 0.5 - s / 400, "D/p2": 0.5 + s / 400,
              "D/won1": 0.4, "D/won2": 0.6} for s in (0, 50, 100)]
    (run / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stats), encoding="utf-8")
    return stats


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_fake_run(tmp_path / "run")


def test_all_of_it(run: Path) -> None:
    stats = mining(run)
    found = mined(RunFiles(run), stats)
    assert [head["label"] for head in found["heads"]] == ["Source", "Mined", "Fine-tuned"]
    assert [row["name"] for row in found["rows"]] == NAMES and len(found["rows"][0]["groups"][2]["uris"]) == 8
    assert len(found["picked"]) == 24 and found["picked"][1]["source"] == NAMES[1]
    assert [item["share"] for item in found["p"]] == ["25 %", "75 %"] and list(found["charts"]) == ["p", "won"]
    assert all(chart.count('class="line"') == 2 for chart in found["charts"].values())
    page = write_report(run).read_text(encoding="utf-8")
    assert "What was mined" in page and "&lt;b&gt;digits" in page and "<b>digits" not in page
    assert "Share of each source" in page and "Supersamples that each source wins" in page
    assert "D/p1" not in page and "D/won1" not in page


def test_one_miner_without_fine_tuning(run: Path) -> None:
    mining(run, ("source", "mined"))
    record = {"sources": ["one"], "rows": ["a", "b"], "columns": 8}
    (run / "samples" / "mining.json").write_text(json.dumps(record), encoding="utf-8")
    found = mined(RunFiles(run), [])
    assert len(found["heads"]) == 2 and not any(found["charts"].values()) and not found["picked"] and not found["p"]
    assert "What was mined" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize("record", [
    "{", "{}", '{"rows": 3}', '{"rows": ["a"], "sources": ["a"], "columns": "x"}',
    '{"rows": ["a", "b", "c"], "sources": [], "columns": 8, "picked": [9, "x"], "p": [1]}',
])
def test_damaged_records(run: Path, record: str) -> None:
    mining(run)
    (run / "samples" / "mining.json").write_text(record, encoding="utf-8")
    write_report(run)


def test_no_section_where_nothing_was_mined(run: Path) -> None:
    assert mined(RunFiles(run), []) is None and share_chart([{"step": 1, "D/logits_real": 0.1}], [], "p") == ""
    assert "What was mined" not in write_report(run).read_text(encoding="utf-8")
