"""Signs of collapse, told while a run can still be stopped: each is a sentence, never an end.

Every rule is a function of figures that are logged and of what it remembers of earlier ones in a JSON-ready dict, which
checkpoints keep (`Progress.watch`), so that a resumed run rings when an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SATURATED = 0.02  # of the critic's loss on real plus generated images; it begins at 2 (hinge), 1.39 (non-saturating)
SATURATED_LINES = 10
LEAST_VARIETY = 0.3  # of real images'
FALLEN = 0.5  # of the run's own highest
COPY_RATE = 0.05  # where real images have 0.01


def critic_alarms(watch: dict[str, Any], logs: Mapping[str, float]) -> dict[str, str]:
    """What one line of losses says of the critic, by the alarm's name.

    A Wasserstein critic (one with a gradient penalty) has no loss at which it is done.
    """
    if not {"D/real", "D/fake"} <= logs.keys() or "D/gradient_penalty" in logs:
        return {}
    loss = logs["D/real"] + logs["D/fake"]
    watch["saturated"] = watch.get("saturated", 0) + 1 if loss < SATURATED else 0
    if watch["saturated"] < SATURATED_LINES:
        return {}
    return {"critic": f"the critic is saturated: its loss was below {SATURATED} for {watch['saturated']} log lines, so "
                      "the generator learns little from it; use more images, --augment ada, or --r1-gamma"}


def sample_alarms(watch: dict[str, Any], variety: float | None, copy_rate: float | None) -> dict[str, str]:
    """What one evaluation says of the samples, by the alarm's name.

    Args:
        variety: how far samples of a class lie from each other, as a part of what real images do; None: unknown.
        copy_rate: the part of the samples that count as copies of training images (see `gantransfer.nearest`).
    """
    found = {}
    if variety is not None:
        highest = watch["variety"] = max(variety, watch.get("variety", 0.0))
        if variety < min(LEAST_VARIETY, FALLEN * highest):
            found["diversity"] = (f"the samples lose their diversity: they vary {variety:.2f} times as much as real "
                                  f"images, after {highest:.2f} earlier in this run; an earlier checkpoint may be "
                                  "better, and fewer steps, --augment ada or a lower rate may help")
    if copy_rate is not None and copy_rate > COPY_RATE:
        found["copies"] = (f"{100 * copy_rate:.0f} % of the samples are nearer to a training image than 99 % of real "
                           "images are: training images are being memorised; use more images or fewer steps")
    return found
