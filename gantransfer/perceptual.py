"""Perceptual losses: the mean absolute difference of two images' activations in a fixed network.

``vgg16-caffe:FILE`` is the published kind, ``vgg16:FILE`` the same network with torchvision's weights (see
`gantransfer.vgg`); ``critic`` are the blocks of the source's own critic, and
``glyph-cnn`` the classifier of letters that ships with the package: both work offline, and are named as what they are.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError, did_you_mean
from gantransfer.features import SHIPPED
from gantransfer.glyph_cnn import load_glyph_cnn
from gantransfer.vgg import load_vgg16

FROM_FILES = ("vgg16", "vgg16-caffe")
KINDS = ("critic", "glyph-cnn", *FROM_FILES, "none")


class _Glyphs(nn.Module):
    """Images of any size and colour in [-1, 1] -> activations of the letters' classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_glyph_cnn(SHIPPED / "glyph-cnn.safetensors")[0]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (1 - images.mean(1, keepdim=True)) / 2
        if x.shape[-2:] != (32, 32):
            x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True, align_corners=False)
        found = []
        for conv in self.network.convs:
            x = F.leaky_relu(conv(x), 0.1)
            found.append(x)
        return found


class _Critic(nn.Module):
    """The blocks of a critic."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = copy.deepcopy(critic)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.critic.maps(images)


class Perceptual:
    """(images, wanted images), float [N, C, H, W] in [-1, 1] each -> a scalar: over the layers, the sum of the mean
    absolute differences of their activations. Its network is in no checkpoint, as it never changes.

    Args:
        spec: one of `KINDS`, those of `FROM_FILES` with a file as in ``vgg16:FILE``. critic: the source's, or None.

    Raises:
        UsageError: another kind, or a file too many or too few. ModelError: no critic, or no such file.
    """

    def __init__(self, spec: str, critic: nn.Module | None) -> None:
        kind, _, path = spec.partition(":")
        if kind not in KINDS:
            raise UsageError(f"perceptual '{spec}' does not exist{did_you_mean(kind, KINDS)}; have: critic, glyph-cnn, "
                             "vgg16:FILE, vgg16-caffe:FILE, none")
        if bool(path) != (kind in FROM_FILES):
            raise UsageError(f"perceptual '{spec}' " + (f"names no file; write {kind}:FILE with a state dict in "
                                                        "torchvision's layout" if kind in FROM_FILES else
                                                        f"names a file, which it has none; write {kind}"))
        self.spec = kind
        if kind == "critic" and critic is None:
            raise ModelError("this source has no discriminator, whose features perceptual 'critic' compares; use "
                             "glyph-cnn, vgg16:FILE or none")
        self.network: nn.Module | None = None
        if kind != "none":
            file = Path(path).expanduser()
            self.network = {"critic": lambda: _Critic(critic), "glyph-cnn": _Glyphs, "vgg16": lambda: load_vgg16(file),
                            "vgg16-caffe": lambda: load_vgg16(file, caffe=True)}[kind]()
            self.network.eval().requires_grad_(False)

    def __call__(self, images: Tensor, wanted: Tensor) -> Tensor:
        self.network.to(images.device)
        with torch.no_grad():
            real = self.network(wanted)
        return torch.stack([(a.float() - b.float()).abs().mean()
                            for a, b in zip(self.network(images), real, strict=True)]).sum()
