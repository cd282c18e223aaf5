"""The verb ``sample``: grids, single files (in a folder or a zip) and animations."""

from __future__ import annotations

import contextlib
import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gantransfer.cli.common import use_device
from gantransfer.cli.screen import counter, say
from gantransfer.errors import UsageError, writing

MILLISECONDS = 60  # per frame of an animation
CHUNK = 256  # images computed at a time with --single
FOLDERS = ("single", "augment_to")  # ways of writing a file per image
WIDEST = 32  # columns of a grid with one row per class


def sample(settings: dict[str, Any]) -> None:
    """``gantransfer sample``."""
    from gantransfer import api

    ways = [name for name in ("single", "interpolate", "interpolate_latents", "mix_styles", "augment_to")
            if settings.get(name) not in (None, False)]
    if len(ways) > 1:
        one, other = (way.replace("_", "-") for way in ways[:2])
        raise UsageError(f"--{one} and --{other} cannot go together; choose one")
    if settings.get("style_groups") is not None and not {"mix_styles", "augment_to"} & set(ways):
        raise UsageError("--style-groups belongs to --mix-styles or --augment-to; give one of them too")
    for name, flag, other in (("count", "-n", "mix_styles"), ("seed", "--seed", "mix_styles"),
                              ("count", "-n", "augment_to"), ("columns", "--columns", "mix_styles"),
                              ("columns", "--columns", "augment_to")):
        if ways == [other] and settings.get(name) is not None:
            raise UsageError(f"{flag} {settings[name]} has no meaning beside --{other.replace('_', '-')}, which says "
                             f"what is drawn; leave it out")
    _check(settings)
    default = {"": "samples.png", "single": "samples", "mix_styles": "mixed.png", "augment_to": "augmented"}
    out = Path(settings.get("out", default.get(ways[0] if ways else "", "way.webp")))
    _check_out(out, ways[0] if ways else "")
    device = use_device(settings)
    gan = api.load(settings["model"])
    gan.generator.to(device)
    classes = _classes(settings.get("classes"), gan.classes)
    if not ways:
        _grid(gan, classes, out, settings)
    elif ways == ["single"]:
        _files(gan, classes, out, settings)
    elif ways == ["mix_styles"]:
        _mixed(gan, settings.get("classes"), out, settings)
    elif ways == ["augment_to"]:
        _augmented(gan, classes, out, settings)
    else:
        _animation(gan, classes, out, settings)


def _check(settings: dict[str, Any]) -> None:
    truncation = settings.get("truncation", 1.0)
    if not 0 < truncation <= 1:
        raise UsageError(f"--truncation is {truncation:g}; give more than 0 and at most 1")
    if len(settings.get("interpolate", ("", ""))) != 2:
        raise UsageError(f"--interpolate is '{','.join(settings['interpolate'])}'; give two classes, as in A,B")
    if settings.get("style_groups") == []:
        raise UsageError("--style-groups names no group; give numbers as in 5 or 5,6, or leave it out")
    if len(settings.get("interpolate_latents", (0, 1))) < 2:
        raise UsageError("--interpolate-latents needs at least two seeds, as in 0,1,2")


def _check_out(out: Path, way: str) -> None:
    suffixes = {"": (".png",), "mix_styles": (".png",)}.get(way, () if way in FOLDERS else (".webp",))
    if suffixes and out.suffix.lower() not in suffixes:
        raise UsageError(f"--out is '{out}'; give a name that ends in {suffixes[0]}")
    if way == "augment_to" and out.suffix.lower() == ".zip":
        raise UsageError(f"--out is '{out}', and --augment-to writes a folder per class; give a folder's name")
    if way == "single" and out.suffix.lower() == ".zip":
        if out.is_dir():
            raise UsageError(f"output '{out}' is a folder; give another name for the zip")
    elif way in FOLDERS and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"output '{out}' exists and is not empty; choose another --out")
    if way not in FOLDERS and out.is_dir():
        raise UsageError(f"output '{out}' is a folder; give a file name, or --single")


def _classes(wanted: list[str] | None, names: list[str]) -> list[str | int]:
    """Names where they are names, else class numbers."""
    if wanted is None:
        return list(names)
    if not wanted:
        raise UsageError("--classes names no class; name at least one, or leave it out for all")
    return [int(item) if item not in names and item.isdigit() else item for item in wanted]


def _grid(gan: Any, classes: list[str | int], out: Path, settings: dict[str, Any]) -> None:
    from gantransfer.sampling import grid

    count = settings.get("count") or min(8 * len(classes), 80)
    per_class = -(-count // len(classes))
    columns = settings.get("columns") or _columns(len(classes), per_class, count)
    labels = [classes[i // per_class] for i in range(count)]
    images = gan.sample(count, labels, settings.get("seed", 0), settings.get("truncation", 1.0))
    _write(out, lambda: grid(images, columns, settings.get("scale") or 1).save(out))
    shown = ", ".join(map(str, classes[:12])) + (", ..." if len(classes) > 12 else "")
    say(f"{out}: {count} images, {'one row per class' if columns == per_class else f'{per_class} per class'}: {shown}")


def _columns(classes: int, per_class: int, count: int) -> int:
    """One class per row, or, with many classes, so many beside each other that the sheet is about square."""
    if classes == 1 or per_class > WIDEST:
        return min(count, 8)
    return per_class * max(1, min(round((classes / per_class) ** 0.5), WIDEST // per_class))


def _files(gan: Any, classes: list[str | int], out: Path, settings: dict[str, Any]) -> None:
    """One PNG per image in a folder or a zip, written as they are made: memory does not grow with their number."""
    from gantransfer.sampling import class_ids

    count, written = settings.get("count") or min(8 * len(classes), 80), 0
    names = [re.sub(r"[^\w-]", "_", name) for name in gan.classes]
    ids = class_ids(classes, gan.classes, len(classes)).tolist()
    parts = gan.stream(count, ids, settings.get("seed", 0), settings.get("truncation", 1.0), CHUNK)
    with _pictures_in(out) as put:
        for image in (image for part in parts for image in part):
            name = f"{written:05d}-{names[ids[written % len(ids)]]}.png"
            buffer = io.BytesIO()
            _picture(image, settings.get("scale") or 1).save(buffer, "PNG")
            put(name, buffer.getvalue())
            written += 1
            if written % CHUNK == 0 or written == count:
                counter("images", written, count)
    say(f"{out}: {count} files")


@contextlib.contextmanager
def _pictures_in(out: Path) -> Iterator[Callable[[str, bytes], None]]:
    """A function that writes a file into the folder or the zip `out`; a zip is there once it is whole."""
    if out.suffix.lower() != ".zip":
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)

        def put(name: str, content: bytes) -> None:
            with writing(out / name):
                (out / name).write_bytes(content)

        yield put
        return
    partial = out.with_name(f".{out.name}.partial")
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(partial, "w") as archive:  # PNGs are compressed already
                # Without the time of day: the same samples are the same bytes.
                yield lambda name, content: archive.writestr(zipfile.ZipInfo(name), content)
            os.replace(partial, out)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _mixed(gan: Any, classes: list[str] | None, out: Path, settings: dict[str, Any]) -> None:
    from gantransfer.sampling import grid
    from gantransfer.style_mixing import style_grid

    left, colon, right = settings["mix_styles"].partition(":")
    try:
        sources, destinations = ([int(seed) for seed in text.split(",")] for text in (left, right))
    except ValueError:
        raise UsageError(f"--mix-styles is '{settings['mix_styles']}'; give seeds of sources, a colon and seeds of "
                         "destinations, as in 0,1,2:10,11") from None
    if classes is not None and len(classes) > 1:
        raise UsageError(f"--mix-styles draws one class and --classes names {len(classes)}; give one")
    name = _classes(classes, gan.classes)[0] if classes else None
    images = style_grid(gan, sources, destinations, settings.get("style_groups"), name, settings.get("truncation", 1.0))
    _write(out, lambda: grid(images, 1 + len(destinations), settings.get("scale") or 1).save(out))
    say(f"{out}: {len(sources)} sources (left) with the styles of {len(destinations)} destinations (above)")


def _augmented(gan: Any, classes: list[str | int], out: Path, settings: dict[str, Any]) -> None:
    from gantransfer.style_mixing import style_augment

    images = style_augment(gan, settings["augment_to"], settings.get("seed", 0), settings.get("style_groups"), classes,
                           settings.get("truncation", 1.0))
    labelled = gan.generator.num_classes > 0
    folders = [out / name for name in class_folders(gan.classes)] if labelled else [out]
    used = set()
    for number, mixed in enumerate(images):
        file = folders[mixed.label] / f"{number:05d}.png"
        used.add(mixed.label)
        _write(file, lambda mixed=mixed, file=file: _picture(mixed.image, settings.get("scale") or 1).save(file))
    say(f"{out}: {settings['augment_to']} style-mixed images in {len(used)} folder{'s' if len(used) > 1 else ''}")


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder's name for every class: its own where that can be one, with its number where two would be the same (for
    some file systems also those that differ in case alone)."""
    plain = [re.sub(r"[^\w-]", "_", name) for name in classes]
    taken = Counter(name.casefold() for name in plain)
    return [name if name and taken[name.casefold()] == 1 else f"{name}_{i}" for i, name in enumerate(plain)]


def _animation(gan: Any, classes: list[str | int], out: Path, settings: dict[str, Any]) -> None:
    from PIL import Image

    from gantransfer.sampling import grid

    count = settings.get("count") or 8
    columns = settings.get("columns") or int(np.ceil(np.sqrt(count)))
    frames: list[Image.Image] = []
    for images in _stations(gan, classes, count, settings):
        frames.append(grid(images, columns, settings.get("scale") or 1).convert("RGB"))
    _write(out, lambda: frames[0].save(out, save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0,
                                       lossless=True))
    say(f"{out}: {len(frames)} frames of {count} images")


def _stations(gan: Any, classes: list[str | int], count: int, settings: dict[str, Any]) -> Iterator[np.ndarray]:
    """uint8 [count, H, W, C] per frame, there and back again, so that the animation closes."""
    import torch

    from gantransfer.norm import ClassMixture
    from gantransfer.sampling import channels_last, class_ids, draw_latents, generate

    generator, seed, truncation = gan.generator, settings.get("seed", 0), settings.get("truncation", 1.0)
    steps = torch.linspace(0, 1, settings.get("frames") or 24)
    z_dim, device = generator.z_dim, next(generator.parameters()).device
    free = getattr(generator, "picks", 0)
    if settings.get("interpolate") is not None:
        if not generator.num_classes:
            raise UsageError("--interpolate needs a model with classes, and this one has none; "
                             "use --interpolate-latents")
        if getattr(generator, "wraps", "") == "samples iteratively":
            raise UsageError("--interpolate mixes classes, and this model draws each by a classifier of its own; use "
                             "--interpolate-latents")
        a, b = class_ids(_classes(settings["interpolate"], gan.classes), gan.classes, 2).tolist()
        z = draw_latents(count, z_dim, seed, truncation, free)
        for t in [*steps, *steps.flip(0)[1:-1]]:
            weights = torch.zeros(count, generator.num_classes, device=device)
            weights[:, a] += 1 - t
            weights[:, b] += t
            yield channels_last(_generate_mixed(generator, z.to(device), ClassMixture(weights)))
        return
    seeds = settings["interpolate_latents"]
    labels = gan.labels(classes, count)
    stations = [draw_latents(count, z_dim, s, truncation, free) for s in seeds]
    held = stations[0] if getattr(generator, "style_sites", 0) else None  # what moves are the latents, not the noise
    for here, there in zip(stations, [*stations[1:], stations[0]], strict=True):
        for t in steps[:-1]:
            yield channels_last(generate(generator, _slerp(here, there, float(t)), labels, noise_of=held))


def _generate_mixed(generator: Any, z: Any, mixture: Any) -> Any:
    import torch

    from gantransfer.sampling import to_uint8

    with torch.inference_mode():
        return to_uint8(generator(z, mixture).float()).cpu()


def _slerp(a: Any, b: Any, t: float) -> Any:
    """The way between two normal latents that keeps their length: cos and sin instead of 1-t and t."""
    import math

    return math.cos(t * math.pi / 2) * a + math.sin(t * math.pi / 2) * b


def _picture(image: np.ndarray, scale: int) -> Any:
    from gantransfer.sampling import grid

    return grid(image[None], 1, scale, pad=0)


def _write(path: Path, action: Any) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        action()
