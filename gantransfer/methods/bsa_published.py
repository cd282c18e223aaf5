"""BSA as published: images are reconstructed, not judged, by learned scales and shifts of a frozen generator.

Paper: Noguchi and Harada, "Image Generation From Small Datasets via Batch Statistics Adaptation", ICCV 2019. Reference
code: small-dataset-image-generation (chainer; facts by reading and from its golden tensors). There is no critic. Every
training image x_i has a latent z_i, and these, a scale gamma and a shift beta for each channel after every hidden layer
(section 3; batch statistics stay the source's) minimise

    mean |G(z_i + 0.01 e) - x_i|  +  0.001 sum_l mean |C_l(G) - C_l(x_i)|  +  0.1 prior(z)  +  0.02 penalty(gamma, beta)

with e and t_1 .. t_10n standard normal, C_l the ten first convolutions of VGG-16 after ReLU, prior(z) = mean_j min_i
|z_i - t_j|^2 + mean_i min_j |z_i - t_j|^2 (an approximate earth mover's distance of the batch's n latents), and penalty
= the sum over layers of mean (gamma - 1)^2 + mean beta^2. Samples come from a normal distribution cut near its middle.

``form="filters"`` is the paper's other reading, filter selection: gamma and beta multiply and shift whole filters.
``form="modulation"`` is what the code does with BigGAN: the maps from class vectors and noise to the norms' scales and
shifts train, with a class vector of its own for each class, a scale and a shift after the first layer, and as penalty
the mean square of the class vectors alone (its rates: 5e-4, latents 0.05, class vectors 1e-3).

What the code does, by field: rates of SNGAN-128 (0.03; the first layer's weight 1e-7) and their decay, latents that
start at 0 (``latents="normal"`` is its option), the L1 term divided by its own value (``normalised_l1``, its option),
class 0 of the source as the start (``init="first"``: its tables are reset to scale 1 and shift 0, ``init="scratch"``,
and then overwritten by the snapshot's). Its patch critic and gradient penalty, both off there, are not built.

Differs from both:

* Several classes: gamma and beta of norm layers are one row per class; the first layer's are shared. A generator
  without norms (GP-GAN) has them after its 3x3 convolutions, shared, and a label embedding that trains.
* BigGAN with ``form="layers"``: the product of modulation matrices and class vector is a row of a table here, which
  `extend` can add (with ``first_layer=False``; the extended model draws from the whole normal distribution, so sample
  it with a truncation), and the maps of noise chunks train beside it. The penalty is SNGAN's.
* Class vectors with ``init="scratch"`` are drawn with a standard deviation of 0.02 (the code's: "tiny").
* A first layer with spectral norm keeps its weight (at a rate of 1e-7 it hardly moves there).
* Perceptual features are the source critic's unless a VGG file is given. Their activations, like those of torchvision's
  VGG, are near 1 where the published network's (Caffe's) are near 100, so their weight is 0.1 where its is 0.001. The
  code subtracts BGR means from RGB images; here they fit.
* The weights are those for 25 images of 128 px. On cyrillic10 (1,000 images of 32 px, one seed, 500 samples) the
  prior's holds latents away from their images: Frechet distance 44 after 600 iterations, and 24 after 500 with
  ``prior_weight=0.001`` and ``prior="truncated:1"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import (
    Choices,
    check_choices,
    class_parameters,
    frozen_layers,
    frozen_statistics,
    mixing_rows,
    noise_parameters,
    one_source,
    seeded,
    source_rows,
)
from gantransfer.filter_modulation import filter_modulations, filters, is_normed, modulate
from gantransfer.latents import given_latents
from gantransfer.losses import NO_CRITIC
from gantransfer.perceptual import Perceptual
from gantransfer.plan import Batch, Group, Losses, Phase, Plan, Source, Target
from gantransfer.registry import register_method
from gantransfer.scale_shift import after_layer, after_norm, scales_and_shifts

JITTER = 0.01
DRAWS = 10  # normal samples for each latent of a batch, in its prior
PUBLISHED_PERCEPTUAL, OTHER_PERCEPTUAL = 0.001, 0.1
TINY = 0.02
ADAM = {"betas": (0.9, 0.999)}


def latent_distance(z: Tensor, samples: Tensor) -> Tensor:
    """Scalar: mean over `samples` [m, d] of the squared distance to the nearest of `z` [n, d], plus the same the other
    way round."""
    square = (samples[:, None] - z[None]).square().sum(2)
    return square.amin(1).mean() + square.amin(0).mean()


@register_method("bsa-published")
@dataclass(frozen=True)
class PublishedBSA:
    """Reconstruct the images by scales, shifts and a latent for each.

    Attributes:
        form: "layers" (after each hidden layer), "filters" (of each 3x3 filter), or "modulation" (the maps of a source
            with class vectors).
        init: whose class affines or vectors classes start on: the "mean" of the old ones, the "first" of them (as the
            code does), a "random_source" for each, or "scratch" (scale 1, shift 0; a vector near 0).
        first_layer: the linear layer has a scale and a shift too; without it `extend` can add the classes.
        latents: start at "zero" or at "normal" draws.
        prior: of samples, see `gantransfer.latents`; "" is the standard normal distribution.
        lr: Adam rate (betas 0.9 and 0.999) of scales, shifts and the first layer's bias. lr_z: Adam rate of the
            latents. lr_linear: Adam rate of the first layer's weight. lr_classes: Adam rate of class vectors, and of
            maps of noise; with "modulation" the maps have lr.
        decay, decay_steps: what all rates are multiplied by, every so many iterations.
        perceptual: "critic", "glyph-cnn", "vgg16-caffe:FILE", "vgg16:FILE" or "none". perceptual_weight: for each
            layer; None: 0.001 with vgg16-caffe, else 0.1.
        prior_weight, penalty_weight: of the latents' and the scales' terms.
        normalised_l1: the first term is divided by its own value.
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    form: str = "layers"
    init: str = "mean"
    first_layer: bool = True
    latents: str = "zero"
    prior: str = "truncated:0.5"
    lr: float = 0.03
    lr_z: float = 0.03
    lr_linear: float = 1e-7
    lr_classes: float = 1e-3
    decay: float = 0.2
    decay_steps: int = 3000
    perceptual: str = "critic"
    perceptual_weight: float | None = None
    prior_weight: float = 0.1
    penalty_weight: float = 0.02
    normalised_l1: bool = False
    init_seed: int = 0

    files: ClassVar[tuple[str, ...]] = ("perceptual",)
    unused: ClassVar[Mapping[str, str]] = {**NO_CRITIC, "mirror": "a latent is fitted to one picture"}
    choices: ClassVar[Choices] = {"form": ("layers", "filters", "modulation"), "latents": ("zero", "normal"),
                                  "init": ("mean", "first", "random_source", "scratch")}

    def __post_init__(self) -> None:
        check_choices(self)

    # ---- structure -----------------------------------------------------------------------------------

    @torch.no_grad()
    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator with the target's classes; scales and shifts of its layers where no norm has them."""
        source = one_source(sources, "bsa-published")
        generator = self._with_classes(source, target.num_classes)
        generator.set_sampling_prior(self.prior)
        if target.num_classes > 1 and not _takes_up_classes(generator):
            raise ModelError("method 'bsa-published' learns classes in norm layers or a label embedding and this "
                             "source takes labels beside the latent; use transfergan, or one run for each class")
        head = {id(m) for m in generator.head.modules()}
        convolutions = [layer for _, layer in filters(generator) if id(layer) not in head]
        if self.form == "filters":
            for layer in convolutions:
                modulate(layer, "fs")
            return generator
        if not _norms(generator) and self.form == "layers":
            for layer in convolutions:
                after_layer(layer, layer.out_channels)
        if self.first_layer and (first := _first_layer(generator)) is not None:
            after_layer(first, _input_channels(generator))
        return generator

    def _with_classes(self, source: Source, classes: int) -> nn.Module:
        old = max(source.generator.num_base_classes, 1)
        rows = _rows(self.init, max(classes, 1), old, self.init_seed)
        if self.form == "modulation":
            return self._with_class_vectors(source, classes, rows)
        named = getattr(source.generator, "class_norms", tuple)
        if source.generator.class_embedding() is None or not any(True for _ in named()):
            with seeded(self.init_seed):
                generator = source.generator.with_classes(classes, rows)
        else:
            generator = source.generator.with_class_tables(classes)
            for name, (scales, shifts) in source_rows(source.generator).items():
                norm = generator.get_submodule(name)
                norm.gain.weight.copy_(rows.to(scales) @ scales[:old] - 1)
                norm.bias.weight.copy_(rows.to(shifts) @ shifts[:old])
        if self.init == "scratch":
            for norm in _norms(generator):
                by_class = isinstance(norm.gain, nn.Module)
                (norm.gain.weight if by_class else norm.gain).fill_(0 if by_class else 1)
                (norm.bias.weight if by_class else norm.bias).zero_()
        return generator

    def _with_class_vectors(self, source: Source, classes: int, rows: Tensor) -> nn.Module:
        if source.generator.class_embedding() is None:
            raise ModelError("form 'modulation' trains maps from class vectors, and this source's norms have tables or "
                             "no classes; use form layers")
        generator = source.generator.with_classes(classes, rows)
        if self.init == "scratch":
            with seeded(self.init_seed):
                class_parameters(generator)[0].normal_(0, TINY)
        return generator

    # ---- what trains ---------------------------------------------------------------------------------

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: Any) -> Plan:
        """Scales, shifts and latents; `loss`, which is a critic's, plays no part."""
        source = one_source(sources, "bsa-published")
        perceptual = Perceptual(self.perceptual, source.discriminator)
        weight = self.perceptual_weight
        if weight is None:
            weight = PUBLISHED_PERCEPTUAL if perceptual.spec == "vgg16-caffe" else OTHER_PERCEPTUAL
        if self.form == "layers":
            for norm in _norms(generator):
                after_norm(norm)
        pairs = list(scales_and_shifts(generator))
        if self.form == "filters":
            pairs = [(change.gamma, change.beta) for _, _, change in filter_modulations(generator)]
        latents = nn.Embedding(target.num_images, generator.z_dim)
        with torch.no_grad(), seeded(self.init_seed + 1):
            latents.weight.zero_() if self.latents == "zero" else latents.weight.normal_()
        groups = self._groups(generator, pairs, latents)
        phase = Phase("R", tuple(groups), self._loss(generator, latents, pairs, perceptual, weight))
        shown = f"perceptual term: features of {perceptual.spec}, weight {weight:g} for each layer"
        notes = (f"{len(pairs)} scales and shifts ({self.form}) on a frozen generator, classes start at {self.init}",
                 f"{target.num_images} latents of {generator.z_dim} entries, at {self.latents}; samples from "
                 f"{self.prior or 'the standard normal'}", "no discriminator: reconstruction by L1",
                 shown if perceptual.network is not None else "no perceptual term")
        trained = {id(p) for group in groups.values() for p in group.params}
        fixed = [layer for layer in frozen_layers(generator, "fixed")
                 if not any(id(p) in trained for p in layer.parameters(recurse=False))]
        return Plan(groups, [phase], nn.ModuleDict({"latents": latents}), fixed=fixed,
                    fixed_statistics=frozen_statistics(generator, "source"), notes=notes)

    def _groups(self, generator: nn.Module, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]],
                latents: nn.Embedding) -> dict[str, Group]:
        rest: dict[str, Any] = {**ADAM, "decay": self.decay, "decay_steps": self.decay_steps}
        scales = [p for pair in pairs for p in pair]
        groups = {"latents": Group([latents.weight], self.lr_z, **rest)}
        first = _first_layer(generator)
        if self.form != "filters" and self.first_layer and first is not None:
            scales.append(first.parametrizations.bias.original)
            if not is_normed(first):
                groups["linear"] = Group([first.parametrizations.weight.original], self.lr_linear, **rest)
        if self.form == "modulation":
            scales += [p for _, norm in generator.class_norms() for p in norm.parameters()]
        groups["scales"] = Group(scales, self.lr, **rest)
        classes = class_parameters(generator) if generator.num_classes else []  # tables with a scale are none any more
        if hasattr(generator, "class_norms") and self.form != "modulation":
            classes += noise_parameters(generator)
        if classes:
            groups["classes"] = Group(classes, self.lr_classes, **rest)
        return groups

    def _loss(self, generator: nn.Module, latents: nn.Embedding, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]],
              perceptual: Perceptual, weight: float) -> Any:
        conditional = generator.num_classes > 0

        def loss(batch: Batch) -> Losses:
            z = latents(batch.indices)
            jitter = JITTER * torch.randn(z.shape, generator=batch.rng).to(z)
            samples = torch.randn(DRAWS * len(z), z.shape[1], generator=batch.rng).to(z)
            with given_latents(generator):
                images = generator(z + jitter, batch.labels if conditional else None)
            l1 = (images - batch.images).abs().mean()
            terms = {"l1": l1 / l1.detach() if self.normalised_l1 else l1}
            if perceptual.network is not None and weight:
                terms["perceptual"] = weight * perceptual(images, batch.images)
            if self.prior_weight:
                terms["prior"] = self.prior_weight * latent_distance(z, samples)
            if self.penalty_weight and self.form == "modulation":
                terms["penalty"] = self.penalty_weight * class_parameters(generator)[0].square().mean()
            elif self.penalty_weight:
                sizes = [(gamma - 1).square().mean() + beta.square().mean() for gamma, beta in pairs]
                terms["penalty"] = self.penalty_weight * torch.stack(sizes).sum()
            return Losses(terms, {"difference": l1, "latent_std": z.std()})

        return loss


def _rows(init: str, classes: int, old: int, seed: int) -> Tensor:
    """float [classes, old classes]: whose affines new ones start from."""
    if init == "first":
        return torch.eye(old)[:1].repeat(classes, 1)
    rows = mixing_rows("mean" if init == "scratch" else init, classes, old, seed)
    if rows is None:
        raise UsageError(f"init '{init}' starts from no class of the source; use mean")
    return rows


def _norms(generator: nn.Module) -> list[nn.Module]:
    """The hidden layers' norms: all but the one before the image."""
    head = {id(m) for m in generator.head.modules()}
    return [norm for _, norm in generator.norms() if id(norm) not in head]


def _takes_up_classes(generator: nn.Module) -> bool:
    named = getattr(generator, "class_norms", tuple)
    return generator.class_embedding() is not None or any(True for _ in named())


def _first_layer(generator: nn.Module) -> nn.Module | None:
    """The linear layer after the latents; None behind a style head, which has none."""
    return next((getattr(generator, name) for name in ("linear", "input", "fc") if hasattr(generator, name)), None)


def _input_channels(generator: nn.Module) -> int:
    """Channels of the first map."""
    return next(m.in_channels for m in generator.blocks[0].modules() if isinstance(m, nn.Conv2d))
