"""Hostile and broken image files: the corpus of the tests in a folder and in a zip, and thousands of damaged copies."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from nasty_images import HOSTILE_NAMES, bad_files, good_files
from picture_files import packed, tree

from gantransfer.data import ImageData
from gantransfer.decoding import BadImage, decode, fit_image
from gantransfer.errors import DataError
from torture.fuzz import mutated

SLOWEST = 10.0  # seconds one file may take


def torture(folder: Path, damaged: int = 20_000, seed: int = 0) -> dict[str, Any]:
    """Figures of the whole corpus and of so many `damaged` copies of its files."""
    began, good, bad = time.perf_counter(), good_files(), bad_files()
    members = {f"a/{name}": file.content for name, file in good.items()} | {f"a/{n}": c for n, (c, _) in bad.items()}
    members |= {f"<script>\n/{name}": good["plain.png"].content for name in HOSTILE_NAMES}
    for path in (tree(folder / "files", members), packed(folder / "files.zip", members)):
        try:
            ImageData(path, size=8)
            raise AssertionError("bad files were taken")
        except DataError as error:
            assert {item["path"] for item in error.report["bad"]} == {f"a/{name}" for name in bad}
        data = ImageData(path, size=8, on_bad="skip")
        assert len(data) == len(members) - len(bad)
        for name, image in zip(data.paths, data.images(), strict=True):
            row = good[name.removeprefix("a/")].row if name.startswith("a/") else good["plain.png"].row
            within = good[name.removeprefix("a/")].within if name.startswith("a/") else 0
            grey = image.numpy().astype(int).mean(0)[0]
            assert name == "a/palette.png" or np.abs(grey - row).max() <= within, name
    readable, slowest = _damaged([f.content for f in good.values()] + [c for c, _ in bad.values()], damaged,
                                 random.Random(seed))
    tried = 2 * len(members) + damaged
    return {"faults": tried, "survived": tried, "files": len(members), "bad_files": len(bad), "damaged": damaged,
            "damaged_but_readable": readable, "slowest_file_seconds": round(slowest, 3),
            "seconds": round(time.perf_counter() - began, 1)}


def _damaged(seeds: list[bytes], count: int, rng: random.Random) -> tuple[int, float]:
    """How many of so many damaged files are still read, and how long the slowest took."""
    seeds, readable, slowest = [seed for seed in seeds if len(seed) < 20_000 and seed], 0, 0.0
    for _ in range(count):
        content, began = mutated(seeds, rng), time.perf_counter()
        try:
            assert fit_image(decode(content)[0], 8, "pad", 3).shape == (3, 8, 8)
            readable += 1
        except BadImage:
            pass
        slowest = max(slowest, time.perf_counter() - began)
        assert slowest < SLOWEST, "a damaged file takes too long"
    return readable, slowest
