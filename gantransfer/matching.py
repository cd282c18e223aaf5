"""Class-conditional feature matching: a start, and a company, for adversarial training.

Salimans et al., "Improved Techniques for Training GANs", 2016, section 3.1, let the generator match the mean of a
critic's intermediate features on the data. Here the features are the *frozen source critic's*, at every block and
place, their means and mean squares are matched for each class, and the estimate is unbiased: the squared norm of a
mean is the product of two independent halves' means, so that few samples per class do not reward a generator for
collapsing onto them. No critic has to learn the new classes first, which is what the first hundreds of adversarial
iterations are spent on.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gantransfer.plan import Batch

PER_CLASS = 8  # fakes of a class in a batch, where the batch allows


class FeatureMatching(nn.Module):
    """The matching term and what it has seen of the images, which is saved and resumed with the run.

    Args:
        critic: the source's; a copy is frozen. It has ``maps(images)``, the activations [N, C, H, W] of its blocks.
        classes: number of the target's classes, 1 or more.
        resolution, channels: of the images.
        squares: weight of the mean squares beside the means.
    """

    def __init__(self, critic: nn.Module, classes: int, resolution: int, channels: int, squares: float = 0.3) -> None:
        super().__init__()
        self.critic = copy.deepcopy(critic).eval().requires_grad_(False)
        self.classes, self.squares = classes, squares
        device = next(critic.parameters()).device
        with torch.no_grad():
            maps = self.critic.maps(torch.zeros(1, channels, resolution, resolution, device=device))
        self.register_buffer("count", torch.zeros(classes, device=device))
        for i, activation in enumerate(maps):
            for kind in ("sum", "square"):
                self.register_buffer(f"{kind}{i}", torch.zeros(classes, *activation.shape[1:], device=device))
        self.blocks = len(maps)

    def train(self, mode: bool = True) -> FeatureMatching:
        """The critic stays in eval mode: its spectral-norm vectors do not move."""
        return super().train(False)

    @torch.no_grad()
    def see(self, images: Tensor, labels: Tensor) -> None:
        """Add float32 [B, C, H, W] images of int64 [B] classes to the statistics."""
        self.count.index_add_(0, labels, torch.ones_like(labels, dtype=self.count.dtype))
        for i, activation in enumerate(self.critic.maps(images)):
            values = activation.float().contiguous()
            self.get_buffer(f"sum{i}").index_add_(0, labels, values)
            self.get_buffer(f"square{i}").index_add_(0, labels, values.square())

    def labels(self, batch: Batch) -> Tensor:
        """int64 [n], n at most the batch's size: fakes' classes in runs of equal, even length, classes drawn from those
        seen. Needs a batch of 2 or more."""
        seen = torch.nonzero(self.count.cpu()).squeeze(1)
        size = len(batch.z)
        number = min(len(seen), max(1, size // PER_CLASS))
        length = size // number // 2 * 2
        drawn = seen[torch.randperm(len(seen), generator=batch.rng)[:number]]
        return drawn.repeat_interleave(length).to(batch.z.device)

    def forward(self, fakes: Tensor, labels: Tensor) -> Tensor:
        """The term, a scalar, for float [n, C, H, W] `fakes` of `labels` as `labels` gives them.

        Mean over blocks' features of (m1 - m)(m2 - m) / v, m1 and m2 the means of a class's two halves, m the
        images' and v their mean variance; plus the same of squares. It is 0 in expectation where all agree, and can
        be negative.
        """
        kinds = labels.unique_consecutive()
        seen = self.count[kinds].view(-1, 1, 1, 1)
        total = fakes.new_zeros((), dtype=torch.float32)
        for i, activation in enumerate(self.critic.maps(fakes)):
            mean = self.get_buffer(f"sum{i}")[kinds] / seen
            square = self.get_buffer(f"square{i}")[kinds] / seen
            halves = activation.float().contiguous().unflatten(0, (len(kinds), 2, -1))
            total = total + _product(halves.mean(2), mean, (square - mean.square()).mean())
            total = total + self.squares * _product(halves.square().mean(2), square, square.square().mean())
        return total


def _product(halves: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Unbiased mean squared difference of [K, 2, ...] half means to `wanted` [K, ...], over `scale`."""
    first, second = (halves - wanted.unsqueeze(1)).unbind(1)
    return (first * second).mean() / scale.clamp_min(1e-6)

