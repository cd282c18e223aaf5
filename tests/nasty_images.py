"""Image files as nobody wants them: good ones that readers get wrong, broken ones, hostile names, bombs."""

from __future__ import annotations

import functools
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from picture_files import noise, png, save
from PIL import Image

RAMP = np.tile(np.linspace(0, 65535, 8), (8, 1)).astype(np.uint16)
LEFT_DARK = [0] * 4 + [255] * 4
EIGHT = np.round(np.linspace(0, 255, 8)).astype(int).tolist()


@dataclass(frozen=True)
class Good:
    """A readable file: what the first row of its middle square at 8 x 8 is as grey, and words of the scan's note."""

    content: bytes
    row: list[int]
    note: str | None = None
    within: int = 1  # how far a lossy format may be off


def turned(form: str, **options) -> bytes:
    """Left half black, stored turned by 90 degrees with an EXIF tag that says so."""
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, 0)).resize((8, 8), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(image.transpose(Image.Transpose.ROTATE_90), form, exif=exif, **options)


def half_transparent() -> Image.Image:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    return image


def numbers(low: float, high: float, kind: type = np.float32) -> bytes:
    return save(Image.fromarray(np.tile(np.linspace(low, high, 8), (8, 1)).astype(kind)), "TIFF")


def frames(form: str, **options) -> bytes:
    return save(Image.new("L", (8, 8), 5), form, save_all=True, append_images=[Image.new("L", (8, 8), 99)], **options)


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, before: bytes = b"") -> bytes:
    """A PNG from its parts; `rows` are filtered scanlines."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def _sixteen_bit(channels: int) -> bytes:
    """Scanlines of `RAMP` in so many equal channels; the last of four is full opacity."""
    values = np.repeat(RAMP[..., None], channels, 2)
    if channels in (2, 4):
        values[..., -1] = 65535
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


@functools.cache
def good_files() -> dict[str, Good]:
    grey = Image.new("RGB", (8, 8), (99, 99, 99))
    palette = Image.new("RGB", (8, 8), (0, 0, 255)).quantize(4)
    return {
        "plain.png": Good(png(7), [7] * 8),
        "bilevel.png": Good(save(Image.new("1", (8, 8), 1), "PNG"), [255] * 8),
        "exif.png": Good(turned("PNG"), LEFT_DARK, "EXIF"),
        "exif.jpg": Good(turned("JPEG", quality=100), LEFT_DARK, "EXIF", 4),
        "exif.webp": Good(turned("WEBP", lossless=True), LEFT_DARK, "EXIF"),
        "rgba.png": Good(save(half_transparent(), "PNG"), LEFT_DARK, "transparency composited"),
        "opaque-rgba.png": Good(save(Image.new("RGBA", (8, 8), (0, 0, 0, 255)), "PNG"), [0] * 8),
        "la.png": Good(save(half_transparent().convert("LA"), "PNG"), LEFT_DARK, "transparency composited"),
        "palette.png": Good(save(palette, "PNG"), [29] * 8),
        "palette-transparent.png": Good(save(half_transparent().quantize(), "PNG"), LEFT_DARK,
                                        "transparency composited"),
        "transparent.gif": Good(save(half_transparent(), "GIF"), LEFT_DARK, "transparency composited"),
        "transparent-grey.png": Good(png(9, transparency=9), [255] * 8, "transparency composited"),
        "16.png": Good(save(Image.fromarray(RAMP), "PNG"), EIGHT, "16-bit values scaled"),
        "16.tif": Good(save(Image.fromarray(RAMP), "TIFF"), EIGHT, "16-bit values scaled"),
        "16-big-endian.tif": Good(save(Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes()), "TIFF"), EIGHT,
                                  "16-bit values scaled"),
        "16.pgm": Good(b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes(), EIGHT, "16-bit values scaled"),
        "16-rgb.png": Good(raw_png(8, 8, 16, 2, _sixteen_bit(3)), EIGHT),
        "16-rgba.png": Good(raw_png(8, 8, 16, 6, _sixteen_bit(4)), EIGHT),
        "16-la.png": Good(raw_png(8, 8, 16, 4, _sixteen_bit(2)), EIGHT),
        "32.tif": Good(save(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), EIGHT, "16-bit values scaled"),
        "32-negative.tif": Good(numbers(-70000, 70000, np.int32), EIGHT, "minimum and maximum"),
        "float.tif": Good(numbers(0, 1), EIGHT, "scaled from 0..1"),
        "float-negative.tif": Good(numbers(-3, 5), EIGHT, "minimum and maximum"),
        "float-large.tif": Good(numbers(0, 1e30), EIGHT, "minimum and maximum"),
        "cmyk.tif": Good(save(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"), [255] * 8, "CMYK converted"),
        "cmyk.jpg": Good(save(Image.new("CMYK", (8, 8), (0, 0, 0, 128)), "JPEG"), [127] * 8, "CMYK converted", 3),
        "ycbcr.jpg": Good(save(grey, "JPEG"), [99] * 8),
        "progressive.jpg": Good(save(grey, "JPEG", progressive=True), [99] * 8),
        "animated.gif": Good(frames("GIF"), [5] * 8, "first is used"),
        "animated.png": Good(frames("PNG"), [5] * 8, "first is used"),
        "animated.webp": Good(frames("WEBP", lossless=True), [5] * 8, "first is used"),
        "pages.tif": Good(frames("TIFF"), [5] * 8, "first is used"),
        "lossless.webp": Good(save(Image.new("RGB", (8, 8), (50, 50, 50)), "WEBP", lossless=True), [50] * 8),
        "wrong-suffix.jpg": Good(png(31), [31] * 8),
        "1x1.png": Good(png(77, (1, 1)), [77] * 8),
        "20000x1.png": Good(png(60, (20000, 1)), [60] * 8),
        "1x20000.bmp": Good(save(Image.new("L", (1, 20000), 61), "BMP"), [61] * 8),
    }


HOSTILE_NAMES = (
    "line\nbreak.png", "quote'\"quote.png", "<script>alert(1)<.png", "&lt;b&gt;.png", "\x1b[31mred\x1b[0m.png",
    "right\u202eto-left.png", "line\u2028separator.png", "-rf.png", "a b\tc.png", "%s {0} $(id) `id`.png",
    "\u00e9\u0416\U0001f600.png", "n" * 240 + ".png", "a..png.png", "$HOME~.png",
)
NOT_UNICODE = b"caf\xe9-\xff.png"  # as a folder of another decade has it


def bomb_png() -> bytes:
    """60000 x 60000 pixels by its header."""
    return raw_png(60000, 60000, 8, 0, b"\0" * 100)


def text_bomb() -> bytes:
    """A small picture with a comment that unpacks to 200 MB."""
    pump, parts = zlib.compressobj(9), []
    for _ in range(200):
        parts.append(pump.compress(bytes(1 << 20)))
    return raw_png(8, 8, 8, 0, b"\0" * 72, chunk(b"zTXt", b"c\0\0" + b"".join(parts) + pump.flush()))


def _tiff(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value)."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following)


@functools.cache
def bad_files() -> dict[str, tuple[bytes, str]]:
    """Content, and words of the reason why it cannot be used."""
    picture = Image.fromarray(noise(0, 64, 64))
    whole = {form: save(picture, form) for form in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")}
    crc = bytearray(whole["PNG"])
    crc[29] ^= 0xFF
    late = bytearray(whole["PNG"])
    late[len(late) // 2] ^= 0xFF
    huge_gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + whole["GIF"][10:]
    huge_bmp = whole["BMP"][:18] + struct.pack("<ii", 50000, 50000) + whole["BMP"][26:]
    huge_tif = _tiff([(256, 4, 1, 100000), (257, 4, 1, 100000), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8),
                      (277, 3, 1, 1), (278, 4, 1, 100000), (279, 4, 1, 10)])
    frame = whole["JPEG"].index(b"\xff\xc0") + 5
    huge_jpg = whole["JPEG"][:frame] + struct.pack(">HH", 65000, 65000) + whole["JPEG"][frame + 4 :]
    cut = "truncated or broken|not an image|broken header"
    return {
        "empty.png": (b"", "empty file"),
        "text.png": (b"this is no image", "not an image"),
        "page.jpg": (b"<html><script>alert(1)</script></html>", "not an image"),
        "zeros.png": (bytes(5000), "not an image|broken header"),
        "archive.png": (b"PK\x03\x04" + bytes(60), "not an image"),
        "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>", "not an image"),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image"),
        "document.png": (b"%PDF-1.7\n", "not an image"),
        "header-alone.png": (whole["PNG"][:33], cut),
        "crc.png": (bytes(crc), cut),
        "late.png": (bytes(late), "truncated or broken"),
        **{f"truncated.{form.lower()}": (content[: len(content) // 2], cut) for form, content in whole.items()},
        "bomb.png": (bomb_png(), "pixels"),
        "bomb.gif": (huge_gif, "pixels"),
        "bomb.bmp": (huge_bmp, "pixels"),
        "bomb.tif": (huge_tif, "pixels"),
        "bomb.jpg": (huge_jpg, "pixels"),
        "comment-bomb.png": (text_bomb(), "truncated or broken|broken header"),
        "loop.tif": (_tiff([(256, 4, 1, 8)], 8), cut),
        "nan.tif": (save(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "not finite"),
        "inf.tif": (save(Image.fromarray(np.full((8, 8), np.inf, np.float32)), "TIFF"), "not finite"),
    }
