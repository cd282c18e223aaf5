"""What each of two processes does in test_processes: ``python two_processes.py FOLDER``, with torchrun's variables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tiny import NETWORKS, assemble, break_at, make_source
from toy import Toy, poisoned

import gantransfer.api as api
from gantransfer.data import ImageData
from gantransfer.errors import Interrupted
from gantransfer.plan import Phase
from gantransfer.trainer import Trainer
from gantransfer.weights import write_tensors


def keep(trainer: Trainer, path: Path) -> None:
    """Everything this process holds."""
    tensors = {f"{name}/{k}": v for name, part in trainer._parts() for k, v in part.state_dict().items()}
    write_tensors(tensors, path / f"rank-{trainer.rank}.safetensors")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    data = ImageData(folder / "data", size=32, channels=1)
    gan = make_source("shared", **NETWORKS["shared"])

    def start(name: str, **settings: Any) -> Trainer:
        return assemble(folder / name, gan, data, "transfergan", batch_size=2, **settings).trainer

    straight = start("straight")
    straight.run()
    keep(straight, folder / "straight")

    # The wish to stop reaches the second process alone; both must stop after the same step.
    holder: list[Trainer] = []
    broken = start("broken", report=break_at(3, "stop", holder))
    holder.append(broken)
    if broken.rank == 1:
        broken._log = lambda logs: setattr(broken.wish, "stop", broken.progress.step == 3)  # type: ignore[method-assign]
        holder.clear()
    else:
        broken.hooks.report = None
    try:
        broken.run()
    except Interrupted:
        print(f"rank {broken.rank} stopped at {broken.progress.step}")
    resumed = start("broken")
    resumed.restore()
    resumed.run()
    keep(resumed, folder / "broken")

    fields = {"match_nimg": 12, "match_weight": 1.0}
    matched = assemble(folder / "matched", gan, data, "bsa", fields, batch_size=2).trainer
    matched.run()
    keep(matched, folder / "matched")

    both = [gan, make_source("tables", 1)]
    mined = assemble(folder / "mined", both, data, "minegan", {"mining_nimg": 8}, batch_size=2).trainer
    mined.run()
    keep(mined, folder / "mined")

    # A loss that is NaN in one process is skipped by both.
    def phases(toy: Toy) -> list[Phase]:
        loss = poisoned(toy.generator_loss, lambda: toy.trainer.rank == 1 and toy.trainer.progress.step == 2)
        return [Phase("D", ("D",), toy.critic_loss), Phase("G", ("low", "high"), loss, uses_images=False)]

    toy = Toy(folder / "toy", phases)
    print(json.dumps({"rank": toy.trainer.rank, "skipped": toy.trainer.run().skipped, "asked": toy.data.asked}))
    keep(toy.trainer, folder / "toy")

    run = api.adapt(gan, data, "bsa", folder / "adapted", steps=2, batch_size=2, evaluate=False, device="cpu")
    print(json.dumps({"rank": toy.trainer.rank, "sha256": run.gan.sha256}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
