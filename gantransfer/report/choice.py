"""The page of a ranking of sources: the order, its evidence, what it can and cannot say, and samples."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from gantransfer.errors import writing
from gantransfer.report.formatting import number, percent

HERE = Path(__file__).parent
STYLE = (".rows td, .rows th { padding: 6px 18px 6px 0; border-bottom: 1px solid var(--hair); text-align: right; }"
         ".rows th:nth-child(2), .rows td:nth-child(2) { text-align: left; } .rows td { white-space: nowrap; }"
         ".sheets { display: flex; flex-wrap: wrap; gap: 32px; } .sheets img { image-rendering: pixelated; }"
         ".sheets figure { margin: 0; }")
HEADS = ("", "source", "distance to the target", "coverage", "recall", "KID", "own quality", "real images",
         "after mining")


def write_choice(result: Mapping[str, Any], pictures: Mapping[str, Image.Image], path: Path) -> Path:
    """Write the self-contained HTML page of a ranking to `path` and return it.

    Args:
        result: as `gantransfer.rank_sources` gives it.
        pictures: grids of samples by source name; that of the target is "".

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_page(result, pictures), encoding="utf-8", errors="backslashreplace")
    return path


def cells(row: Mapping[str, Any]) -> list[str]:
    """One source's line of the table, under `HEADS`."""
    own, probe = row["own"] or {}, row["probe"]
    spread = f" ± {number(row['frechet_spread'])}"
    mined = "–" if not probe or probe["frechet"] is None else f"{number(probe['frechet'])} ({probe['closes']:+.0%})"
    return [str(row["rank"]) + ("" if row["told_apart"] else " *"), row["name"], number(row["frechet"]) + spread,
            percent(row["coverage"], 1), percent(row["recall"], 1), number(row["kid"]), number(own.get("frechet")),
            number(row["real_frechet"]), mined]


def _page(result: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> str:
    style = (HERE / "style.css").read_text(encoding="utf-8")
    best = result["sources"][0]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in HEADS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row)) + "</tr>"
                   for row in result["sources"])
    names = {"": "the target", **{row["name"]: row["name"] for row in result["sources"]}}
    sheets = "".join(f"<figure><img alt='' src='{_uri(pictures[key])}'><figcaption>{escape(name)}</figcaption></figure>"
                     for key, name in names.items() if key in pictures)
    says = "".join(f"<p>{escape(sentence)}</p>" for sentence in result["says"])
    warnings = "".join(f"<p><b>Note:</b> {escape(sentence)}</p>" for sentence in result["warnings"])
    marked = "" if all(row["told_apart"] for row in result["sources"]) else (
        "<p>* its distance differs from the next one's by no more than two draws of the same source do.</p>")
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        '\'unsafe-inline\'">'
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Sources for {escape(result['target']['path'])}</title><style>{style}{STYLE}</style><main>"
        f"<h1>Start from {escape(best['name'])}</h1><p class='lead'>{result['target']['images']} target images; "
        f"ordered by {escape(', '.join(result['ordered_by']))}</p>"
        f"<section><h2>Evidence</h2><div class='wide'><table class='rows'><tr>{head}</tr>{body}</table></div>{marked}"
        f"<p>Floor of the distance, the target against itself: {number(result['floor'])}. Measured: "
        f"{escape(result['protocol'])}</p>{warnings}</section>"
        f"<section><h2>What this can and cannot say</h2>{says}</section>"
        f"<section><h2>Samples</h2><div class='sheets'>{sheets}</div></section></main></html>\n"
    )


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
