"""Settings a user need not choose: they depend on the size of the target set."""

from __future__ import annotations

from dataclasses import dataclass

from gantransfer.losses import AdversarialLoss
from gantransfer.trainer import Schedule


@dataclass(frozen=True)
class Training:
    """Training arguments of `adapt` and `pretrain`; None means: chosen from the number of images.

    Attributes:
        steps, batch_size, accumulate, seed, lr_decay, ema_decay, ema_start, eval_nimg, checkpoint_nimg, log_nimg,
            optimizer, image_noise, mirror, precision, device, threads: as `gantransfer.trainer.Schedule`.
        loss, augment, d_steps, r1_gamma, r2_gamma, r1_every, gp_weight, order, ada_target, ada_nimg, aux_d, aux_g: as
            `gantransfer.losses.AdversarialLoss`; loss None is hinge, or what the source was trained with for a method
            that goes on with it, in pre-training what the architecture was published with.
    """

    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    seed: int = 0
    lr_decay: float = 0.0
    ema_decay: float | None = None
    ema_start: int = 0
    eval_nimg: int | None = None
    checkpoint_nimg: int | None = None
    log_nimg: int | None = None
    optimizer: str = "adam"
    image_noise: float = 0.0
    mirror: bool = False
    precision: str = "fp32"
    device: str = "auto"
    threads: int | None = None
    loss: str | None = None
    augment: str | None = None
    d_steps: int | None = None
    r1_gamma: float | None = None
    r2_gamma: float = 0.0
    r1_every: int = 4
    gp_weight: float = 10.0
    order: str = "critic"
    ada_target: float = 0.6
    ada_nimg: int = 500_000
    aux_d: float = 1.0
    aux_g: float = 1.0

    def resolve(self, images: int, kind: str) -> tuple[Schedule, AdversarialLoss]:
        """Every setting, for `images` training images and "adapt" or "pretrain".

        Adaptation: 400 iterations for 25 images, growing with the cube root of the set to 2,400 for 5,000. Sets
        below 5,000 images are augmented by translations: a critic learns few images by heart, and its gradients
        then swing. R1 (2, every 4th iteration) for every loss but wgan-gp, which has a penalty of its own: without it
        single classes go astray and variety is lost in pre-training (``results/glyph80-32``). Batches of 32, or the
        whole set if it is smaller. The moving average spans about 50 iterations in adaptation. Pre-training updates
        the critic twice per iteration, and wgan-gp always five times, as published.
        """
        pretraining = kind == "pretrain"
        batch = self.batch_size
        if batch is None:
            batch = max(2, min(32, images))
        steps = self.steps
        if steps is None:
            steps = 20000 if pretraining else int(round(min(2400, max(400, 140 * images ** (1 / 3))), -1))
        d_steps = self.d_steps
        if d_steps is None:
            d_steps = 5 if self.loss == "wgan-gp" else 2 if pretraining else 1
        r1_gamma = self.r1_gamma if self.r1_gamma is not None else (0.0 if self.loss == "wgan-gp" else 2.0)
        shown = batch * d_steps * self.accumulate
        augment = self.augment
        if augment is None:
            augment = "" if pretraining or images >= 5000 else "translation"
        schedule = Schedule(
            steps=steps, batch_size=batch, accumulate=self.accumulate, seed=self.seed, lr_decay=self.lr_decay,
            ema_decay=self.ema_decay if self.ema_decay is not None else (0.999 if pretraining else 0.98),
            ema_start=self.ema_start,
            eval_nimg=self.eval_nimg if self.eval_nimg is not None else shown * max(1, min(steps // 20, 500)),
            checkpoint_nimg=self.checkpoint_nimg if self.checkpoint_nimg is not None
            else shown * max(1, min(steps // 4, 500)),
            log_nimg=self.log_nimg if self.log_nimg is not None else shown * max(1, min(steps // 50, 50)),
            optimizer=self.optimizer, image_noise=self.image_noise, mirror=self.mirror,
            precision=self.precision, device=self.device, threads=self.threads,
        )
        loss = AdversarialLoss(self.loss or "hinge", self.gp_weight, r1_gamma, self.r2_gamma, self.r1_every, augment,
                               d_steps, self.order, self.ada_target, self.ada_nimg, self.aux_d, self.aux_g)
        return schedule, loss
