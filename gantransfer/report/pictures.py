"""Cut the cells out of the run's PNG grids and turn them into data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, ImageChops

SHOWN_PX = 64  # edge of a cell on the page; small images grow by a whole factor up to it
JPEG_FROM = 6000  # bytes of PNG above which a colour photograph is stored as JPEG


def shown_px(edge: int, target: int = SHOWN_PX) -> int:
    """Edge on the page in CSS pixels: a whole multiple of small images, so that pixels stay square."""
    return edge * (target // edge) if edge <= target else target


def style(edge: int) -> str:
    """CSS for a cell of `edge` px: its size on the page; sharp pixels when enlarged, smooth when reduced."""
    return f"--d:{shown_px(edge)};--r:{'auto' if edge > SHOWN_PX else 'pixelated'}"


def geometry(width: int, height: int, columns: int | None, rows: int) -> tuple[int, int, int] | None:
    """(columns, pitch, pad) of a grid of square cells, each `pitch` - `pad` wide, with a border of `pad`.

    width = columns * pitch + pad and height = rows * pitch + pad; two equations give pitch and pad, and where
    columns equal rows, or their number is unknown, the writer's border of 2 (else none) is assumed.
    None when no whole numbers fit, as for a picture that is not such a grid.
    """
    if rows < 1 or width < 1 or height < 1 or (columns is not None and columns < 1):
        return None
    if columns is not None and columns != rows:
        pitch, rest = divmod(width - height, columns - rows)
        pad = width - columns * pitch
        fits = rest == 0 and 0 <= pad < pitch
        return (columns, pitch, pad) if fits else None
    for pad in (2, 0):
        pitch, rest = divmod(height - pad, rows)
        if rest == 0 and pitch > pad and (width - pad) % pitch == 0:
            found = (width - pad) // pitch
            if columns in (None, found):
                return found, pitch, pad
    return None


def cut(picture: Image.Image, columns: int | None, rows: int) -> list[list[Image.Image]]:
    """The cells of a grid, row by row; an empty list when the picture does not have that geometry."""
    found = geometry(picture.width, picture.height, columns, rows)
    if found is None:
        return []
    columns, pitch, pad = found
    edge = pitch - pad
    return [
        [picture.crop((x, y, x + edge, y + edge)) for x in range(pad, pad + columns * pitch, pitch)]
        for y in range(pad, pad + rows * pitch, pitch)
    ]


@dataclass(frozen=True)
class Detail:
    """How much of large pictures is kept: longest edge in px, JPEG quality."""

    edge: int
    quality: int


DETAILS = (Detail(96, 88), Detail(64, 80), Detail(48, 65))  # the first that keeps the page small enough


def data_uri(image: Image.Image, detail: Detail = DETAILS[0]) -> str:
    """The image as ``data:image/...;base64,``: PNG; large ones are reduced, colour ones as JPEG."""
    if max(image.size) > detail.edge:
        scale = detail.edge / max(image.size)
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
            Image.Resampling.LANCZOS,
        )
    if image.mode == "RGB" and _is_grey(image):
        image = image.getchannel(0)
    payload, kind = _encoded(image, "PNG", optimize=True), "png"
    if image.mode == "RGB" and len(payload) > JPEG_FROM:
        payload, kind = _encoded(image, "JPEG", quality=detail.quality, subsampling=0, optimize=True), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(payload).decode('ascii')}"


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return not (ImageChops.difference(red, green).getbbox() or ImageChops.difference(red, blue).getbbox())


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
