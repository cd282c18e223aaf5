"""The training loop: phases of a plan, EMA, evaluation, checkpoints. It contains no method's name.

Randomness is a pure function of (seed, step, phase, repeat, process), so a checkpoint stores no generator
state and a resumed run repeats an uninterrupted one bit for bit on the CPU.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gantransfer.checkpoint import flatten_optimizer, load_checkpoint, restore_optimizer, save_checkpoint
from gantransfer.data import ImageData, to_float
from gantransfer.errors import DivergedError, Interrupted, OutputError
from gantransfer.plan import Batch, Phase, Plan

MAX_SKIPPED = 5  # non-finite updates in a row before the run is rolled back


@dataclass(frozen=True)
class Schedule:
    """How long and how often, in iterations (one pass over the plan's phases) and images shown.

    Attributes:
        steps: iterations. batch_size: images per process and loss evaluation.
        accumulate: loss evaluations per optimiser step (gradients are averaged).
        lr_decay: fraction of the run, at its end, over which all rates fall linearly to zero.
        ema_decay: decay of the generator's moving average, reached along a (1 + t) / (10 + t) ramp.
        ema_start: iterations during which the average is a plain copy.
        eval_nimg, checkpoint_nimg, log_nimg: images shown between evaluations, checkpoints, log lines.
        precision: "fp32" or "bf16" (autocast). device: "auto", "cpu" or "cuda".
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
    precision: str = "fp32"
    device: str = "auto"


@dataclass
class Progress:
    """Where a run stands; stored in every checkpoint."""

    step: int = 0
    nimg: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    lr_scale: float = 1.0
    best: dict[str, Any] | None = None


@dataclass
class Hooks:
    """What the caller adds to the loop; every one may be absent.

    evaluate: EMA generator -> scores, lower ``selection`` is better. snapshot: EMA generator, step; called at
    logarithmic steps. report: a dict for the screen and external trackers, called at every log line.
    """

    evaluate: Callable[[nn.Module, Progress], dict[str, Any]] | None = None
    snapshot: Callable[[nn.Module, int], None] | None = None
    report: Callable[[dict[str, Any]], None] | None = None


def _ramped_ema(schedule: Schedule) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    def update(averages: list[Tensor], currents: list[Tensor], count: Tensor) -> None:
        t = int(count)
        decay = 0.0 if t < schedule.ema_start else min(schedule.ema_decay, (1 + t) / (10 + t))
        pairs = [(a, c) for a, c in zip(averages, currents, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [c for _, c in pairs], 1 - decay)

    return update


class Trainer:
    """One run. `run()` trains to the end of the schedule; `restore()` continues from its checkpoints."""

    def __init__(
        self, generator: nn.Module, plan: Plan, data: ImageData, schedule: Schedule, out: Path,
        hooks: Hooks | None = None,
    ) -> None:
        from accelerate import Accelerator

        self.schedule, self.data, self.out, self.hooks = schedule, data, Path(out), hooks or Hooks()
        self.accelerator = Accelerator(
            cpu=schedule.device == "cpu", mixed_precision="bf16" if schedule.precision == "bf16" else "no"
        )
        self.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.generator = generator.to(self.device, memory_format=torch.channels_last)
        self.plan = plan
        self.extras = plan.extras.to(self.device, memory_format=torch.channels_last)
        self.optimizers = {
            name: torch.optim.Adam(group.params, lr=group.lr, betas=group.betas, eps=group.eps)
            for name, group in plan.groups.items()
        }
        self.ema = AveragedModel(generator, multi_avg_fn=_ramped_ema(schedule), use_buffers=True)
        self.ema.module.eval().requires_grad_(False)
        self.ema.update_parameters(generator)  # the first update is a plain copy
        self.progress = Progress()
        self.best_state: dict[str, Tensor] | None = None
        self._draws = sum(p.repeat for p in plan.phases if p.uses_images) * schedule.accumulate
        self._stop = False

    # ---- one iteration -------------------------------------------------------------------------------

    def _rng(self, *keys: int) -> torch.Generator:
        words = np.random.SeedSequence([self.schedule.seed, self.progress.step, self.rank, *keys])
        return torch.Generator().manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))

    def _batch(self, phase: int, repeat: int, part: int, draw: int) -> Batch:
        rng, size = self._rng(phase, repeat, part), self.schedule.batch_size
        z = torch.randn(size, self.generator.z_dim, generator=rng)
        y = torch.randint(max(self.generator.num_classes, 1), (size,), generator=rng)
        images = labels = indices = torch.empty(0)
        if self.plan.phases[phase].uses_images:
            number = (self.progress.step * self._draws + draw) * self.world + self.rank
            raw, labels, indices = self.data.batch(number, size, self.schedule.seed)
            images = to_float(raw)
        move = [t.to(self.device) for t in (images, labels, indices, z, y)]
        return Batch(*move, rng=rng)

    def _modes(self) -> None:
        self.generator.train()
        self.extras.train()
        until = self.plan.fixed_until_nimg
        if until is None or self.progress.nimg < until:
            for module in self.plan.fixed:
                module.eval()

    def _only(self, updates: tuple[str, ...]) -> list[nn.Parameter]:
        """Turn every gradient off, then those of the groups in `updates` on."""
        self.generator.requires_grad_(False)
        self.extras.requires_grad_(False)
        params = [p for name in updates for p in self.plan.groups[name].params]
        for param in params:
            param.requires_grad_(True)
        return params

    def _update(self, index: int, repeat: int, draw: int) -> tuple[dict[str, float], bool]:
        """One optimiser step of phase `index`; scalars for the log, and whether all was finite."""
        phase: Phase = self.plan.phases[index]
        params = self._only(phase.updates)
        sums: dict[str, Tensor] = {}
        for part in range(self.schedule.accumulate):
            batch = self._batch(index, repeat, part, draw + part)
            with self.accelerator.autocast():
                losses = phase.loss(batch)
            total = sum(losses.terms.values()) / self.schedule.accumulate
            total.backward()
            for name, value in (losses.terms | losses.logs).items():
                sums[name] = sums.get(name, 0) + value.detach().float() / self.schedule.accumulate
        gradients = [p.grad for p in params if p.grad is not None]
        if self.world > 1 and gradients:
            flat = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        finite = bool(torch.isfinite(norm)) and all(bool(torch.isfinite(v)) for v in sums.values())
        for name in phase.updates:
            if finite:
                self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)
        return {f"{phase.name}/{k}": float(v) for k, v in sums.items()}, finite

    def _iteration(self) -> tuple[dict[str, float], bool]:
        progress, logs, finite, draw = self.progress, {}, True, 0
        self._modes()
        self._set_rates()
        shown = 0
        for index, phase in enumerate(self.plan.phases):
            active = phase.start_nimg <= progress.nimg < (phase.stop_nimg or math.inf)
            for repeat in range(phase.repeat):
                if active and progress.step % phase.every == 0:
                    scalars, good = self._update(index, repeat, draw)
                    logs |= scalars
                    finite &= good
                    if phase.uses_images:
                        shown += self.schedule.batch_size * self.schedule.accumulate * self.world
                if phase.uses_images:
                    draw += self.schedule.accumulate
        self._share_buffers()
        self.ema.update_parameters(self.generator)
        progress.step += 1
        progress.nimg += shown
        return logs, finite

    def _set_rates(self) -> None:
        left = self.schedule.steps - self.progress.step
        span = self.schedule.lr_decay * self.schedule.steps
        factor = self.progress.lr_scale * (min(1.0, left / span) if span else 1.0)
        for name, group in self.plan.groups.items():
            self.optimizers[name].param_groups[0]["lr"] = group.lr * factor

    def _share_buffers(self) -> None:
        """Running statistics differ between processes; all take the first one's, as in the official code."""
        if self.world > 1:
            for buffer in self.generator.buffers():
                if buffer.is_floating_point():
                    torch.distributed.broadcast(buffer, 0)

    # ---- the run -------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """Train to the last step.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
            DivergedError: non-finite updates came back after one roll-back.
        """
        schedule, progress = self.schedule, self.progress
        if progress.step == 0:
            self._evaluate()
            self._snapshot()
            self._save()
        with self._signals():
            while progress.step < schedule.steps and not self._stop:
                before, start = progress.nimg, time.perf_counter()
                logs, finite = self._iteration()
                progress.seconds += time.perf_counter() - start
                last = progress.step == schedule.steps
                if not finite:
                    progress = self._non_finite()
                    continue
                progress.skipped_in_a_row = 0
                if last or _crossed(before, progress.nimg, schedule.log_nimg):
                    self._log(logs)
                if (progress.step & (progress.step - 1)) == 0 or last:
                    self._snapshot()
                if last or _crossed(before, progress.nimg, schedule.eval_nimg):
                    self._evaluate()
                if last or self._stop or _crossed(before, progress.nimg, schedule.checkpoint_nimg):
                    self._save()
        if self._stop and progress.step < schedule.steps:
            raise Interrupted(f"stopped at step {progress.step} of {schedule.steps}, everything saved; "
                              f"go on with: gantransfer resume {self.out}")
        return progress

    def _non_finite(self) -> Progress:
        """Count a skipped update; after several in a row go back to the last checkpoint once, at half rate."""
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row <= MAX_SKIPPED:
            return progress
        if progress.lr_scale < 1:
            raise DivergedError(f"{progress.skipped} updates were non-finite up to step {progress.step}, also after "
                                f"going back once at half the rate; lower the learning rates ('{self.out}' is kept)")
        skipped = progress.skipped
        self.restore()
        self.progress.skipped, self.progress.lr_scale = skipped, 0.5
        self._report({"event": "rolled back", "step": self.progress.step})
        return self.progress

    def _evaluate(self) -> None:
        if self.hooks.evaluate is None:
            return
        if self.rank == 0:
            scores = self.hooks.evaluate(self.ema.module, self.progress)
            selection = scores.pop("selection", None)
            line = {**self._place(), **scores, "best": False}
            best = self.progress.best
            if selection is not None and math.isfinite(selection):
                if best is None or selection < best["selection"]:
                    line["best"] = True
                    self.progress.best = {"selection": selection, **line}
                    self.best_state = {k: v.detach().cpu().clone() for k, v in self.ema.module.state_dict().items()}
            self._write("metrics.jsonl", line)
            self._report({"event": "evaluated", **line})
        self.accelerator.wait_for_everyone()

    def _snapshot(self) -> None:
        if self.hooks.snapshot is not None and self.rank == 0:
            self.hooks.snapshot(self.ema.module, self.progress.step)

    def _place(self) -> dict[str, Any]:
        return {"step": self.progress.step, "nimg": self.progress.nimg, "seconds": round(self.progress.seconds, 3)}

    def _log(self, logs: Mapping[str, float]) -> None:
        rate = self.progress.nimg / max(self.progress.seconds, 1e-9)
        line = {**self._place(), "images_per_second": round(rate, 1), **logs}
        if self.progress.skipped:
            line["skipped"] = self.progress.skipped
        if self.rank == 0:
            self._write("stats.jsonl", line)
        self._report({"event": "trained", **line})

    def _report(self, event: dict[str, Any]) -> None:
        if self.hooks.report is not None and self.rank == 0:
            self.hooks.report(event)

    def _write(self, name: str, line: Mapping[str, Any]) -> None:
        try:
            with open(self.out / name, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write '{self.out / name}' ({error.strerror}); free space, then "
                              f"'gantransfer resume {self.out}'") from None

    # ---- saving --------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        yield "generator", self.generator
        yield "ema", self.ema
        yield "extras", self.extras

    def _save(self) -> None:
        if self.rank == 0:
            tensors = {f"{name}/{k}": v for name, part in self._parts() for k, v in part.state_dict().items()}
            tensors |= {f"best/{k}": v for k, v in (self.best_state or {}).items()}
            meta: dict[str, Any] = {"progress": self.progress.__dict__, "world": self.world, "optimizers": {}}
            for name, optimizer in self.optimizers.items():
                state, hyper = flatten_optimizer(f"optimizer/{name}", optimizer)
                tensors |= state
                meta["optimizers"][name] = hyper
            save_checkpoint(self.out / "checkpoints", self.progress.step, tensors, meta)
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        """Take up the newest checkpoint; log lines written after it are dropped."""
        tensors, meta = load_checkpoint(self.out / "checkpoints")

        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + "/")}

        for name, module in self._parts():
            module.load_state_dict(part(name))
        self.best_state = part("best") or None
        for name, optimizer in self.optimizers.items():
            restore_optimizer(f"optimizer/{name}", optimizer, tensors, meta["optimizers"][name])
        self.progress = Progress(**meta["progress"])
        if self.rank == 0:
            for name in ("metrics.jsonl", "stats.jsonl"):
                _truncate(self.out / name, self.progress.step)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """First SIGINT or SIGTERM: finish the step and save. Second: quit at once."""

        def stop(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        try:
            old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals stay the caller's
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _crossed(before: int, after: int, every: int) -> bool:
    return every > 0 and before // every != after // every


def _truncate(path: Path, step: int) -> None:
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


