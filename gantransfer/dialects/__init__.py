"""Checkpoints of other code bases, read into gantransfer's networks; importing this package registers all dialects."""

from __future__ import annotations

import importlib
import pkgutil

from gantransfer.dialects.base import WITH_MINER, read_settings
from gantransfer.dialects.base import dialects as registered

__all__ = ["WITH_MINER", "read_settings", "registered"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
