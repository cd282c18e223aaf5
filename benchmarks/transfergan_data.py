"""Images without labels for TransferGAN's unconditional sources: 100 faces of every letter of the class set source80.

    python benchmarks/transfergan_data.py glyph100.zip data/letters.zip

writes 8,000 PNGs, 32 px, one after another: a flat archive, which names no classes.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

from PIL import Image

from gantransfer.data import ImageData

PER_CLASS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    data = ImageData(arguments.data, size=32, channels=1, classes="source80", per_class=PER_CLASS)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(arguments.out, "w") as archive:
        for number, image in enumerate(data.images()):
            content = io.BytesIO()
            Image.fromarray(image[0].numpy()).save(content, "PNG")
            archive.writestr(f"{number:04}.png", content.getvalue())
    print(f"{len(data)} images in {arguments.out}")


if __name__ == "__main__":
    main()
