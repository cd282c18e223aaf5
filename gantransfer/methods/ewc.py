"""EWC: fine-tuning in which weights that matter to the source move less.

Paper: Li, Zhang, Lu, Shechtman, "Few-shot Image Generation with Elastic Weight Consolidation", NeurIPS 2020. L = L_adv
+ lambda sum_i F_i (theta_i - theta_S,i)^2 (eq. 3), F_i the Fisher information of G's weights: the mean square of the
gradient of the source critic's log-likelihood of single generated images (eq. 2). Only G is held.

Differs from the paper: the Fisher information is divided by its mean and the sum by the number of weights, a mean of
squares with weights of mean 1, so that lambda means the same for every source and size (theirs, 5e8, is StyleGAN's).
Class rows are new, and free.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import anchors
from gantransfer.fine_tuning import FineTuning
from gantransfer.losses import AdversarialLoss, nonsaturating_generator
from gantransfer.plan import Plan, Source, Target
from gantransfer.registry import register_method


@register_method("ewc")
@dataclass(frozen=True)
class EWC(FineTuning):
    """Fine-tune G, held by its Fisher information, and D.

    Attributes:
        weight: lambda, of the penalty as a mean over weights with a Fisher information of mean 1.
        fisher_images: generated images that the information is measured on, one by one.
    """

    weight: float = 100.0
    fisher_images: int = 200

    name: ClassVar[str] = "ewc"

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """Everything trains."""
        source = self.critic_source(sources)
        critic = self.critic(source, target)
        own, old = anchors(generator, source.generator)
        if self.fisher_images < 1:
            raise UsageError(f"fisher_images {self.fisher_images} measure no information; give 1 or more")

        @cache  # measured when it is first needed: a plan is also made to be looked at
        def information() -> dict[str, Tensor]:
            return relative(fisher(source.generator, source.discriminator, list(own), self.fisher_images))

        def penalty() -> dict[str, Tensor]:
            found = information()
            terms = [(found[k].to(p) * (p - old[k].to(p)).square()).sum() for k, p in own.items()]
            return {"ewc": self.weight * torch.stack(terms).sum() / sum(p.numel() for p in own.values())}

        notes = (f"EWC with weight {self.weight:g} on {len(own)} tensors of G",)
        return self.tuned(generator, critic, loss, regulariser=penalty, notes=notes)


def fisher(generator: nn.Module, critic: nn.Module, names: Sequence[str], images: int) -> dict[str, Tensor]:
    """Mean squares of the gradients of log sigma(D(G(z))) with respect to G's parameters `names`, over `images` images
    of one latent each (drawn from seed 0, classes in turn)."""
    generator, critic = copy.deepcopy(generator).eval(), copy.deepcopy(critic).eval()
    for module in generator.modules():  # new ones take gradients, whatever the source's do
        for name, param in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(param.detach().clone()))
    params = {k: p for k, p in generator.named_parameters() if k in set(names)}
    found = {k: torch.zeros_like(p) for k, p in params.items()}
    rng = torch.Generator().manual_seed(0)
    device = next(generator.parameters()).device
    for number in range(images):
        z = torch.randn(1, generator.z_dim, generator=rng).to(device)
        classes = generator.num_base_classes  # the critic of an extended model knows no others
        y = torch.tensor([number % classes], device=device) if classes else None
        with torch.enable_grad():
            likelihood = -nonsaturating_generator(critic(generator(z, y), y))
            gradients = torch.autograd.grad(likelihood, list(params.values()), allow_unused=True)
        for k, gradient in zip(params, gradients, strict=True):
            if gradient is not None:
                found[k] += gradient.square() / images
    return found


def relative(information: dict[str, Tensor]) -> dict[str, Tensor]:
    """`information` divided by its mean over all weights.

    Raises:
        ModelError: it is 0 everywhere, as for a critic whose sigmoid is saturated.
    """
    mean = sum(float(f.sum()) for f in information.values()) / sum(f.numel() for f in information.values())
    if not mean > 0:
        raise ModelError("this source's critic is certain of every generated image, so that its Fisher information is "
                         "0; use l2sp, which needs none")
    return {k: f / mean for k, f in information.items()}
