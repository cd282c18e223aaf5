"""PPGN: samples of p(h | y) ~ p(h) p(y | G(h)) by noisy steps along a learned prior's and a classifier's gradients.

Paper: Nguyen, Clune, Bengio, Dosovitskiy, Yosinski, "Plug & Play Generative Networks: Conditional Iterative Generation
of Images in Latent Space", CVPR 2017. Eq. 5, an approximate Langevin sampler with three weights:

    h <- h + e1 (R(h) - h) + e2 d log p(y | G(h)) / dh + e3 n

R is a denoising autoencoder, R(h) - h being proportional to d log p(h) / dh. Variants by field: ``prior="dae"`` is
PPGN-h (a perceptron on codes, trained with noise), ``prior="joint"`` Joint PPGN-h (codes pass through the image, R(h) =
E(G(h)), trained on generated data to give back code, image and features), ``train_noise=0`` its noiseless form, the
paper's best and the default; ``prior="gaussian"`` needs no network, since R(h) - h = -h is exact for a GAN's standard
normal latents.

A baseline of the MineGAN and cGANTransfer papers, which give no settings; those here were found on Glyph-100.

Differs from the original:

* The paper's e1 = 1e-5, e2 = 1, e3 = 1e-17 fit codes of 4096 ReLU units in the hundreds; ours are standard normal. 200
  iterations there.
* The generator is a GAN's and its code the latent and a mix of the source's classes (`gantransfer.networks.steered`);
  it stays fixed, so that only the encoder E of the joint autoencoder trains. Its features are the classifier's.
* The classifier has a class for what the source draws by itself, as in method dgn-am.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from gantransfer.errors import UsageError
from gantransfer.extension import Choices
from gantransfer.plan import Batch, Group, Losses, Phase, Plan, Source, Target
from gantransfer.registry import architectures, register_method
from gantransfer.steering import BETAS, Steering


@register_method("ppgn")
@dataclass(frozen=True)
class PPGN(Steering):
    """Sampling with a prior of codes.

    Attributes:
        prior: "joint" (Joint PPGN-h), "dae" (PPGN-h) or "gaussian".
        noise: e3, the weight of fresh noise in every update.
        train_noise: standard deviation of what is added to codes (joint: to images too) where the prior is trained; 0:
            noiseless, which a "dae" cannot be: what brings clean codes back to themselves knows nothing of their
            density. None: 0.5 for "dae", else 0.
        prior_width: channels of the encoder's first layer, an eighth of the perceptron's width.
        lr_prior: Adam rate (betas 0.9 and 0.99).
    """

    prior: str = "joint"
    noise: float = 0.01
    train_noise: float | None = None
    prior_width: int = 32
    lr_prior: float = 1e-3

    name: ClassVar[str] = "ppgn"
    choices: ClassVar[Choices] = {"prior": ("joint", "dae", "gaussian")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_width < 1:
            raise UsageError(f"prior_width {self.prior_width} is not possible; give 1 or more")
        if self.prior == "dae" and self.train_noise == 0:
            raise UsageError("train_noise 0 makes prior 'dae' an autoencoder that denoises nothing; give more than 0, "
                             "or prior joint")

    def sampling(self) -> dict[str, Any]:
        return {"prior": self.prior, "objective": "log-probability", "noise": self.noise,
                "prior_width": self.prior_width}

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: Any) -> Plan:
        """The classifier and the prior."""
        plan = super().plan(generator, sources, target, loss)
        if generator.denoiser is None:
            return replace(plan, notes=(*plan.notes, "prior of codes: standard normal, exact"))
        reconstruction = architectures["steered"].reconstruction
        strength = self.train_noise
        if strength is None:
            strength = 0.5 if self.prior == "dae" else 0.0

        def denoising(batch: Batch) -> Losses:
            return Losses(reconstruction(generator, batch.z, strength, batch.rng), {})

        groups = {**plan.groups, "R": Group(list(generator.denoiser.parameters()), self.lr_prior, BETAS)}
        kind = "through the image" if self.prior == "joint" else "on codes"
        noted = f"with noise {strength:g}" if strength else "noiseless"
        return replace(plan, groups=groups, notes=(*plan.notes, f"prior of codes: autoencoder {kind}, {noted}, trained "
                                                                "on generated data"),
                       phases=[*plan.phases, Phase("R", ("R",), denoising, uses_images=False)])
