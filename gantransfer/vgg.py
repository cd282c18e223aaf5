"""VGG-16's convolutions up to conv4_3, for perceptual losses; weights come from a file, none are shipped.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015. Tensor names
and shapes are those of torchvision's published state dict (``vgg16-397923af.pth``): ``features.N.weight`` with N
counting activations and poolings too, whose classifier layers are in the file and not used. The original (Caffe's)
weights see pixels of 0 to 255 less their means, channels in the order BGR, and their activations are near 100, where
those of torchvision's, on normalised pixels, are near 1.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.weights import load_strictly, read_tensors

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))  # 2x2 max pooling between them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1], as torchvision's weights were trained
CAFFE_MEAN = (103.939, 116.779, 123.68)  # of BGR in [0, 255]


class VGG16(nn.Module):
    """float32 [N, 1 or 3, H, W] in [-1, 1] -> the ten activations after ReLU, conv1_1 to conv4_3. `caffe`: the weights
    are the original ones."""

    def __init__(self, caffe: bool = False) -> None:
        super().__init__()
        self.caffe = caffe
        self.features = nn.ModuleDict()
        number, n_in = 0, 3
        for stage in STAGES:
            for n_out in stage:
                self.features[str(number)] = nn.Conv2d(n_in, n_out, 3, padding=1)
                number, n_in = number + 2, n_out
            number += 1
        mean, std = (CAFFE_MEAN, (1.0, 1.0, 1.0)) if caffe else (MEAN, STD)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images.expand(-1, 3, -1, -1) + 1) / 2
        x = ((x.flip(1) * 255 if self.caffe else x) - self.mean) / self.std
        found, layers = [], iter(self.features.values())
        for number, stage in enumerate(STAGES):
            x = F.max_pool2d(x, 2) if number else x
            for _ in stage:
                x = F.relu(next(layers)(x))
                found.append(x)
        return found


def load_vgg16(path: Path, caffe: bool = False) -> VGG16:
    """The network with the weights of a file (ModelError if it is missing, unsafe or another network's)."""
    network = VGG16(caffe)
    tensors = {k: v.float() for k, v in read_tensors(path).items()}
    wanted = network.state_dict()
    if not tensors.keys() & wanted.keys():
        raise ModelError(f"'{path}' holds no VGG-16 in torchvision's layout (its first tensor is called "
                         f"'{next(iter(tensors))}', not 'features.0.weight'); give the published vgg16 state dict")
    load_strictly(network, {k: v for k, v in tensors.items() if k in wanted}, f"'{path}'")
    return network.eval().requires_grad_(False)
