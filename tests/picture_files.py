"""Small image files, folders and archives for the tests of the data layer."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

Members = dict[str, bytes]


def png(value: int | np.ndarray, size: tuple[int, int] = (8, 8), mode: str = "L", **options) -> bytes:
    """A PNG of one value, or of an array."""
    image = Image.fromarray(value) if isinstance(value, np.ndarray) else Image.new(mode, size, value)
    return save(image, "PNG", **options)


def save(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noise(seed: int, height: int = 8, width: int = 8, channels: int = 1) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tree(root: Path, members: Members) -> Path:
    """Write members as files below `root`."""
    for name, content in members.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def packed(path: Path, members: Members) -> Path:
    """Write members as a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def letters(counts: dict[str, int], prefix: str = "") -> Members:
    """Different noise images: `counts` of each class."""
    names = [f"{prefix}{name}/{i:02d}.png" for name, count in counts.items() for i in range(count)]
    return {name: png(noise(sum(name.encode()) * 1000 + i)) for i, name in enumerate(names)}
