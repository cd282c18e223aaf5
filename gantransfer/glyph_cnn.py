"""The network behind the ``glyph-cnn`` features.

Its files: half-precision weights (.safetensors) and beside them a card (.json) with the class names in the
order of the outputs, the accuracy and the command that made them.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.weights import load_strictly, read_json, read_tensors


class GlyphCNN(nn.Module):
    """Classifier of 32x32 grey letters; its penultimate layer (128 units) is the offline feature space.

    Four 3x3 convolutions (strides 1, 2, 2, 2), a depthwise 4x4 convolution that keeps *where* a stroke is,
    one linear layer. Leaky ReLUs, no dead units. Batch norms of the training are folded into the convolutions
    (`recipes/train_glyph_cnn.py`), so there is no train mode to forget. 0.2 M parameters.

    Input: float32 [N, 1, 32, 32], 1 = ink, 0 = paper. Output: features [N, 128], logits [N, classes].
    """

    WIDTHS = (24, 48, 96, 128)
    FEATURES = 128

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        ins = (1, *self.WIDTHS[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=1 if n == 0 else 2, padding=1)
            for n, (i, o) in enumerate(zip(ins, self.WIDTHS, strict=True))
        )
        self.place = nn.Conv2d(self.WIDTHS[-1], self.WIDTHS[-1], 4, groups=self.WIDTHS[-1])
        self.embed = nn.Linear(self.WIDTHS[-1], self.FEATURES)
        self.head = nn.Linear(self.FEATURES, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
        x = F.leaky_relu(self.place(x), 0.1).flatten(1)
        features = F.leaky_relu(self.embed(x), 0.1)
        return features, self.head(features)


def load_glyph_cnn(weights: Path) -> tuple[GlyphCNN, tuple[str, ...]]:
    """The network of `weights` (.safetensors) and the class names of the card beside it (same name, .json).

    Raises:
        ModelError: a file is missing or broken, or the two do not belong together.
    """
    card = weights.with_suffix(".json")
    for file in (weights, card):
        if not file.is_file():
            raise ModelError(
                f"glyph-cnn: '{file}' is missing; reinstall the package or run recipes/train_glyph_cnn.py"
            )
    classes = read_json(card).get("classes")
    if not isinstance(classes, list) or not classes:
        raise ModelError(
            f"glyph-cnn: '{card}' names no classes; restore it or run recipes/train_glyph_cnn.py"
        )
    network = GlyphCNN(len(classes))
    tensors = {key: tensor.float() for key, tensor in read_tensors(weights).items()}
    load_strictly(network, tensors, f"glyph-cnn: '{weights}'")
    return network, tuple(classes)
