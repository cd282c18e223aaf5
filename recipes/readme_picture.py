"""The README's picture, from a demo run: before, after and training images, one class per row.

    gantransfer demo && python recipes/readme_picture.py runs/demo docs/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

SCALE, GAP = 2, 48


def main(run: Path, out: Path) -> None:
    parts = [Image.open(run / "samples" / f"{name}.png").convert("L") for name in ("before", "after", "real")]
    parts = [p.resize((p.width * SCALE, p.height * SCALE), Image.Resampling.NEAREST) for p in parts]
    sheet = Image.new("L", (sum(p.width for p in parts) + GAP * (len(parts) - 1), parts[0].height), 255)
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + GAP
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)
    print(f"{out}: {sheet.width} x {sheet.height} px, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
