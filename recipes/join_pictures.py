r"""Pictures of runs in one: side by side, or one below the other. README's and RESULTS' are made so.

    python recipes/join_pictures.py runs/demo/samples/before.png runs/demo/samples/after.png \
        runs/demo/samples/real.png --out docs/demo.png
    python recipes/join_pictures.py results/papers/small/one-д/*-seed0/samples/after.png --down --scale 3 --gap 24 \
        --out one-letter.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image


def join(files: list[Path], down: bool, scale: int, gap: int) -> Image.Image:
    """The pictures, `scale` times as large, with `gap` white pixels between them; grey if all are."""
    parts = [Image.open(file) for file in files]
    mode = "L" if all(part.mode == "L" for part in parts) else "RGB"
    parts = [p.convert(mode).resize((p.width * scale, p.height * scale), Image.Resampling.NEAREST) for p in parts]
    widths, heights = [p.width for p in parts], [p.height for p in parts]
    between = gap * (len(parts) - 1)
    size = (max(widths), sum(heights) + between) if down else (sum(widths) + between, max(heights))
    sheet, at = Image.new(mode, size, "white"), 0
    for part in parts:
        sheet.paste(part, (0, at) if down else (at, 0))
        at += gap + (part.height if down else part.width)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--down", action="store_true", help="one below the other")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--gap", type=int, default=48, help="pixels")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    sheet = join(a.files, a.down, a.scale, a.gap)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(a.out, optimize=True)
    print(f"{a.out}: {sheet.width} x {sheet.height} px, {a.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
