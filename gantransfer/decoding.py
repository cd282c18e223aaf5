"""From the bytes of one image file to uint8 pixels: every mode, every depth, and what was done to get there.

Pillow alone would saturate 16-bit images, blacken float ones, ignore the camera's rotation and drop transparency, all
without a word; here each is converted properly and named in a note.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

FITS = ("crop", "pad", "stretch")
# Formats whose decoders do nothing but decode (EPS, for one, would start another program).
FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "TGA",
    "JPEG2000",
    "AVIF",
)
MAX_PIXELS = 89_478_485  # Pillow's own warning level, here an error: 256 MiB as RGB
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_WHITE = 255


class BadImage(Exception):
    """A file that cannot be used; the message is the reason, without the file's name."""


def _open(content: bytes) -> Image.Image:
    """Open without decoding; limits are checked on the header.

    Raises:
        BadImage: empty, not an image, too large.
    """
    if not content:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage(f"more than {MAX_PIXELS} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise BadImage("not an image that can be read") from error
    except Exception as error:  # a decoder may raise anything at all on broken input
        raise BadImage(f"broken header ({_short(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
    return image


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__


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
        if getattr(image, "is_animated", False):
            notes.append("more than one frame: the first is used")
        image.load()
        if image.getexif().get(0x0112, 1) != 1:
            image = ImageOps.exif_transpose(image)
            notes.append("rotated as its EXIF says")
        image, how = _to_eight_bits(image)
    except BadImage:
        raise
    except Exception as error:  # truncated files raise OSError, broken ones anything
        raise BadImage(f"truncated or broken ({_short(error)})") from error
    return image, mode, notes + how


def _to_eight_bits(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Any mode to L or RGB, and what was done if it was more than a change of name."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image, []
    if mode == "1":
        return image.convert("L"), []
    if mode == "F" or mode == "I" or mode.startswith("I;"):
        return _scale_deep(np.asarray(image), mode)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        opaque = image.getchannel("A").getextrema() == (_WHITE, _WHITE)
        page = Image.new("RGBA", image.size, (_WHITE,) * 4)
        image = Image.alpha_composite(page, image).convert("L" if grey else "RGB")
        return image, [] if opaque else ["transparency composited on white"]
    if mode == "P":
        return image.convert("RGB"), []
    return image.convert("RGB"), [f"{mode} converted to RGB"]


def _scale_deep(values: np.ndarray, mode: str) -> tuple[Image.Image, list[str]]:
    """16-bit, 32-bit and float grey values to 0..255 without saturation."""
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all() or not np.isfinite(values).all():
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
        scaled, note = (values - low) * (255 / (high - low)), "values scaled from the image's own minimum and maximum"
    return Image.fromarray(np.round(scaled).astype(np.uint8)), [note]


def fit_image(image: Image.Image, size: int, fit: str, channels: int) -> np.ndarray:
    """Image of mode L or RGB to uint8 [channels, size, size].

    `fit`: "crop" scales the short side to `size` and cuts the middle; "pad" scales the long side and fills with
    white; "stretch" scales both sides. An image that is size x size already keeps its pixels.
    """
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        side = {"crop": min(image.size), "pad": max(image.size)}.get(fit)
        width, height = (size, size) if side is None else (max(1, round(s * size / side)) for s in image.size)
        if (width, height) != image.size:
            smaller = width < image.width
            method = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
            image = image.resize((width, height), method)
        if (width, height) != (size, size):
            page = Image.new(image.mode, (size, size), _WHITE if channels == 1 else (_WHITE,) * 3)
            page.paste(image, ((size - width) // 2, (size - height) // 2))
            image = page
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
