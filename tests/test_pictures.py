"""The animated grids of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import make_source

from gantransfer.errors import OutputError
from gantransfer.pictures import ANIMATED_PX, CAPTION_PX, COLUMNS, adaptation, class_grid
from gantransfer.report.reading import RunFiles
from gantransfer.report.sections import LARGEST_ANIMATION, animation


def frames(path: Path) -> list[Image.Image]:
    with Image.open(path) as picture:
        found = []
        for i in range(picture.n_frames):
            picture.seek(i)
            found.append(picture.convert("RGB").copy())
        return found


def grids(folder: Path, steps: tuple[int, ...] = (0, 1, 2, 16)) -> Path:
    folder.mkdir(parents=True)
    for step in steps:
        class_grid(make_source("tables", step).generator, folder / f"step-{step:06d}.png")
    return folder


def test_every_recorded_step_is_a_frame_in_order(tmp_path: Path) -> None:
    samples = grids(tmp_path / "run" / "samples")
    (samples / "after.png").write_bytes((samples / "step-000016.png").read_bytes())
    adaptation(samples)
    found = frames(samples / "adaptation.webp")
    with Image.open(samples / "step-000000.png") as first, Image.open(samples / "step-000016.png") as last:
        assert len(found) == 4 and found[0].size == (first.width, first.height + CAPTION_PX)
        for frame, grid in ((found[0], first), (found[-1], last)):
            a, b = (torch.frombuffer(bytearray(p.convert("L").tobytes()), dtype=torch.uint8).float()
                    for p in (frame.crop((0, 0, *grid.size)), grid))
            assert (a - b).abs().mean() < 12
    caption = found[0].crop((0, found[0].height - CAPTION_PX, *found[0].size)).convert("L")
    assert caption.getextrema() == (0, 255) or caption.getextrema()[0] < 60


def test_large_grids_are_cut_to_whole_cells(tmp_path: Path) -> None:
    for step in (0, 1):
        Image.new("L", (COLUMNS * 130 + 2, 20 * 130 + 2)).save(tmp_path / f"step-{step:06d}.png")
    adaptation(tmp_path)
    side = ANIMATED_PX // 130 * 130 + 2
    assert frames(tmp_path / "adaptation.webp")[0].size == (side, side + CAPTION_PX)


def test_nothing_without_grids_and_an_error_where_nothing_can_be_written(tmp_path: Path) -> None:
    adaptation(tmp_path)
    assert not list(tmp_path.iterdir())
    samples = grids(tmp_path / "samples", (0,))
    (samples / "adaptation.webp").mkdir()
    with pytest.raises(OutputError, match=r"adaptation\.webp"):
        adaptation(samples)


def test_the_report_holds_it_unless_it_is_large(tmp_path: Path) -> None:
    adaptation(grids(tmp_path / "samples"))
    found = animation(RunFiles(tmp_path))
    assert found["file"] == "samples/adaptation.webp" and found["uri"].startswith("data:image/webp;base64,")
    (tmp_path / "samples" / "adaptation.webp").write_bytes(bytes(LARGEST_ANIMATION + 1))
    assert animation(RunFiles(tmp_path)) == {"file": "samples/adaptation.webp", "uri": ""}
    assert animation(RunFiles(tmp_path / "samples")) is None
