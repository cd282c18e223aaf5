"""What the trainer is told (how long, how often), where it stands, and what its caller may add."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gantransfer.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """How long and how often, in iterations (one pass over the plan's phases) and images shown.

    Attributes:
        steps: iterations. batch_size: images per process and loss evaluation.
        accumulate: loss evaluations per optimiser step (gradients are averaged).
        lr_decay: fraction of the run, at its end, over which all rates fall linearly to zero.
        ema_decay: decay of the generator's moving average, reached along a (1 + t) / (10 + t) ramp.
        ema_start: the average is a plain copy in iterations before this one, and there is no ramp (0: with ramp).
        eval_nimg, checkpoint_nimg, log_nimg: images shown between evaluations, checkpoints, log lines; 0: only at
            the end (and, evaluations and checkpoints, at the start).
        optimizer: "adam" (with each group's betas) or "rmsprop" (alpha 0.99, as GP-GAN was published).
        image_noise: training images get uniform noise in [0, image_noise) added (GP-GAN: 1/128).
        mirror: training images are flipped left to right half of the time.
        precision: "fp32" or "bf16" (autocast). device: "auto", "cpu" or "cuda".
        threads: processor threads, on whose number sums and so single bits depend; None: PyTorch's choice.

    Raises:
        UsageError: a value out of its range.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    lr_decay: float = 0.0
    ema_decay: float = 0.98
    ema_start: int = 0
    eval_nimg: int = 1600
    checkpoint_nimg: int = 8000
    log_nimg: int = 320
    optimizer: str = "adam"
    image_noise: float = 0.0
    mirror: bool = False
    precision: str = "fp32"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        checks = (
            ("steps", self.steps >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("accumulate", self.accumulate >= 1, "1 or more"),
            ("seed", 0 <= self.seed < 2**63, "0 or more, below 2 to the 63"),
            ("lr_decay", 0 <= self.lr_decay <= 1, "a fraction of the run, 0 to 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 or more and below 1"),
            ("ema_start", self.ema_start >= 0, "0 or more"),
            ("eval_nimg", self.eval_nimg >= 0, "0 or more"),
            ("checkpoint_nimg", self.checkpoint_nimg >= 0, "0 or more"),
            ("log_nimg", self.log_nimg >= 0, "0 or more"),
            ("optimizer", self.optimizer in ("adam", "rmsprop"), "adam or rmsprop"),
            ("image_noise", 0 <= self.image_noise < 2, "0 or more and below 2, the range of the images"),
            ("precision", self.precision in ("fp32", "bf16"), "fp32 or bf16"),
            ("threads", self.threads is None or self.threads >= 1, "1 or more"),
            ("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
        )
        for name, good, allowed in checks:
            if not good:
                raise UsageError(f"{name} {getattr(self, name)!r} is not possible: choose {allowed}")


@dataclass
class Progress:
    """Where a run stands; stored in every checkpoint. `seconds` is training alone, `measuring_seconds` evaluations;
    `watch` is what `gantransfer.alarms` remembers."""

    step: int = 0
    nimg: int = 0
    seconds: float = 0.0
    measuring_seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    lr_scale: float = 1.0
    best: dict[str, Any] | None = None
    watch: dict[str, Any] = field(default_factory=dict)

    def checked(self) -> Progress:
        """Itself, if its values can be those of a run (ValueError)."""
        counts = (self.step, self.nimg, self.skipped, self.skipped_in_a_row)
        times = (self.seconds, self.measuring_seconds, self.lr_scale)
        if not all(type(n) is int and 0 <= n < 2**63 for n in counts):
            raise ValueError("its counters are no whole numbers")
        if not all(isinstance(t, (int, float)) and math.isfinite(t) and t >= 0 for t in times):
            raise ValueError("its times are no numbers")
        selection = 0.0 if self.best is None else self.best["selection"]
        if not isinstance(selection, (int, float)) or not isinstance(self.watch, dict):
            raise ValueError("its best evaluation is none")
        return self


@dataclass
class Hooks:
    """What the caller adds to the loop; every one may be absent.

    evaluate: EMA generator -> scores, lower ``selection`` is better. snapshot: EMA generator, step; called at
    logarithmic steps. released: the same, once the plan's fixed modules are released. report: a dict for the screen and
    external trackers, called at every log line.
    """

    evaluate: Callable[[nn.Module, Progress], dict[str, Any]] | None = None
    snapshot: Callable[[nn.Module, int], None] | None = None
    released: Callable[[nn.Module, int], None] | None = None
    report: Callable[[dict[str, Any]], None] | None = None
