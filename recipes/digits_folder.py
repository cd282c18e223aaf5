"""Write scikit-learn's handwritten digits as an image folder, an example of somebody's own data.

    pip install scikit-learn
    python recipes/digits_folder.py digits --classes 0,1,2,3,4

gives ``digits/<class>/<number>.png``: 8x8 scans enlarged to 32x32, dark ink on white; about 180 images per class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", default="0,1,2,3,4")
    arguments = parser.parse_args()
    digits = load_digits()
    wanted = {int(c) for c in arguments.classes.split(",")}
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if label in wanted:
            folder = arguments.out / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            ink = (255 - image * 255 / 16).round().astype(np.uint8)
            Image.fromarray(ink).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.png")


if __name__ == "__main__":
    main()
