"""The distant targets of AdaFM's studies: emoji, which share no shapes with letters, in colour, and scans in grey.

    apt-get install fonts-noto-color-emoji
    pip install scikit-learn
    python benchmarks/adafm_targets.py data

writes, 32 px on white, without labels:

- ``data/emoji/{train,val,test}/<code point>.png``: the single-character emoji of Noto Color Emoji (SIL Open Font
  License), 1,000 to train on, the others half and half for choosing and reporting; an order drawn once decides;
- ``data/faces/<code point>.png``: the faces among them, all 111: too few to hold any back, so that a study on them
  measures against the training images, as the paper does;
- ``data/scans/{train,val,test}/<number>.png``: scikit-learn's 1,797 handwritten digits in one channel, from 8 px.
"""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the one size of the font's bitmaps
RANGES = ((0x1F300, 0x1FAFF), (0x2600, 0x27BF))
FACES = ((0x1F600, 0x1F644), (0x1F910, 0x1F917), (0x1F920, 0x1F92F), (0x1F970, 0x1F97A), (0x1FAE0, 0x1FAE6))
SIZE = 32
TRAIN = 1000


def draw(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """RGB [SIZE, SIZE] on white, the emoji as large as fits; None where the font has only an outline or nothing."""
    sheet = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(sheet).text((10, 10), character, font=font, embedded_color=True)
    pixels = np.asarray(sheet).astype(int)
    ink = (pixels < 250).any(2)
    if ink.sum() < 500 or (pixels.max(2) - pixels.min(2))[ink].mean() < 8:  # a missing glyph's box is black
        return None
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    found = sheet.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    side = max(found.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(found, ((side - found.width) // 2, (side - found.height) // 2))
    return square.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def write(folder: Path, images: dict[str, Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    print(f"{folder}: {len(images)} images")


def split(folder: Path, images: dict[str, Image.Image]) -> None:
    """TRAIN images to train on, the others half and half."""
    order = np.random.RandomState(0).permutation(sorted(images))
    middle = TRAIN + (len(order) - TRAIN) // 2
    for part, mine in (("train", order[:TRAIN]), ("val", order[TRAIN:middle]), ("test", order[middle:])):
        write(folder / part, {name: images[name] for name in mine})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--font", type=Path, default=FONT)
    arguments = parser.parse_args()
    font = ImageFont.truetype(str(arguments.font), STRIKE)
    emoji = {}
    for low, high in RANGES:
        for code in range(low, high + 1):
            if unicodedata.category(chr(code)) != "Cn" and (image := draw(font, chr(code))) is not None:
                emoji[f"{code:05x}"] = image
    split(arguments.out / "emoji", emoji)
    faces = {f"{code:05x}" for low, high in FACES for code in range(low, high + 1)}
    write(arguments.out / "faces", {name: emoji[name] for name in sorted(faces & emoji.keys())})
    scans = {}
    for number, image in enumerate(load_digits().images):
        ink = Image.fromarray((255 - image * 255 / 16).round().astype(np.uint8))
        scans[f"{number:04d}"] = ink.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    split(arguments.out / "scans", scans)


if __name__ == "__main__":
    main()
