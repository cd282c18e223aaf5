"""The targets of MineGAN's studies with several sources: 200 images of two kinds of glyphs, in given ratios.

    python benchmarks/minegan_targets.py glyph100.zip data/minegan

writes ``data/minegan/<kind>-<n>-<kind>-<n>/{train,val,test}/all/<number>.png``: each part has the ratio, three
glyphs of a kind take turns, and no image is in two parts. The sources know ten or fifteen glyphs of their kind: the
target is a part of what they draw, which miners must find.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from gantransfer.data import ImageData

# Of what each source knows, what its targets show: glyphs of which no other source has a look-alike (8 passes for B, 0
# for D and O), else the true shares of a target would be a matter of taste.
SHOWN = {"latin": list("HKM"), "digits": list("247"), "greek": list("δξψ"), "cyrillic": list("ЖЩЮ")}
TARGETS = [("latin", 200, "digits", 0), ("latin", 150, "digits", 50), ("latin", 100, "digits", 100),
           ("latin", 50, "digits", 150), ("latin", 0, "digits", 200), ("greek", 100, "cyrillic", 100)]
PARTS = ("train", "val", "test")


def turns(data: ImageData, seed: int) -> list[int]:
    """All images, one of each class in turn, each class in an order of its own."""
    rng = torch.Generator().manual_seed(seed)
    columns = []
    for label in range(len(data.classes)):
        mine = (data.labels == label).nonzero().squeeze(1)
        columns.append(mine[torch.randperm(len(mine), generator=rng)])
    return torch.stack(columns, 1).flatten().tolist()


def write(data: dict[str, ImageData], target: tuple[str, int, str, int], out: Path) -> None:
    """One target's three parts."""
    for kind, count in (target[:2], target[2:]):
        order = turns(data[kind], 0)
        for number, part in enumerate(PARTS):
            folder = out / "-".join(map(str, target)) / part / "all"
            folder.mkdir(parents=True, exist_ok=True)
            mine = order[number * count : (number + 1) * count]
            for place, image in zip(mine, data[kind].images(mine) if mine else (), strict=True):
                Image.fromarray(image[0].numpy()).save(folder / f"{kind}-{place:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    data = {kind: ImageData(arguments.data, size=32, channels=1, classes=names)
            for kind, names in SHOWN.items()}
    for target in TARGETS:
        write(data, target, arguments.out)


if __name__ == "__main__":
    main()
