"""What modules that watch a run share: the source's critic as it was, and sums over all processes."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, distributed, nn


class FrozenCritic(nn.Module):
    """A module with a frozen copy of `critic`, which moves with it between devices and is not in its state: it is the
    source's, and need not be in every checkpoint. It has ``maps(images)``, its blocks' activations [N, C, H, W]."""

    critic: nn.Module

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.__dict__["critic"] = copy.deepcopy(critic).eval().requires_grad_(False)

    def _apply(self, fn: Any, recurse: bool = True) -> FrozenCritic:
        self.critic._apply(fn)
        return super()._apply(fn, recurse)


def over_processes(tensor: Tensor) -> Tensor:
    """`tensor` itself, the sum of those of all processes, of which there may be one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor
