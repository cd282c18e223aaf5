"""Floating-point operations of what a function calls: products and convolutions, forward and backward.

PyTorch's formulas; its own `FlopCounterMode` does not stand the second derivatives of R1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _attention(query: torch.Tensor, key: torch.Tensor, products: int) -> int:
    n, heads, places, width = query.shape
    return products * 2 * n * heads * places * key.shape[2] * width


OURS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_: _attention(q, k, 2),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_: _attention(q, k, 5),
}


class _Counter(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kind = func._overloadpacket
        if kind not in flop_registry and kind not in OURS:  # in inference mode composites arrive whole
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if kind in OURS:
            self.total += OURS[kind](*args)
        elif kind in flop_registry:
            self.total += flop_registry[kind](*args, **(kwargs or {}), out_val=out)
        return out


def flops(run: Callable[[], object]) -> int:
    """Of one call of `run`; a multiplication and an addition count as two."""
    with _Counter() as counter:
        run()
    return counter.total
