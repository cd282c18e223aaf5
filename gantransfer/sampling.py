"""Latents, labels and pictures: everything about drawing from a generator that needs no model class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gantransfer.errors import UsageError, did_you_mean
from gantransfer.kept_memory import kept_memory


def draw_latents(n: int, z_dim: int, seed: int, truncation: float = 1.0, free: int = 0) -> Tensor:
    """float32 [n, z_dim], standard normal; with a `truncation` below 1, entries beyond 2 standard deviations are
    redrawn and all are multiplied by it (BigGAN's truncation trick: even just below 1 the tails are cut), but for the
    last `free` of each. The same seed gives the same latents on every machine."""
    if not 0 < truncation <= 1:
        raise UsageError(f"truncation {truncation} is outside (0, 1]; 1 samples the full distribution")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed} is not possible; give 0 or more, below 2 to the 63")
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(n, z_dim, generator=rng)
    if truncation < 1:
        whole = z[:, z_dim - free :].clone()
        # BigGAN truncates N(0, 1) to [-2, 2] and scales by the threshold.
        outside = z.abs() > 2
        while outside.any():
            z[outside] = torch.randn(int(outside.sum()), generator=rng)
            outside = z.abs() > 2
        z = z * truncation
        z[:, z_dim - free :] = whole
    return z


def latent_chunks(n: int, z_dim: int, seed: int, truncation: float = 1.0, free: int = 0,
                  rows: int = 256) -> Iterator[Tensor]:
    """The rows of `draw_latents` in parts of `rows` (a multiple of 16), without holding them all; truncated ones, whose
    redrawn entries come after all others, are drawn at once."""
    if truncation != 1:
        yield from draw_latents(n, z_dim, seed, truncation, free).split(rows)
        return
    draw_latents(0, z_dim, seed)  # for its checks
    rng, left = torch.Generator().manual_seed(seed), n
    while left:
        # Fewer than 16 numbers are drawn in another way by torch, so they go with the part before them.
        take = rows if (left - rows) * z_dim >= 16 or left == rows else left
        yield from torch.randn(take, z_dim, generator=rng).split(rows)
        left -= take


def class_ids(classes: str | int | Sequence[str | int] | None, names: Sequence[str], n: int, start: int = 0) -> Tensor:
    """int64 [n]: the requested classes, by name or index, repeated in turn; None takes all in turn. `start`: how many
    came before.

    Raises:
        UsageError: a class that does not exist.
    """
    wanted = list(range(len(names))) if classes is None else classes
    if isinstance(wanted, (str, int)):
        wanted = [wanted]
    if not len(wanted):
        raise UsageError("no class is asked for; name at least one, or leave the classes out for all in turn")
    ids = []
    for item in wanted:
        if isinstance(item, str) and item in names:
            ids.append(list(names).index(item))
        elif isinstance(item, (int, np.integer)) and 0 <= int(item) < len(names):
            ids.append(int(item))
        else:
            shown = ", ".join(list(names)[:12]) + (", ..." if len(names) > 12 else "")
            raise UsageError(f"class '{item}' is not one of this model's{did_you_mean(item, names)}; have: {shown}")
    return torch.tensor([ids[i % len(ids)] for i in range(start, start + n)], dtype=torch.int64)


def to_uint8(images: Tensor) -> Tensor:
    """float [-1, 1] -> uint8, same shape."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.inference_mode()
@kept_memory()
def generate(
    generator: nn.Module, z: Tensor, y: Tensor | None, batch_size: int = 128, noise_of: Tensor | None = None
) -> Tensor:
    """uint8 [N, C, H, W] from latents and labels, on the CPU, in eval mode (the mode is restored). With a style head
    the noise is that of the latents `noise_of` [N, z_dim] (None: of `z`)."""
    training = generator.training
    device = next(generator.parameters()).device
    generator.eval()
    images = []
    for start in range(0, len(z), batch_size):
        rows = slice(start, start + batch_size)
        labels = None if y is None else y[rows].to(device)
        held = {} if noise_of is None else {"noise": generator.noise(noise_of[rows].to(device))}
        images.append(to_uint8(generator(z[rows].to(device), labels, **held).float()).cpu())
    generator.train(training)
    return torch.cat(images)


def sampler(generator: nn.Module) -> Callable[[Tensor, int], Tensor]:
    """``(labels int64 [k], seed) -> uint8 [k, C, H, W]``: the form in which metrics see a generator."""

    def sample(labels: Tensor, seed: int) -> Tensor:
        z = draw_latents(len(labels), generator.z_dim, seed)
        return generate(generator, z, labels if generator.num_classes else None)

    return sample


def grid(images: np.ndarray | Tensor, columns: int, scale: int = 1, pad: int = 2) -> Image.Image:
    """A picture of `images` (uint8 [N, H, W, C], C 1 or 3) row by row, `pad` white pixels around each cell."""
    images = np.asarray(images)
    n, h, w, c = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (h + pad) + pad, columns * (w + pad) + pad, c), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = pad + (i // columns) * (h + pad), pad + (i % columns) * (w + pad)
        sheet[top : top + h, left : left + w] = image
    picture = Image.fromarray(sheet[:, :, 0] if c == 1 else sheet)
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    return picture


def channels_last(images: Tensor) -> np.ndarray:
    """uint8 [N, C, H, W] tensor -> uint8 [N, H, W, C] array."""
    return images.permute(0, 2, 3, 1).contiguous().numpy()
