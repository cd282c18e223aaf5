"""From the bytes of one image file to uint8 pixels: every mode, every depth, and what was done to get there.

Pillow alone would saturate 16-bit images, blacken float ones, ignore the camera's rotation and drop
transparency, all without a word; here each is converted properly and named in a note.
"""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
from PIL import Image

from gantransfer.errors import first_line

FITS = ("crop", "pad", "stretch")
# Decoders that do nothing but decode (EPS, for one, would start another program).
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
MAX_PIXELS = 89_478_485  # Pillow's warning level, here an error: 256 MiB as RGB
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_WHITE = 255
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """A file that cannot be used; the message is the reason, without the file's name."""


@functools.cache
def _formats() -> list[str]:
    """Those of the formats that this Pillow was built with."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _open(content: bytes) -> Image.Image:
    """Open without decoding; limits are checked on the header.

    Raises:
        BadImage: empty, not an image, too large.
    """
    if not content:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit follows
            image = Image.open(io.BytesIO(content), formats=_formats())
    except Image.UnidentifiedImageError as error:
        raise BadImage("not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # a decoder may raise anything at all on broken input
        raise BadImage(f"broken header ({first_line(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
    return image


def probe(content: bytes) -> tuple[int, int, bool]:
    """(width, height, is grey) from the header alone.

    Raises:
        BadImage: not an image.
    """
    image = _open(content)
    return image.width, image.height, image.mode in _GREY_MODES or image.mode.startswith("I;16")


def decode(content: bytes) -> tuple[Image.Image, str, list[str]]:
    """Decode an image file.

    Returns:
        (image, mode, notes): the image as mode L or RGB; the file's own mode; what was done besides decoding.

    Raises:
        BadImage: empty, truncated, broken, too large, or not an image.
    """
    image = _open(content)
    mode, notes = image.mode, []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, which is not used
            if getattr(image, "is_animated", False):
                notes.append("more than one frame, the first is used")
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            if turn is not None:
                image = image.transpose(turn)
                notes.append("rotated as its EXIF says")
            image, how = _to_eight_bits(image)
    except BadImage:
        raise
    except Exception as error:  # truncated files raise OSError, broken ones anything
        raise BadImage(f"truncated or broken ({first_line(error)})") from error
    return image, mode, notes + how


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it is unreadable: the pixels are still good."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _to_eight_bits(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Any mode to L or RGB, and what was done if it changes values."""
    mode = image.mode
    if mode in ("F", "I") or mode.startswith("I;"):
        return _scale_deep(np.asarray(image), mode)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = mode in ("1", "L", "LA", "La")
        image = (image.convert("LA") if mode == "La" else image).convert("RGBA")
        opaque = image.getchannel("A").getextrema() == (_WHITE, _WHITE)
        page = Image.new("RGBA", image.size, (_WHITE,) * 4)
        image = Image.alpha_composite(page, image).convert("L" if grey else "RGB")
        return image, [] if opaque else ["transparency composited on white"]
    if mode in ("1", "L"):
        return image.convert("L"), []
    return image.convert("RGB"), [] if mode in ("RGB", "P") else [f"{mode} converted to RGB"]


def _scale_deep(values: np.ndarray, mode: str) -> tuple[Image.Image, list[str]]:
    """16-bit, 32-bit and float grey values to 0..255 without saturation."""
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        raise BadImage("holds values that are not finite")
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and 255 < high <= 65535):
        scaled, note = values / 257, "16-bit values scaled to 8 bits"
    elif mode == "I" and low >= 0 and high <= 255:
        scaled, note = values, "32-bit values of 0 to 255 taken as they are"
    elif mode == "F" and low >= 0 and high <= 1:
        scaled, note = values * 255, "float values scaled from 0..1"
    elif low == high:
        scaled, note = np.clip(values, 0, 255), "constant values clipped to 0..255"
    else:
        scaled, note = (values - low) * (255 / (high - low)), "values scaled from each image's minimum and maximum"
    return Image.fromarray(np.round(scaled).astype(np.uint8)), [note]


def fit_image(image: Image.Image, size: int, fit: str, channels: int) -> np.ndarray:
    """Image of mode L or RGB to uint8 [channels, size, size].

    `fit`: "crop" cuts out the middle square; "pad" adds white to make a square; "stretch" ignores proportions. Then
    the square is scaled. An image that is size x size already keeps its pixels.
    """
    image = image.convert("L" if channels == 1 else "RGB")
    if fit == "crop":  # cut before scaling: a long strip would become a huge image otherwise
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    width = height = size
    if fit == "pad":
        width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    if (width, height) != image.size:
        smaller = width < image.width or height < image.height
        method = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
        image = image.resize((width, height), method)
    if (width, height) != (size, size):
        page = Image.new(image.mode, (size, size), _WHITE if channels == 1 else (_WHITE,) * 3)
        page.paste(image, ((size - width) // 2, (size - height) // 2))
        image = page
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
