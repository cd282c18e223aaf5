"""The training loop: phases of a plan, EMA, evaluation, checkpoints. It contains no method's name.

Randomness is a pure function of (seed, step, phase, repeat, process), so a checkpoint stores no generator
state and a resumed run repeats an uninterrupted one bit for bit on the CPU.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gantransfer.alarms import critic_alarms
from gantransfer.checkpoint import flatten_optimizer, load_checkpoint, restore_optimizer, save_checkpoint
from gantransfer.config import differences
from gantransfer.data import ImageData, to_float
from gantransfer.errors import DivergedError, GanTransferError, Interrupted, ModelError, UsageError, first_line
from gantransfer.interrupts import Wish
from gantransfer.kept_memory import kept_memory
from gantransfer.plan import Batch, Group, Phase, Plan
from gantransfer.processes import Processes
from gantransfer.runlog import append_line, cut_after
from gantransfer.schedule import Hooks, Progress, Schedule

MAX_SKIPPED = 5  # non-finite updates in a row before the run is rolled back


def _ramped_ema(schedule: Schedule) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    def update(averages: list[Tensor], currents: list[Tensor], count: Tensor) -> None:
        t = int(count)
        if t < schedule.ema_start:
            decay = 0.0
        else:  # a copied start needs no ramp (BigGAN's way: copy, then one constant decay)
            decay = schedule.ema_decay if schedule.ema_start else min(schedule.ema_decay, (1 + t) / (10 + t))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, 1 - decay)
        else:  # counters; PyTorch calls this once per dtype
            torch._foreach_copy_(averages, currents)

    return update


def _optimizer(group: Group, kind: str) -> torch.optim.Optimizer:
    if kind == "rmsprop":
        return torch.optim.RMSprop(group.params, lr=group.lr, alpha=0.99, eps=group.eps)
    return torch.optim.Adam(group.params, lr=group.lr, betas=group.betas, eps=group.eps)


class Trainer:
    """One run. `run()` trains to the end of the schedule; `restore()` continues from its checkpoints.

    After it `best_state` holds the best moving average (``generator/...``) and the extras of the same iteration
    (``extras/...``), or None where nothing was measured; `load_best` puts them to work.

    Args:
        record: what the run was made from, JSON-ready; kept in checkpoints, and resuming with another is refused.
            Called once, when first needed.
    """

    def __init__(
        self, generator: nn.Module, plan: Plan, data: ImageData, schedule: Schedule, out: Path,
        hooks: Hooks | None = None, record: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.schedule, self.data, self.out, self.hooks = schedule, data, Path(out), hooks or Hooks()
        self.record = functools.cache(record)
        self.processes = Processes(schedule.device)
        self.rank, self.device = self.processes.rank, self.processes.device
        self.generator = generator.to(self.device, memory_format=torch.channels_last)
        self.plan = plan
        states = dict.fromkeys(phase.state for phase in plan.phases if phase.state is not None)
        extras = nn.ModuleDict({**plan.extras, **{f"state{i}": state for i, state in enumerate(states)}})
        self.extras = extras.to(self.device, memory_format=torch.channels_last)
        self.optimizers = {name: _optimizer(group, schedule.optimizer) for name, group in plan.groups.items()}
        self.ema = AveragedModel(generator, multi_avg_fn=_ramped_ema(schedule), use_buffers=True)
        self.ema.module.eval().requires_grad_(False)
        self.ema.update_parameters(generator)  # the first update is a plain copy
        self._buffers = [*self.generator.buffers(), *self.extras.buffers()]
        self.progress = Progress()
        self.best_state: dict[str, Tensor] | None = None
        self._draws = sum(p.repeat for p in plan.phases if p.uses_images) * schedule.accumulate
        self.wish = Wish()
        self._restored = False

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
            number = (self.progress.step * self._draws + draw) * self.processes.world + self.rank
            raw, labels, indices = self.data.batch(number, size, self.schedule.seed)
            images = to_float(raw)
            if self.schedule.mirror:
                flipped = torch.rand(size, 1, 1, 1, generator=rng) < 0.5
                images = images.flip(3).where(flipped, images)
            if self.schedule.image_noise:
                images += self.schedule.image_noise * torch.rand(images.shape, generator=rng)
        move = [t.to(self.device) for t in (images, labels, indices, z, y)]
        return Batch(*move, rng=rng, step=self.progress.step)

    def _modes(self) -> None:
        self.generator.train()
        self.extras.train()
        until = self.plan.fixed_until_nimg
        if until is None or self.progress.nimg < until:
            for module in self.plan.fixed:
                module.eval()
        for norm in self.plan.fixed_statistics:
            norm.training = False  # of itself alone, unlike eval()

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
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.precision == "bf16"):
                losses = phase.loss(batch)
            total = sum(losses.terms.values()) / self.schedule.accumulate
            total.backward()
            for name, value in (losses.terms | losses.logs).items():
                sums[name] = sums.get(name, 0) + value.detach().float() / self.schedule.accumulate
        if self.processes.world > 1:  # a parameter may have none in this process alone, and all must average the same
            for param in params:
                param.grad = torch.zeros_like(param) if param.grad is None else param.grad
        gradients = [p.grad for p in params if p.grad is not None]
        finite = all(bool(torch.isfinite(v)) for v in sums.values())
        finite = self.processes.average(gradients, finite)
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        finite &= bool(torch.isfinite(norm))
        for name in phase.updates:
            if finite:
                self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)
        return {f"{phase.name}/{k}": float(v) for k, v in sums.items()}, finite

    def _iteration(self) -> tuple[dict[str, float], bool]:
        progress, logs, finite, draw = self.progress, {}, True, 0
        buffers = [b.clone() for b in self._buffers]
        self._modes()
        self._set_rates()
        each = self.schedule.batch_size * self.schedule.accumulate * self.processes.world
        shown = 0 if self._draws else each  # a plan without images counts those that it generates
        for index, phase in enumerate(self.plan.phases):
            stop = math.inf if phase.stop_nimg is None else phase.stop_nimg
            active = phase.start_nimg <= progress.nimg < stop
            for repeat in range(phase.repeat):
                if active and progress.step % phase.every == 0:
                    scalars, good = self._update(index, repeat, draw)
                    logs |= scalars
                    finite &= good
                    if phase.uses_images:
                        shown += each
                if phase.uses_images:
                    draw += self.schedule.accumulate
        if not finite:  # running statistics that saw a NaN never lose it
            for buffer, before in zip(self._buffers, buffers, strict=True):
                buffer.copy_(before)
        self.processes.share(self.generator.buffers())
        self.ema.update_parameters(self.generator)
        for name in getattr(self.generator, "unaveraged", ()):
            self.ema.module.get_buffer(name).copy_(self.generator.get_buffer(name))
        progress.step += 1
        progress.nimg += shown
        return logs, finite

    def _set_rates(self) -> None:
        left = self.schedule.steps - self.progress.step
        span = self.schedule.lr_decay * self.schedule.steps
        factor = self.progress.lr_scale * (min(1.0, left / span) if span else 1.0)
        for name, group in self.plan.groups.items():
            stages = self.progress.step // group.decay_steps if group.decay_steps else 0
            self.optimizers[name].param_groups[0]["lr"] = group.lr * factor * group.decay**stages

    # ---- the run -------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """Train to the last step.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
            DivergedError: non-finite updates came back after one roll-back.
        """
        schedule = self.schedule
        with self.wish.listening(), kept_memory():
            if not self._restored:
                self._evaluate()
                self._snapshot()
                self._save()
            stop = self.processes.any(self.wish.stop)
            while self.progress.step < schedule.steps and not stop:
                before, start = self.progress.nimg, time.perf_counter()
                logs, finite = self._iteration()
                self.progress.seconds += time.perf_counter() - start
                if finite:
                    self.progress.skipped_in_a_row = 0
                elif self._non_finite():
                    continue
                stop = self._between(before, logs, finite)
        if stop and self.progress.step < schedule.steps:
            raise Interrupted(f"stopped at step {self.progress.step} of {schedule.steps}, everything saved; "
                              f"go on with: gantransfer resume {self.out}")
        return self.progress

    def _between(self, before: int, logs: Mapping[str, float], finite: bool) -> bool:
        """What happens after an iteration that began at `before` images; whether to stop."""
        step, last = self.progress.step, self.progress.step == self.schedule.steps

        def due(every: int) -> bool:
            return last or _crossed(before, self.progress.nimg, every)

        if finite and due(self.schedule.log_nimg):
            self._log(logs)
        if last or step & (step - 1) == 0:
            self._snapshot()
        until = self.plan.fixed_until_nimg
        if self.hooks.released is not None and self.rank == 0 and until and before < until <= self.progress.nimg:
            self.hooks.released(self.ema.module, step)
        if due(self.schedule.eval_nimg):
            self._evaluate()
        stop = self.processes.any(self.wish.stop)
        if last or stop or (finite and due(self.schedule.checkpoint_nimg)):  # no roll-back into a bad stretch
            self._save()
        return stop

    def _non_finite(self) -> bool:
        """Count a skipped update; after several in a row go back to the last checkpoint once, at half rate.
        Whether it went back."""
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row <= MAX_SKIPPED:
            return False
        if progress.lr_scale < 1:
            raise DivergedError(f"{progress.skipped} updates were non-finite up to step {progress.step}, also after "
                                f"going back once at half the rate; lower the learning rates ('{self.out}' is kept)")
        skipped = progress.skipped
        self.restore()
        self.progress.skipped, self.progress.skipped_in_a_row, self.progress.lr_scale = skipped, 0, 0.5
        self._save()  # a run that is killed and taken up again goes back no second time
        self._report({"event": "rolled back", "step": self.progress.step})
        return True

    def _evaluate(self) -> None:
        if self.hooks.evaluate is None:
            return
        if self.rank == 0:
            began = time.perf_counter()
            scores = self.hooks.evaluate(self.ema.module, self.progress)
            self.progress.measuring_seconds += time.perf_counter() - began
            selection = scores.pop("selection", None)
            line = {**self._place(), **scores, "best": False}
            best = self.progress.best
            if selection is not None and math.isfinite(selection):
                if best is None or selection < best["selection"]:
                    line["best"] = True
                    self.progress.best = {"selection": selection, **line}
                    parts = (("generator", self.ema.module), ("extras", self.extras))
                    self.best_state = {f"{name}/{k}": v.detach().cpu().clone()
                                       for name, part in parts for k, v in part.state_dict().items()}
            append_line(self.out / "metrics.jsonl", line)
            self._report({"event": "evaluated", **line})
        self.processes.wait()

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
        if self.progress.lr_scale < 1:
            line["lr_scale"] = self.progress.lr_scale
        if alarms := critic_alarms(self.progress.watch, logs):
            line["alarms"] = alarms
        if self.rank == 0:
            append_line(self.out / "stats.jsonl", line)
        self._report({"event": "trained", **line})

    def _report(self, event: dict[str, Any]) -> None:
        if self.hooks.report is not None and self.rank == 0:
            self.hooks.report(event)

    # ---- saving --------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        yield "generator", self.generator
        yield "ema", self.ema
        yield "extras", self.extras

    def _save(self) -> None:
        if self.rank == 0:
            tensors = {f"{name}/{k}": v for name, part in self._parts() for k, v in part.state_dict().items()}
            tensors |= {f"best/{k}": v for k, v in (self.best_state or {}).items()}
            meta: dict[str, Any] = {"progress": self.progress.__dict__, "world": self.processes.world,
                                    "record": self.record(), "optimizers": {}}
            for name, optimizer in self.optimizers.items():
                state, hyper = flatten_optimizer(f"optimizer/{name}", optimizer)
                tensors |= state
                meta["optimizers"][name] = hyper
            save_checkpoint(self.out / "checkpoints", self.progress.step, tensors, meta)
        self.processes.wait()

    def load_best(self) -> nn.Module:
        """A CPU copy of the best moving average (the last one where nothing was measured), in eval mode; the extras
        become those of its iteration."""
        best = copy.deepcopy(self.ema.module).cpu()
        if self.best_state is not None:
            best.load_state_dict(_part(self.best_state, "generator"))
            self.extras.load_state_dict(_part(self.best_state, "extras"))
        return best

    def restore(self) -> None:
        """Take up the newest checkpoint; log lines written after it are dropped.

        Raises:
            ModelError: there is none. UsageError: the run was made from something else than this one.
        """
        tensors, meta = load_checkpoint(self.out / "checkpoints")
        try:
            self._check_record(meta)
            progress = Progress(**meta["progress"]).checked()
            for name, module in self._parts():
                module.load_state_dict(_part(tensors, name))
            for name, optimizer in self.optimizers.items():
                restore_optimizer(f"optimizer/{name}", optimizer, tensors, meta["optimizers"][name])
            before = int(meta["world"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, GanTransferError):
                raise
            raise ModelError(f"'{self.out / 'checkpoints'}' holds no checkpoint of this run ({first_line(error)}); "
                             "restore the folder as the run wrote it, or start a new run") from None
        self.progress, self.best_state = progress, _part(tensors, "best") or None
        if self.rank == 0:
            for name in ("metrics.jsonl", "stats.jsonl"):
                cut_after(self.out / name, self.progress.step)
        self._restored = True
        now = self.processes.world
        if before != now:
            text = f"the run had {before} process(es) and now has {now}: it goes on, but not exactly as it would have"
            self._report({"event": "message", "text": text})

    def _check_record(self, meta: Mapping[str, Any]) -> None:
        """Only more steps may have been asked for since the checkpoint."""
        changed = differences(meta["record"], self.record()) if meta.get("record") else {}
        if "train.steps" in changed and changed["train.steps"][0] <= changed["train.steps"][1]:
            del changed["train.steps"]
        if changed:
            shown = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
            raise UsageError(f"run '{self.out}' was started with other settings ({shown}): put them back, or start a "
                             "new run; only train.steps may grow")


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + "/")}


def _crossed(before: int, after: int, every: int) -> bool:
    return every > 0 and before // every != after // every
