"""Adversarial losses, penalties, and the two phases every adversarial method shares.

hinge: Lim and Ye 2017 (eq. 12), used by BigGAN and cGANTransfer; non-saturating: Goodfellow et al. 2014;
wgan-gp: Gulrajani et al. 2017; the auxiliary classifier's terms (AC-GAN): Odena et al. 2017, as in
TransferGAN's eqs. 7 and 8. R1: Mescheder et al. 2018 in the gamma/2 convention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer import ada
from gantransfer.augment import diff_augment
from gantransfer.errors import UsageError, did_you_mean
from gantransfer.plan import Batch, Losses, Phase


def hinge_discriminator(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
    return {"real": F.relu(1 - real).mean(), "fake": F.relu(1 + fake).mean()}


def linear_generator(fake: Tensor) -> Tensor:
    """-E[D(G(z))]: the generator's side of hinge and Wasserstein."""
    return -fake.mean()


def nonsaturating_discriminator(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """E[-log sigma(D(x))] + E[-log(1 - sigma(D(G(z))))]."""
    return {"real": F.softplus(-real).mean(), "fake": F.softplus(fake).mean()}


def nonsaturating_generator(fake: Tensor) -> Tensor:
    """E[-log sigma(D(G(z)))]."""
    return F.softplus(-fake).mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """E[D(G(z))] - E[D(x)]."""
    return {"real": -real.mean(), "fake": fake.mean()}


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], dict[str, Tensor]], Callable[[Tensor], Tensor]]] = {
    "hinge": (hinge_discriminator, linear_generator),
    "non-saturating": (nonsaturating_discriminator, nonsaturating_generator),
    "wgan-gp": (wasserstein_discriminator, linear_generator),
}


def squared_distance(params: Mapping[str, Tensor], anchors: Mapping[str, Tensor]) -> Tensor:
    """Scalar: over the tensors that both have, the sum of their mean squared differences (L2-SP, as FreezeD's code has
    it; the term's own paper sums squares)."""
    return sum((param - anchors[name]).square().mean() for name, param in params.items() if name in anchors)


ORDERS = ("critic", "generator")
# Training settings that a method without a critic has no use for, and why.
NO_CRITIC = dict.fromkeys(("loss", "augment", "d_steps", "r1_gamma", "r2_gamma", "r1_every", "gp_weight", "order",
                           "ada_target", "ada_nimg", "aux_d", "aux_g"), "it trains no critic")


def gradient_square_norm(critic: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """float [N]: squared L2 norm of dD/dx for each image, differentiable in D's parameters."""
    images = _leaf(images)
    return _square_norm(critic(images, labels), images)


def _leaf(images: Tensor) -> Tensor:
    """The same images, for which a gradient is asked."""
    return images.detach().requires_grad_(True)


def _square_norm(logits: Tensor, images: Tensor) -> Tensor:
    """The same from the `logits` of `images` that require a gradient."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None, rng: torch.Generator
) -> Tensor:
    """E[(|dD/dx| - 1)^2] at random points between real and fake images (Gulrajani et al., eq. 3)."""
    a = torch.rand(len(real), 1, 1, 1, generator=rng).to(real)
    square = gradient_square_norm(critic, real + a * (fake - real), labels)
    # A critic that is flat at one image (all its units off) must not make the whole batch's gradient NaN.
    return (square.clamp_min(1e-24).sqrt() - 1).square().mean()


@dataclass(frozen=True)
class AdversarialLoss:
    """The loss of a run and how often the critic is updated.

    Attributes:
        kind: "hinge", "non-saturating" or "wgan-gp".
        gp_weight: weight of the gradient penalty (wgan-gp only).
        r1_gamma: R1 penalty gamma/2 E|dD/dx|^2 on real images; 0 is none.
        r2_gamma: the same on generated images (the limited-data paper's code has both at 40 for 25 images).
        r1_every: only in every k-th iteration, k times as strong (lazy regularisation, Karras et al. 2020, appendix B).
        augment: policy for everything the critic sees: DiffAugment's operations with commas, or "ada" (see
            `gantransfer.ada`). ada_target, ada_nimg: the wanted mean sign of D on real images, and the images in which
            ADA's probability moves by 1 at the fastest.
        d_steps: critic updates per iteration.
        order: which network is updated first, "critic" or "generator". With "generator" the critic then sees the images
            that the generator made before its update, as in the limited-data paper's code.
        aux_d, aux_g: weights alpha_D and alpha_G of the classes' cross-entropy, for critics with an auxiliary
            classifier and targets with classes (TransferGAN, eqs. 7 and 8): the critic learns the classes of real
            images alone. The paper gives no values; its code has 1 and 1.
    """

    kind: str = "hinge"
    gp_weight: float = 10.0
    r1_gamma: float = 0.0
    r2_gamma: float = 0.0
    r1_every: int = 1
    augment: str = ""
    d_steps: int = 1
    order: str = "critic"
    ada_target: float = 0.6
    ada_nimg: int = 500_000
    aux_d: float = 1.0
    aux_g: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in LOSSES:
            raise UsageError(f"loss '{self.kind}' does not exist{did_you_mean(self.kind, LOSSES)}; "
                             f"have: {', '.join(LOSSES)}")
        for name, least in (("d_steps", 1), ("r1_every", 1), ("gp_weight", 0), ("r1_gamma", 0), ("r2_gamma", 0),
                            ("aux_d", 0), ("aux_g", 0)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} {getattr(self, name)} is not possible: choose {least} or more")
        if self.order not in ORDERS:
            raise UsageError(f"order '{self.order}' does not exist{did_you_mean(self.order, ORDERS)}; "
                             f"have: {', '.join(ORDERS)}")
        if self.order == "generator" and self.d_steps > 1:
            raise UsageError(f"order 'generator' shows the critic the generator's own images, so d_steps "
                             f"{self.d_steps} is not possible with it: choose 1")
        if not -1 <= self.ada_target <= 1 or self.ada_nimg < 1:
            raise UsageError(f"ada_target {self.ada_target} with ada_nimg {self.ada_nimg} is not possible: choose a "
                             "mean sign, -1 to 1, and 1 image or more")
        if ada.parse(self.augment) is None:
            diff_augment(self.augment)

    def _augmentation(self, critic: nn.Module) -> tuple[Callable[[Tensor, torch.Generator], Tensor], Any]:
        """The augmentation, and its state where it has one: one for all phases of a critic, with which it is kept."""
        groups = ada.parse(self.augment)
        if groups is None:
            return diff_augment(self.augment), None
        # Beside the critic's modules, not among them: it is no part of a saved model.
        state = critic.__dict__.setdefault(
            "adaptive_augment", ada.AdaptiveAugment(groups, self.ada_target, self.ada_nimg))
        return state, state

    def phases(
        self, generator: nn.Module, critic: nn.Module, *, g_updates: tuple[str, ...],
        d_updates: tuple[str, ...] = ("D",), regulariser: Callable[[], dict[str, Tensor]] | None = None,
        d_regulariser: Callable[[Batch], dict[str, Tensor]] | None = None,
        later: tuple[int, tuple[str, ...]] | None = None,
    ) -> list[Phase]:
        """The critic's phase "D" and the generator's "G", in `order`, with `regulariser`'s terms added to the latter
        and `d_regulariser`'s to the former. `later`: images shown before the generator's groups become others, and
        which; its phase is then two.

        As in BigGAN, fakes and reals pass the critic in one batch, fakes first, and each phase draws its
        own latents. With R1 or R2 they pass it one after the other, as in Mescheder et al.'s code, and the penalty is
        taken from the same pass as the loss.
        """
        d_loss, g_loss = LOSSES[self.kind]
        augment, adaptive = self._augmentation(critic)
        conditional = generator.num_classes > 0
        classifies = conditional and getattr(critic, "classifier", None) is not None
        made: list[tuple[Tensor, Tensor]] = []  # with order "generator": images and labels that wait for the critic

        def judge(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
            return critic.judge(images) if classifies else (critic(images, labels), None)

        def critic_loss(batch: Batch) -> Losses:
            if made:
                fake, y = made.pop(0)
            else:
                with torch.no_grad():
                    fake, y = generator(batch.z, batch.y if conditional else None), batch.y
            with torch.no_grad():
                fake = augment(fake, batch.rng)
            real = augment(batch.images, batch.rng)
            of_fake, of_real = (y, batch.labels) if conditional else (None, None)
            penalised = batch.step % self.r1_every == 0
            logs: dict[str, Tensor] = {}
            if penalised and (self.r1_gamma or self.r2_gamma):  # the penalties take up the graphs of these two
                fake, real = _leaf(fake) if self.r2_gamma else fake, _leaf(real) if self.r1_gamma else real
                (on_fake, _), (on_real, kinds) = judge(fake, of_fake), judge(real, of_real)
            else:
                on_both, kinds = judge(torch.cat([fake, real]), torch.cat([of_fake, of_real]) if conditional else None)
                on_fake, on_real = on_both.split([len(fake), len(real)])
                kinds = None if kinds is None else kinds[len(fake) :]
            terms = d_loss(on_real, on_fake)
            if kinds is not None:
                on_classes = kinds.float()
                terms["classes"] = self.aux_d * F.cross_entropy(on_classes, batch.labels)
                logs["accuracy_real"] = (on_classes.argmax(1) == batch.labels).float().mean()
            if adaptive is not None:
                adaptive.observe(on_real)
                logs["augment_p"] = adaptive.p.clone()
            if self.kind == "wgan-gp":
                between = gradient_penalty(critic, real, fake, of_real, batch.rng)
                terms["gradient_penalty"] = self.gp_weight * between
            for name, gamma, logits, images in (("r1", self.r1_gamma, on_real, real),
                                                ("r2", self.r2_gamma, on_fake, fake)):
                if gamma and penalised:
                    terms[name] = self.r1_every * gamma / 2 * _square_norm(logits, images).mean()
            if d_regulariser is not None:
                terms |= d_regulariser(batch)
            return Losses(terms, {"logits_real": on_real.mean(), "logits_fake": on_fake.mean(), **logs})

        def generator_loss(batch: Batch) -> Losses:
            labels = batch.y if conditional else None
            fake = generator(batch.z, labels)
            if self.order == "generator":
                made.append((fake.detach(), batch.y))
            shown = augment(fake, batch.rng)
            logits, kinds = judge(shown, labels)
            terms = {"adversarial": g_loss(logits)}
            if kinds is not None:
                terms["classes"] = self.aux_g * F.cross_entropy(kinds.float(), batch.y)
            if regulariser is not None:
                terms |= regulariser()
            return Losses(terms, {})

        of_d = [Phase("D", d_updates, critic_loss, repeat=self.d_steps, state=adaptive)]
        first = Phase("G", g_updates, generator_loss, uses_images=False)
        of_g = [first]
        if later is not None:
            nimg, groups = later
            of_g = [replace(first, stop_nimg=nimg), replace(first, updates=groups, start_nimg=nimg)]
        return of_d + of_g if self.order == "critic" else of_g + of_d
