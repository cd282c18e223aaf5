"""Style mixing: images with the structure of one latent and styles of another (limited-data paper, Appendix F).

A generator with a style head (method adafm) takes a style at every site. A *group* is a style block, numbered as in the
paper from the image on: with general part G_m the block next to it is group m + 1, the next one m + 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.pictures import GRID_SEED, save_grid
from gantransfer.sampling import channels_last, class_ids, draw_latents, to_uint8
from gantransfer.sources import GAN
from gantransfer.stylehead import SITES

AT_A_TIME = 128  # images of one forward pass
SHOWN = 6  # sources and destinations in a run's picture


class Mixed(NamedTuple):
    """One style-mixed image, uint8 [H, W, C], its class id, and the seeds it is made from."""

    image: np.ndarray
    label: int
    source: int
    destination: int


def style_groups(generator: nn.Module) -> list[int]:
    """The groups whose styles can be chosen, from the image on; empty without a style head."""
    sites = getattr(generator, "style_sites", 0)
    return [generator.config.general + 1 + i for i in range(sites // SITES)]


def _sites(generator: nn.Module, groups: int | Sequence[int] | None) -> list[bool]:
    """For every site from the latents on, whether its style comes from the destination.

    Raises:
        ModelError: the generator has no styles. UsageError: it lacks one of `groups`.
    """
    have = style_groups(generator)
    if not have:
        raise ModelError("this model has no styles to mix; they come with method adafm and --head style")
    chosen = have[:1] if groups is None else [groups] if isinstance(groups, int) else list(groups)
    for group in chosen:
        if group not in have:
            raise UsageError(f"style group {group} does not exist; this model has {', '.join(map(str, have))}")
    return [group in chosen for group in reversed(have) for _ in range(SITES)]


@torch.inference_mode()
def _mix(generator: nn.Module, z_source: Tensor, z_destination: Tensor, y: Tensor | None,
         from_destination: Sequence[bool]) -> Tensor:
    """uint8 [N, C, H, W]: everything of `z_source`, the noise too, but the styles of the chosen sites."""
    device = next(generator.parameters()).device
    training, images = generator.training, []
    generator.eval()
    for start in range(0, len(z_source), AT_A_TIME):
        rows = slice(start, start + AT_A_TIME)
        a, b = z_source[rows].to(device), z_destination[rows].to(device)
        labels = None if y is None else y[rows].to(device)
        own, other = generator.styles(a, labels), generator.styles(b, labels)
        styles = [other if chosen else own for chosen in from_destination]
        images.append(to_uint8(generator(a, labels, styles=styles).float()).cpu())
    generator.train(training)
    return torch.cat(images)


def style_mix(
    gan: GAN, sources: Sequence[int], destinations: Sequence[int], groups: int | Sequence[int] | None = None,
    class_name: str | int | None = None, truncation: float = 1.0,
) -> np.ndarray:
    """Every source with every destination's style: uint8 [sources, destinations, H, W, C].

    Args:
        sources, destinations: seeds, one latent each (as ``gan.sample(1, seed=...)`` draws it).
        groups: one or several whose styles are the destination's (None: the one next to the general part, the paper's
            Group 5).
        class_name: of all images (None: the first class).
        truncation: as in `GAN.sample`.

    Raises:
        ModelError: the model has no styles. UsageError: no such group or class; no seeds.
    """
    chosen = _sites(gan.generator, groups)
    if not sources or not destinations:
        raise UsageError("style mixing needs at least one seed of a source and one of a destination")
    z_dim, many = gan.generator.z_dim, len(destinations)
    a, b = (torch.cat([draw_latents(1, z_dim, seed, truncation) for seed in seeds])
            for seeds in (sources, destinations))
    y = gan.labels(class_name if class_name is not None else 0, len(sources) * many)
    mixed = _mix(gan.generator, a.repeat_interleave(many, 0), b.repeat(len(sources), 1), y, chosen)
    return channels_last(mixed).reshape(len(sources), many, *mixed.shape[2:], mixed.shape[1])


def style_grid(
    gan: GAN, sources: Sequence[int], destinations: Sequence[int], groups: int | Sequence[int] | None = None,
    class_name: str | int | None = None, truncation: float = 1.0,
) -> np.ndarray:
    """The paper's picture (Figure 12), uint8 [(1 + sources) * (1 + destinations), H, W, C] row by row: destinations
    above, sources on the left, `style_mix` between them, an empty corner."""
    between = style_mix(gan, sources, destinations, groups, class_name, truncation)
    everything = style_groups(gan.generator)
    above = style_mix(gan, destinations, destinations[:1], everything[:0], class_name, truncation)[:, 0]
    left = style_mix(gan, sources, destinations[:1], everything[:0], class_name, truncation)[:, 0]
    corner = np.full_like(above[:1], 255)
    rows = [np.concatenate([corner, above])]
    rows += [np.concatenate([left[i : i + 1], row]) for i, row in enumerate(between)]
    return np.concatenate(rows)


def style_augment(
    gan: GAN, n: int, seed: int = 0, groups: int | Sequence[int] | None = None,
    classes: str | int | Sequence[str | int] | None = None, truncation: float = 1.0,
) -> Iterator[Mixed]:
    """`n` style-mixed images for training something else, `classes` (None: all) in turn, each of two latents of its
    own.

    The same seed gives the same images; image i does not depend on `n`, but for rounding.

    Raises:
        ModelError: the model has no styles. UsageError: no such group or class, `n` below 1, a negative seed.
    """
    chosen = _sites(gan.generator, groups)
    if n < 1:
        raise UsageError(f"{n} style-mixed images are not possible; give 1 or more")
    draw_latents(0, gan.generator.z_dim, seed, truncation)  # for its checks
    return _pairs(gan, chosen, n, seed, class_ids(classes, gan.classes, n), truncation)


def _pairs(gan: GAN, chosen: Sequence[bool], n: int, seed: int, wanted: Tensor, truncation: float) -> Iterator[Mixed]:
    z_dim = gan.generator.z_dim
    for start in range(0, n, AT_A_TIME):
        count = min(AT_A_TIME, n - start)
        seeds = [tuple(map(int, np.random.SeedSequence([seed, i]).generate_state(2)))
                 for i in range(start, start + count)]
        a, b = (torch.cat([draw_latents(1, z_dim, pair[k], truncation) for pair in seeds]) for k in (0, 1))
        labels = wanted[start : start + count]
        mixed = channels_last(_mix(gan.generator, a, b, labels if gan.generator.num_classes else None, chosen))
        for image, label, (source, destination) in zip(mixed, labels.tolist(), seeds, strict=True):
            yield Mixed(image, label, source, destination)


def style_picture(gan: GAN, path: Path) -> None:
    """The picture of a run, with the group next to the general part."""
    seeds = range(GRID_SEED, GRID_SEED + 2 * SHOWN)
    save_grid(style_grid(gan, seeds[:SHOWN], seeds[SHOWN:]), SHOWN + 1, path)
