"""gantransfer: adapt a pre-trained GAN to a few images."""

from __future__ import annotations

from gantransfer.registry import (
    register_architecture,
    register_features,
    register_method,
    register_metric,
)
from gantransfer.sources import GAN, convert

__version__ = "0.1.0"
__all__ = [
    "GAN",
    "convert",
    "register_architecture",
    "register_features",
    "register_method",
    "register_metric",
]
