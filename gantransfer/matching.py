"""Class-conditional feature matching: a start, and a company, for adversarial training.

Salimans et al., "Improved Techniques for Training GANs", 2016, section 3.1, let the generator match the mean of a
critic's intermediate features on the data. Here the features are the *frozen source critic's*, at every block and
place, their means and mean squares are matched for each class, and the estimate is unbiased but for what batch norm
couples: the square of a mean is estimated by the products of different samples alone (a U-statistic, as MMD's), so
that few samples per class do not reward a generator for collapsing onto them. No critic has to learn the new classes
first, which is what the first hundreds of adversarial iterations are spent on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantransfer.observing import FrozenCritic, over_processes

LEAST_VARIANCE = 0.05  # of the mean square


class FeatureMatching(FrozenCritic):
    """The matching term and what it has seen of the images, which is saved and resumed with the run.

    Args:
        critic: the source's, see `FrozenCritic`.
        classes: number of the target's classes, 1 or more.
        resolution, channels: of the images.
        per_class: number of fakes of a class that a batch should have, 2 or more: few show more classes at once, many
            show them with less noise.
        squares: weight of the mean squares beside the means.
    """

    def __init__(
        self, critic: nn.Module, classes: int, resolution: int, channels: int, per_class: int = 4, squares: float = 0.3
    ) -> None:
        super().__init__(critic)
        self.per_class = per_class
        self.squares = squares
        device = next(critic.parameters()).device
        with torch.no_grad():
            maps = self.critic.maps(torch.zeros(1, channels, resolution, resolution, device=device))
        self.register_buffer("count", torch.zeros(classes, device=device))
        for i, activation in enumerate(maps):
            for kind in ("sum", "square"):
                self.register_buffer(f"{kind}{i}", torch.zeros(classes, *activation.shape[1:], device=device))

    @torch.no_grad()
    def see(self, images: Tensor, labels: Tensor) -> None:
        """Add float32 [B, C, H, W] images of int64 [B] classes, of all processes, to the statistics."""
        self._add("count", labels, torch.ones_like(labels, dtype=self.count.dtype))
        for i, activation in enumerate(self.critic.maps(images)):
            values = activation.float().contiguous()
            self._add(f"sum{i}", labels, values)
            self._add(f"square{i}", labels, values.square())

    def _add(self, name: str, labels: Tensor, values: Tensor) -> None:
        total = self.get_buffer(name)
        total += over_processes(torch.zeros_like(total).index_add_(0, labels, values))

    def labels(self, size: int, rng: torch.Generator) -> Tensor:
        """int64 [n], n about `size`: fakes' classes in runs of equal length, drawn by `rng` from those seen.

        A run has `per_class` fakes, or more where few classes leave room; fewer where the size has no room for two
        such runs, as the batch statistics of one class alone are not those that samples meet; 2 in any case.
        """
        seen = torch.nonzero(self.count.cpu()).squeeze(1)
        number = min(len(seen), max(1, min(2, size // 2), size // self.per_class))
        drawn = seen[torch.randperm(len(seen), generator=rng)[:number]]
        return drawn.repeat_interleave(max(2, size // number)).to(self.count.device)

    def forward(self, fakes: Tensor, labels: Tensor) -> Tensor:
        """The term, a scalar, for float [n, C, H, W] `fakes` of `labels` as `labels` gives them.

        Mean over blocks' features of (x - m)(x' - m) / v over all pairs of different fakes x, x' of a class, m its
        images' mean and v the variance within classes, pooled over all classes and places of the block; plus the same
        of squares. It is 0 in expectation where all agree, and can be negative.
        """
        kinds = labels.unique_consecutive()
        total = fakes.new_zeros((), dtype=torch.float32)
        for i, activation in enumerate(self.critic.maps(fakes)):
            sums, squares = self.get_buffer(f"sum{i}"), self.get_buffer(f"square{i}")
            seen = self.count.view(-1, 1, 1, 1)
            mean, square = sums[kinds] / seen[kinds], squares[kinds] / seen[kinds]
            values = activation.float().contiguous().unflatten(0, (len(kinds), -1))
            overall = squares.sum(0) / seen.sum()
            total = total + _squared_mean(values - mean.unsqueeze(1), self._variance(sums, squares, overall.mean()))
            total = total + self.squares * _squared_mean(values.square() - square.unsqueeze(1), overall.square().mean())
        return total

    def _variance(self, sums: Tensor, squares: Tensor, size: Tensor) -> Tensor:
        """Pooled variance within classes; around the mean of all where no class was seen twice.

        A twentieth of the mean square `size` at least: one image of each class, shown again, has no variance within.
        """
        seen = self.count.view(-1, 1, 1, 1)
        freedom = float(self.count.sum() - (self.count > 0).sum())
        if freedom > 0:
            within = (squares - sums.square() / seen.clamp_min(1)).sum(0).mean() / freedom
        else:
            within = size - (sums.sum(0) / seen.sum()).square().mean()
        return torch.maximum(within, LEAST_VARIANCE * size)


def _squared_mean(values: Tensor, scale: Tensor) -> Tensor:
    """Unbiased squared mean of [K, n, ...] `values` along n, from all pairs of different ones, over `scale`."""
    n = values.shape[1]
    pairs = values.sum(1).square() - values.square().sum(1)
    return pairs.mean() / (n * (n - 1)) / scale.clamp_min(1e-6)
