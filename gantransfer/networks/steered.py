"""Iterative sampling: a trained generator whose codes a classifier of other classes pulls, as its own architecture.

Nguyen et al., "Synthesizing the preferred inputs for neurons in neural networks via deep generator networks", NIPS 2016
(DGN-AM), and "Plug & Play Generative Networks" (PPGN), CVPR 2017. A code h, drawn as the generator's latents are, moves
for a number of iterations by

    h <- h + e1 (R(h) - h) + e2 d log p(class | G(h)) / dh + e3 n,   n standard normal          (PPGN, eq. 5)

and the image is G(h) of the last. R is the prior's denoiser; R(h) - h is, up to a factor, the gradient of the log
density of codes. For standard normal ones that is -h, exactly (``gaussian``: DGN-AM's decay); ``dae`` is a perceptron
on codes (PPGN-h), ``joint`` goes through the image, R(h) = E(G(h)) (Joint PPGN-h).

The source is any other architecture. One with classes is met at its `ClassMixture`: the code is [z, c], and mixing
weights are 1/N + (c - mean c) / sqrt(N) for its N classes. With c standard normal, a class row then has exactly the
source classes' mean and covariance, so that the same prior holds for both parts of the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.classifier import ConvNet, Perceptron
from gantransfer.errors import ModelError
from gantransfer.latents import noise_of
from gantransfer.norm import ClassMixture
from gantransfer.registry import architectures, register_architecture
from gantransfer.routing import ConfiguredGenerator, drawn_by

PRIORS = ("gaussian", "dae", "joint")
OBJECTIVES = ("logit", "log-probability")


@dataclass(frozen=True)
class SteeredConfig:
    """Everything a steered generator's structure and sampling depend on.

    Attributes:
        source: ``{"arch": name, "network": settings}``. num_classes: the classifier's classes, 1 or more.
        background: the classifier has one more output, for images of none of its classes.
        prior: one of `PRIORS`. objective: what of the classifier's output goes up, one of `OBJECTIVES`.
        iterations: of the update. prior_step, class_step, noise: e1, e2 and e3.
        clip: entries of the code stay within [-clip, clip]; 0: no limits.
        classifier_width, prior_width: of the networks.
        resolution, channels, z_dim: follow from the source.
    """

    source: Mapping[str, Any]
    num_classes: int
    background: bool = True
    prior: str = "gaussian"
    objective: str = "log-probability"
    iterations: int = 40
    prior_step: float = 0.02
    class_step: float = 0.2
    noise: float = 0.0
    clip: float = 0.0
    classifier_width: int = 32
    prior_width: int = 32
    resolution: int = 0
    channels: int = 0
    z_dim: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("prior", PRIORS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in allowed:
                raise ModelError(f"{name} '{getattr(self, name)}' does not exist; have: {', '.join(allowed)}")
        for name, least in (("num_classes", 1), ("iterations", 0), ("classifier_width", 1), ("prior_width", 1)):
            if getattr(self, name) < least:
                raise ModelError(f"{name} {getattr(self, name)} is not possible; give {least} or more")
        inner = self.source_config()
        for name, value in (("resolution", inner.resolution), ("channels", inner.channels),
                            ("z_dim", inner.z_dim + inner.num_classes)):
            object.__setattr__(self, name, value)

    def source_config(self) -> Any:
        """The source's own configuration."""
        return architectures[self.source["arch"]].config_class(**self.source["network"])


class Steered(ConfiguredGenerator):
    """A frozen `source`, a `classifier` of the target's classes, and a `denoiser` of codes (None: gaussian)."""

    arch, wraps = "steered", "samples iteratively"

    def __init__(self, config: SteeredConfig, source: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        inner = config.source_config()
        self.source = architectures[config.source["arch"]].build_generator(inner) if source is None else source
        outputs = config.num_classes + config.background
        self.classifier = ConvNet(config.resolution, config.channels, outputs, config.classifier_width)
        self.denoiser: nn.Module | None = None
        if config.prior == "dae":
            self.denoiser = Perceptron(config.z_dim, 8 * config.prior_width)
        elif config.prior == "joint":
            self.denoiser = ConvNet(config.resolution, config.channels, config.z_dim, config.prior_width)

    # ---- parts of an update --------------------------------------------------------------------------

    def image(self, h: Tensor, key: Tensor | None = None) -> Tensor:
        """G(h): float [N, channels, R, R] in [-1, 1] of codes [N, z_dim]; a style head's noise is seeded by `key`
        (None: h)."""
        z_dim, key = self.source.z_dim, h if key is None else key
        count = self.z_dim - z_dim
        if not count:
            return drawn_by(key, self.source, h, None)
        c = h[:, z_dim:]
        weights = 1 / count + (c - c.mean(1, keepdim=True)) / count**0.5
        return drawn_by(key, self.source, h[:, :z_dim], ClassMixture(weights))

    def denoised(self, h: Tensor, images: Tensor | None = None) -> Tensor:
        """R(h), [N, z_dim]; `images`: G(h) where it is known."""
        if self.denoiser is None:
            return torch.zeros_like(h)
        if self.config.prior == "dae":
            return self.denoiser(h)
        return self.denoiser(self.image(h) if images is None else images)

    def objective(self, images: Tensor, y: Tensor) -> Tensor:
        """float [N]: what the update raises for classes y [N]."""
        scores = self.classifier(images).float()
        if self.config.objective == "log-probability":
            scores = scores.log_softmax(1)
        return scores.gather(1, y.view(-1, 1)).squeeze(1)

    def step(self, h: Tensor, y: Tensor, noise: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """The code after one update, without gradient; `noise`: n [N, z_dim], or None for none. `key`: see `image`."""
        config = self.config
        with torch.enable_grad():
            shift = torch.zeros_like(h, requires_grad=True)
            images = self.image(h.detach() + shift, h if key is None else key)
            (towards_class,) = torch.autograd.grad(self.objective(images, y).sum(), shift)
        with torch.no_grad():
            moved = h + config.prior_step * (self.denoised(h, images) - h) + config.class_step * towards_class
            if noise is not None:
                moved = moved + config.noise * noise
            return moved.clamp(-config.clip, config.clip) if config.clip else moved

    # ---- drawing -------------------------------------------------------------------------------------

    def codes(self, u: Tensor, y: Tensor) -> Tensor:
        """The codes [N, z_dim] that u [N, z_dim] have become after all iterations, for classes y [N]. An image's noise
        is drawn from its u, so that the same latent gives the same image in every batch."""
        n = self.config.iterations
        noise = noise_of(u, n * self.z_dim).view(-1, n, self.z_dim) if self.config.noise else None
        with torch.inference_mode(False):
            h, y = u.detach().clone(), y.clone()
            for i in range(n):
                h = self.step(h, y, None if noise is None else noise[:, i], u)
        return h

    def forward(self, u: Tensor, y: Tensor | None = None, noise: None = None) -> Tensor:
        """float32 images [N, channels, R, R] in [-1, 1] from u [N, z_dim] and int64 labels [N]; without gradient."""
        if noise is not None:
            raise ModelError("iterative sampling has no noise inputs: leave noise=None")
        if y is None and self.num_classes == 1:
            y = torch.zeros(len(u), dtype=torch.int64, device=u.device)
        if not isinstance(y, Tensor) or y.is_floating_point():
            raise ModelError(f"this model draws {self.num_classes} classes, towards which a classifier pulls: pass "
                             "int64 labels [N]")
        if y.device.type == "cpu" and y.numel() and int(y.max()) >= self.num_classes:
            raise ModelError(f"this model has {self.num_classes} classes and was asked for class {int(y.max())}; "
                             "labels count from 0")
        with torch.no_grad():
            return self.image(self.codes(u, y), u)

    # ---- what others ask of a generator --------------------------------------------------------------

    def standing_norms(self) -> list[Any]:
        return self.source.standing_norms()

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        """None that an adapter may own."""
        return iter(())

    def beside_base(self) -> list[nn.Module]:
        return [self]

    def class_embedding(self) -> None:
        return None

    def with_classes(self, classes: int, rows: Tensor | None) -> nn.Module:
        raise ModelError("a model that samples iteratively is no source for another adaptation; give the source that "
                         "it steers")

    def fresh(self, classes: int) -> nn.Module:
        return self.with_classes(classes, None)


def reconstruction(generator: Steered, h: Tensor, noise: float, rng: torch.Generator) -> dict[str, Tensor]:
    """What the denoiser is trained on, for codes h [N, z_dim]: mean squared errors of the code and, through the image
    (Joint PPGN-h), of the image and of the classifier's features of it. `noise` is the standard deviation of what is
    added to the code (and, on that way, to the image)."""
    def disturbed(x: Tensor) -> Tensor:
        return x + noise * torch.randn(x.shape, generator=rng).to(x) if noise else x

    if generator.config.prior == "dae":
        return {"code": (generator.denoised(disturbed(h)) - h).square().mean()}
    with torch.no_grad():
        wanted = generator.image(h)
        seen = disturbed(generator.image(disturbed(h)) if noise else wanted)
        features = generator.classifier.maps(wanted)
    found = generator.denoised(h, seen)
    again = generator.image(found)
    terms = [(a - b).square().mean() for a, b in zip(generator.classifier.maps(again), features, strict=True)]
    return {"code": (found - h).square().mean(), "image": (again - wanted).square().mean(),
            "features": torch.stack(terms).mean()}


def classification(generator: Steered, images: Tensor, labels: Tensor, others: Tensor | None) -> tuple[Tensor, Tensor]:
    """(cross-entropy, share of right answers) on images [N, ...] of `labels` [N] and on `others`, of no class."""
    if others is not None:
        images = torch.cat([images, others])
        labels = torch.cat([labels, labels.new_full((len(others),), generator.num_classes)])
    scores = generator.classifier(images).float()
    return F.cross_entropy(scores, labels), (scores.argmax(1) == labels).float().mean()


@register_architecture("steered")
class SteeredArchitecture:
    """The architecture's entry points for `gantransfer.sources`, and for the methods that sample iteratively."""

    config_class = SteeredConfig
    shorthand: dict[str, str] = {}
    reconstruction = staticmethod(reconstruction)
    classification = staticmethod(classification)

    @staticmethod
    def build_generator(config: SteeredConfig) -> Steered:
        """A freshly initialised source, classifier and denoiser, in eval mode."""
        return Steered(config).eval()

    @staticmethod
    def build_discriminator(config: SteeredConfig) -> nn.Module:
        """The source's critic, freshly initialised."""
        return architectures[config.source["arch"]].build_discriminator(config.source_config())

    @staticmethod
    def around(source: nn.Module, arch: str, **settings: Any) -> Steered:
        """`source` itself, of architecture `arch`, with a fresh classifier and denoiser (global generator)."""
        inner = {"arch": arch, "network": architectures[arch].config_dict(source.config)}
        return Steered(SteeredConfig(inner, **settings), source).eval()

    @staticmethod
    def expand(settings: Mapping[str, Any]) -> dict[str, Any]:
        raise ModelError("a steered model is made from a trained source; use 'gantransfer adapt --method ppgn'")

    @staticmethod
    def config_dict(config: SteeredConfig) -> dict[str, Any]:
        """JSON-ready settings."""
        return asdict(config)
