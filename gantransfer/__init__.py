"""gantransfer: adapt a pre-trained GAN to a few images.

>>> import gantransfer as gt
>>> gan = gt.GAN.from_pretrained("glyph80-32")
>>> run = gt.adapt(gan, "cyrillic10", method="cgantransfer", out="runs/x", steps=400)
>>> run.gan.sample(16)  # uint8 [16, 32, 32, 1]
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Resolved on first use, so that the command line can answer --help without importing torch. No public name may
# equal a module's name: importing the module would hide it.
_HOMES = {
    "gantransfer.api": ("adapt", "pretrain", "resume"),
    "gantransfer.choosing": ("rank_sources",),
    "gantransfer.data": ("ImageData",),
    "gantransfer.explanation": ("explain",),
    "gantransfer.registry": ("register_architecture", "register_features", "register_method", "register_metric"),
    "gantransfer.results": ("Run", "evaluate", "extend", "inspect", "load", "merge"),
    "gantransfer.sources": ("GAN", "convert"),
    "gantransfer.style_mixing": ("style_augment", "style_mix"),
}
_PUBLIC = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'gantransfer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
