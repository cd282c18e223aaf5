"""In which proportions several sources make up the target: those whose mixture has the images' mean features.

If the images are a mixture of what the sources draw, with weights p_i, the mean of any features over them is the same
mixture of the sources' means, sum_i p_i m_i = m. Least squares for that over p_i >= 0, sum_i p_i = 1 is the estimate of
class ratios by mean matching (Iyer, Nath and Sarawagi, "Maximum Mean Discrepancy for Class Ratio Estimation", ICML
2014). The features are the frozen source critic's, whose blocks' activations are averaged over places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gantransfer.observing import FrozenCritic, over_processes

DEVIATIONS = 3
LEAST = 0.1  # of the median deviation: a feature that is nearly constant in the sources would outweigh all others


class Proportions(FrozenCritic):
    """Running means of features, saved and resumed with the run, and the estimate from them.

    Args:
        critic: a source's, see `FrozenCritic`.
        sources: their number N. resolution, channels: of the images.
        half_life: of each source's images after which half of its mean is newer, since miners learn; 0: the last batch.
    """

    drawn: Tensor
    seen: Tensor

    def __init__(self, critic: nn.Module, sources: int, resolution: int, channels: int, half_life: float) -> None:
        super().__init__(critic)
        self.half_life = half_life
        device = next(critic.parameters()).device
        width = self.features(torch.zeros(1, channels, resolution, resolution, device=device)).shape[1]
        # Sums over images of features and, for the variance, of squares; the last entry counts the images.
        self.register_buffer("drawn", torch.zeros(sources, 2 * width + 1, device=device))
        self.register_buffer("seen", torch.zeros(2 * width + 1, device=device))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """float32 [B, F]: means over places of every block's activations on images [B, C, H, W]."""
        return torch.cat([activation.float().mean((2, 3)) for activation in self.critic.maps(images)], 1)

    def see(self, images: Tensor) -> None:
        """Add target images, float [B, C, H, W], of all processes."""
        self.seen += self._sums(images)

    def add(self, fakes: Sequence[Tensor]) -> None:
        """Add images of each source, N batches of float [B, C, H, W], of all processes."""
        sums = torch.stack([self._sums(images) for images in fakes])
        keep = 0.5 ** (float(sums[0, -1]) / self.half_life) if self.half_life else 0.0
        self.drawn.mul_(keep).add_(sums)

    def _sums(self, images: Tensor) -> Tensor:
        found = self.features(images)
        return over_processes(torch.cat([found.sum(0), found.square().sum(0), found.new_tensor([float(len(found))])]))

    def estimate(self, shares: Tensor) -> Tensor:
        """Weights [N], each 0 or more with sum 1. Features count in units of their deviation within sources
        (`LEAST` of the median one at least). Where
        sources draw the same, means cannot tell: within `DEVIATIONS` of chance it is `shares` [N] that hold."""
        if not (float(self.seen[-1]) and float(self.drawn[0, -1])):
            return shares
        width = (len(self.seen) - 1) // 2
        count = self.drawn[:, -1:].double()
        means, squares = (self.drawn[:, part].double() / count for part in (slice(width), slice(width, 2 * width)))
        scale = (squares - means.square()).mean(0).clamp_min(1e-12).sqrt()
        scale = scale.clamp_min(LEAST * float(scale.median()))
        wanted = self.seen[:width].double() / self.seen[-1].double()
        chance = width / float(count[0])  # expected squared error of a source's means
        return on_simplex(means / scale, wanted / scale, shares.double(), DEVIATIONS**2 * chance).to(shares)


def on_simplex(rows: Tensor, wanted: Tensor, prior: Tensor, ridge: float) -> Tensor:
    """The p [N] >= 0 of sum 1 for which |p rows - wanted|^2 + ridge |p - prior|^2 is least, for rows [N, F].

    With the sum alone as a condition this is a linear system; the most negative entry is set to 0 and the rest solved
    again until none is.
    """
    square = rows @ rows.T + ridge * torch.eye(len(rows)).to(rows)
    right = rows @ wanted + ridge * prior
    kept = list(range(len(rows)))
    while True:
        n = len(kept)
        system = rows.new_ones(n + 1, n + 1)
        system[:n, :n], system[n, n] = square[kept][:, kept], 0.0
        p = torch.linalg.solve(system, torch.cat([right[kept], rows.new_ones(1)]))[:n]
        if float(p.min()) >= 0:
            return rows.new_zeros(len(rows)).index_put((torch.tensor(kept, device=rows.device),), p)
        kept.pop(int(p.argmin()))
