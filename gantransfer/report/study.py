"""The page of a preference study: one self-contained HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gantransfer.errors import writing

HERE = Path(__file__).parent
SHOWN_PX = 320  # least edge of an image on a wide screen


def write_study(study: Mapping[str, Any], edge: int, path: Path) -> Path:
    """Write the page to `path` and return it.

    Args:
        study: JSON-ready {id, a, b, n, question, pairs [{class, left, right (data URIs), first ("A" or "B": whose the
            left one is)}]}; ``<class>`` in the question stands for the pair's.
        edge: of the images in pixels; small ones are shown enlarged by whole factors, with sharp pixels.

    Raises:
        OutputError: it cannot be written.
    """
    import jinja2

    script = (HERE / "study.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    # Inside a script element only "<" could end it.
    content = json.dumps(study, ensure_ascii=False).replace("<", "\\u003c")
    page = environment.get_template("study.html").render(
        study=content, script=script, digest=digest, style=(HERE / "style.css").read_text(encoding="utf-8"),
        n=study["n"], px=edge * max(SHOWN_PX // edge, 1), rendering="pixelated" if edge < SHOWN_PX else "auto",
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path
