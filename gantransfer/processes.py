"""Several processes that train one model, one per device, through accelerate: what they must agree on.

Gradients are averaged here rather than by a wrapper around the network: a method's phases move different groups,
and a frozen generator has none to wrap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gantransfer.errors import UsageError


class Processes:
    """This process among its peers; alone, everything here does nothing.

    Attributes:
        rank: 0 is the one that writes. world: how many there are. device: this one's.
    """

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator

        # Precision and device are the trainer's: accelerate fixes both for the life of the process.
        self._accelerator = Accelerator(cpu=device == "cpu")
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self.device = _device(device, self._accelerator.local_process_index)

    def wait(self) -> None:
        """Until all are here."""
        self._accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        if self.world == 1:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum"))

    def average(self, gradients: Sequence[Tensor], finite: bool) -> bool:
        """Average gradients in place; whether `finite` holds in every process."""
        if self.world == 1:
            return finite
        flag = torch.tensor([0.0 if finite else 1.0], device=self.device)
        flat = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients] + [flag]), "mean")
        *parts, flag = flat.split([*(g.numel() for g in gradients), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return float(flag) == 0

    def share(self, buffers: Iterable[Tensor]) -> None:
        """Running statistics differ between processes; all take the first one's, as in the official code."""
        if self.world > 1:
            for buffer in buffers:
                if buffer.is_floating_point():
                    torch.distributed.broadcast(buffer, 0)


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' is not available here; choose auto or cpu")
    cuda = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", local_rank) if cuda else torch.device("cpu")


@contextmanager
def processor_threads(count: int | None) -> Iterator[None]:
    """PyTorch with `count` threads inside (None: as many as before)."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
