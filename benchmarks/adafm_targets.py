"""The distant targets of AdaFM's studies: emoji, which share no shapes with letters, in colour.

    apt-get install fonts-noto-color-emoji
    python benchmarks/adafm_targets.py data

writes ``data/{emoji,faces}/{train,val,test}/<kind>/<code point>.png``, 32 px on white, of the single-character emoji
of Noto Color Emoji (SIL Open Font License): all of them, 1,000 to train on, and the faces alone, 64 to train on; the
others half and half for choosing and reporting. An order drawn once decides which is which. The grey target is the same
images, read in grey (field ``grey`` of the method).
"""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the one size of the font's bitmaps
RANGES = ((0x1F300, 0x1FAFF), (0x2600, 0x27BF))
FACES = ((0x1F600, 0x1F644), (0x1F910, 0x1F917), (0x1F920, 0x1F92F), (0x1F970, 0x1F97A), (0x1FAE0, 0x1FAE6))
SIZE = 32
TRAIN = {"emoji": 1000, "faces": 64}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--font", type=Path, default=FONT)
    arguments = parser.parse_args()
    font = ImageFont.truetype(str(arguments.font), STRIKE)
    images = {}
    for low, high in RANGES:
        for code in range(low, high + 1):
            if unicodedata.category(chr(code)) != "Cn" and (image := draw(font, chr(code))) is not None:
                images[code] = image
    faces = {code for low, high in FACES for code in range(low, high + 1)}
    for kind, codes in (("emoji", sorted(images)), ("faces", sorted(faces & images.keys()))):
        order, first = np.random.RandomState(0).permutation(codes), TRAIN[kind]
        middle = first + (len(order) - first) // 2
        for part, mine in (("train", order[:first]), ("val", order[first:middle]), ("test", order[middle:])):
            folder = arguments.out / kind / part  # flat: there is one kind of image, and no label
            folder.mkdir(parents=True, exist_ok=True)
            for code in mine:
                images[code].save(folder / f"{code:05x}.png")
            print(f"{folder}: {len(mine)} images")


if __name__ == "__main__":
    main()
