"""Inception-v3 as the published FID uses it; weights come from a file, none are shipped.

Szegedy et al., Rethinking the Inception Architecture for Computer Vision (2015), in the variant whose
TensorFlow weights of 2015-12-05 define the FID (Heusel et al. 2017): 1008 outputs and no auxiliary head.
Tensor names and shapes are those of the published PyTorch state dict ``pt_inception-2015-12-05``. Three
details differ from the common Inception-v3: average pools inside the blocks do not count the padding, the
last block pools by maximum, and images are resized to 299 px before they are scaled to [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.weights import load_strictly, read_tensors

NUM_LOGITS = 1008
FEATURES = 2048


class Conv(NamedTuple):
    """One convolution of a branch: its name in the state dict, output channels, kernel, stride, padding."""

    name: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1

    @property
    def padding(self) -> tuple[int, int]:
        """Same size at stride 1; none where the block halves the picture."""
        return (0, 0) if self.stride == 2 else (self.kernel[0] // 2, self.kernel[1] // 2)


class Block(NamedTuple):
    """Branches side by side, their outputs concatenated in this order, then the pooled branch.

    A branch is a list of convolutions; a tuple in it means that its members see the same input and are
    concatenated. `pool` is the pooling in front of the last branch and `pool_out` its width (0: pooling
    alone, stride 2).
    """

    branches: tuple[tuple[Conv | tuple[Conv, ...], ...], ...]
    pool: str
    pool_out: int


def block_a(pool_out: int) -> Block:
    """35 x 35."""
    return Block(
        (
            (Conv("branch1x1", 64),),
            (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
            (
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, (3, 3)),
                Conv("branch3x3dbl_3", 96, (3, 3)),
            ),
        ),
        "mean",
        pool_out,
    )


def block_b() -> Block:
    """35 -> 17."""
    narrow = (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), 2),
    )
    return Block(((Conv("branch3x3", 384, (3, 3), 2),), narrow), "max", 0)


def block_c(c: int) -> Block:
    """17 x 17; c channels inside the 7 x 7 branches, which are taken as 1 x 7 and 7 x 1."""
    row, column = (1, 7), (7, 1)
    single = (Conv("branch7x7_1", c), Conv("branch7x7_2", c, row), Conv("branch7x7_3", 192, column))
    double = (
        Conv("branch7x7dbl_1", c),
        Conv("branch7x7dbl_2", c, column),
        Conv("branch7x7dbl_3", c, row),
        Conv("branch7x7dbl_4", c, column),
        Conv("branch7x7dbl_5", 192, row),
    )
    return Block(((Conv("branch1x1", 192),), single, double), "mean", 192)


def block_d() -> Block:
    """17 -> 8."""
    deep = (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    )
    return Block(((Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)), deep), "max", 0)


def block_e(pool: str) -> Block:
    """8 x 8."""
    fork = (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))
    fork_double = (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1)))
    return Block(
        (
            (Conv("branch1x1", 320),),
            (Conv("branch3x3_1", 384), fork),
            (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)), fork_double),
        ),
        pool,
        192,
    )


BLOCKS = {
    "Mixed_5b": block_a(32),
    "Mixed_5c": block_a(64),
    "Mixed_5d": block_a(64),
    "Mixed_6a": block_b(),
    "Mixed_6b": block_c(128),
    "Mixed_6c": block_c(160),
    "Mixed_6d": block_c(160),
    "Mixed_6e": block_c(192),
    "Mixed_7a": block_d(),
    "Mixed_7b": block_e("mean"),
    "Mixed_7c": block_e("max"),
}


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm (epsilon 0.001), ReLU."""

    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """A `Block` as a module; `out` is its number of output channels."""

    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()
        self.block, self.out = block, 0
        for branch in block.branches:
            width = channels
            for step in branch:
                members = (step,) if isinstance(step, Conv) else step
                for conv in members:
                    self.add_module(
                        conv.name, ConvNormReLU(width, conv.out, conv.kernel, conv.stride, conv.padding)
                    )
                width = sum(conv.out for conv in members)
            self.out += width
        if block.pool_out:
            self.branch_pool = ConvNormReLU(channels, block.pool_out, (1, 1), 1, (0, 0))
        self.out += block.pool_out or channels

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self._branch(branch, x) for branch in self.block.branches]
        if self.block.pool_out:
            outputs.append(self.branch_pool(self._pool(x)))
        else:
            outputs.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(outputs, 1)

    def _branch(self, branch: tuple[Conv | tuple[Conv, ...], ...], x: Tensor) -> Tensor:
        for step in branch:
            members = (step,) if isinstance(step, Conv) else step
            parts = [getattr(self, conv.name)(x) for conv in members]
            x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return x

    def _pool(self, x: Tensor) -> Tensor:
        if self.block.pool == "max":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionV3(nn.Module):
    """float32 [N, 3, 299, 299] in [-1, 1] -> (pooled features [N, 2048], logits [N, 1008])."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, (3, 3), 2, (0, 0))
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, (3, 3), 1, (0, 0))
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, (3, 3), 1, (1, 1))
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80, (1, 1), 1, (0, 0))
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, (3, 3), 1, (0, 0))
        channels = 192
        for name, block in BLOCKS.items():
            mixed = Mixed(channels, block)
            self.add_module(name, mixed)
            channels = mixed.out
        self.fc = nn.Linear(channels, NUM_LOGITS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        for name in BLOCKS:
            x = getattr(self, name)(x)
        features = x.mean((2, 3))
        return features, self.fc(features)


def load_inception(path: Path) -> InceptionV3:
    """The network, in eval mode, with the weights of a ``.pth`` or ``.safetensors`` file.

    Raises:
        ModelError: no such file, unreadable or unsafe content, other tensors than the published ones.
    """
    if not path.is_file():
        raise ModelError(
            f"'{path}' is no file; the FID weights are the PyTorch state dict pt_inception-2015-12-05 that "
            "the pytorch-fid project distributes: download it yourself and give its path"
        )
    network = InceptionV3()
    # Batch norm's step counters do not matter in eval mode and are missing in some copies of the file.
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    tensors = {**counters, **read_tensors(path)}
    load_strictly(network, tensors, f"'{path}' (wanted: the state dict pt_inception-2015-12-05)")
    return network.eval()
