"""The WGAN-GP ResNet: a residual generator with batch norm, a critic with layer norm.

Papers: Gulrajani et al., "Improved Training of Wasserstein GANs", NIPS 2017 (the networks); Wang et al., "Transferring
GANs: generating images from limited data", ECCV 2018 (its two ways of conditioning, section 5.1). Reference code:
yaxingwang/Transferring-GANs (TensorFlow 1), 64 px.

Both conditional forms have an auxiliary classifier beside the critic's one logit (AC-GAN); the logit itself does not
depend on the class. "bnorm" ('Cond BNorm') has one scale and shift per class in every batch norm, the one before the
image layer included; "concat" ('Cond Concat') appends the one-hot label to z.

Differs from the original:

* The published code normalises with the *batch's* statistics in sampling too, so that an image depends on the images
  it is drawn with. Here evaluation uses running averages, as everywhere in this library: the same latent gives the
  same image in any batch. ``statistics="batch"`` is the published behaviour.
* 32 and 128 px, by the rule that the widths at 64 px follow (d at the image, doubled with every halving of the side,
  the first and the second map equally wide); one or three image channels.
* A convolution and the resampling beside it are one (see `gantransfer.layers`), which changes results only by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.latents import latent_prior
from gantransfer.layers import fold_pooling, fold_upsampling
from gantransfer.norm import BatchNorm, ClassBatchNorm, ClassMixture, ClassTable, Condition, RoutedNorm
from gantransfer.registry import register_architecture
from gantransfer.routing import ExtendableGenerator

CONDITIONINGS = ("bnorm", "concat")
STATISTICS = ("running", "batch")
RESOLUTIONS = (32, 64, 128)


@dataclass(frozen=True)
class WGANGPConfig:
    """Everything a WGAN-GP ResNet's structure depends on.

    Attributes:
        resolution: image side, 32, 64 or 128 px.
        channels: image channels, 1 or 3.
        num_classes: classes; 0 means unconditional.
        z_dim: length of the latent.
        width: the paper's d, channels next to the image; half of it is the half capacity of its Appendix B.
        conditioning: how the generator takes up a class: "bnorm" or "concat".
        statistics: what batch norm uses in evaluation: "running" averages, or the "batch" as published.
        extensions: class counts of the adapters added by `extend`, in order.
        sampling_prior: what latents are drawn from, see `gantransfer.latents`; "" is standard normal.
    """

    resolution: int = 64
    channels: int = 3
    num_classes: int = 0
    z_dim: int = 128
    width: int = 64
    conditioning: str = "bnorm"
    statistics: str = "running"
    extensions: tuple[int, ...] = ()
    sampling_prior: str = ""

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"conditioning": CONDITIONINGS, "statistics": STATISTICS}

    def __post_init__(self) -> None:
        object.__setattr__(self, "extensions", tuple(self.extensions))
        if self.resolution not in RESOLUTIONS:
            raise ModelError(f"WGAN-GP resolution {self.resolution} is not possible; give one of "
                             f"{', '.join(map(str, RESOLUTIONS))}")
        if self.channels not in (1, 3):
            raise ModelError(f"WGAN-GP image channels {self.channels} are neither 1 nor 3")
        if self.num_classes < 0:
            raise ModelError(f"num_classes {self.num_classes} is negative; 0 is a model without classes")
        for name in ("z_dim", "width"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} {getattr(self, name)} is not possible; give 1 or more")
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ModelError(f"{name} '{getattr(self, name)}' does not exist; have: {', '.join(allowed)}")

    @property
    def base_classes(self) -> int:
        """Classes without those of adapters."""
        return self.num_classes - sum(self.extensions)

    @property
    def g_widths(self) -> tuple[int, ...]:
        """Channels of G's first map and of its blocks' outputs; D's, from the image, are the same backwards."""
        multiples = [self.resolution // 4 >> i for i in range(1, self.resolution.bit_length() - 2)]
        return tuple(self.width * m for m in (multiples[0], *multiples))

    @property
    def label_inputs(self) -> int:
        """Entries of a label beside z."""
        return self.num_classes if self.conditioning == "concat" else 0


def _norm(config: WGANGPConfig, channels: int) -> nn.Module:
    if config.base_classes and config.conditioning == "bnorm":
        tables = [ClassTable(config.base_classes, channels) for _ in range(2)]
        for table in tables:
            nn.init.zeros_(table.weight)
        norm: Any = ClassBatchNorm(channels, *tables)
    else:
        norm = BatchNorm(channels)
    norm.batch_statistics = config.statistics == "batch"
    return norm


def _convolution(n_in: int, n_out: int, kernel: int = 3, *, gain: float = 2**0.5, bias: bool = True) -> nn.Conv2d:
    """Uniform weights of standard deviation gain sqrt(2 / (fan in + fan out)), no bias at the start."""
    layer = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _linear(n_in: int, n_out: int) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class GeneratorBlock(nn.Module):
    """norm, ReLU, nearest x2, 3x3 convolution, norm, ReLU, 3x3 convolution, plus the up-sampled 1x1 shortcut of the
    input: [N, in, H, W] -> [N, out, 2H, 2W]."""

    def __init__(self, config: WGANGPConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(config, n_in)
        self.conv1 = _convolution(n_in, n_out, bias=False)
        self.norm2 = _norm(config, n_out)
        self.conv2 = _convolution(n_out, n_out)
        self.shortcut = _convolution(n_in, n_out, 1, gain=1)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        h = F.relu(self.norm1(x, condition))
        h = F.conv_transpose2d(h, fold_upsampling(self.conv1.weight), stride=2, padding=1)
        h = self.conv2(F.relu(self.norm2(h, condition)))
        return F.interpolate(self.shortcut(x), scale_factor=2) + h


class Generator(ExtendableGenerator):
    """WGAN-GP generator.

    Seams: `prior` (of z), `blocks` in data-flow order, `class_norms()` (none with "concat"), `head` (the last
    norm and the image layer).
    """

    conditionings = CONDITIONINGS  # ways in which a copy without classes can take some up

    def __init__(self, config: WGANGPConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.g_widths
        self.prior = latent_prior(config.sampling_prior)
        self.input = _linear(config.z_dim + config.label_inputs, widths[0] * 16)
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.ModuleList(GeneratorBlock(config, n_in, n_out) for n_in, n_out in pairs)
        self.output_norm = _norm(config, widths[-1])
        self.output = _convolution(widths[-1], config.channels)
        for classes in config.extensions:
            self._append_norms(self.adapter_norms(classes), classes)

    @property
    def head(self) -> nn.ModuleList:
        return nn.ModuleList([self.output_norm, self.output])

    def condition(self, y: Tensor | ClassMixture | None, n: int) -> Condition:
        """What the norms know of a batch of `n` from integer labels [n], a `ClassMixture`, or None (at most one
        class)."""
        if y is None:
            if self.config.num_classes > 1:
                raise ModelError(f"this generator has {self.config.num_classes} classes: pass labels [N], not None")
            y = torch.zeros(n, dtype=torch.int64, device=self.input.weight.device)
        if isinstance(y, ClassMixture):
            y = y.weights
        elif y.is_floating_point():
            raise ModelError("this generator has no label embedding: pass int64 labels [N]")
        return Condition(y, None, None)

    def forward(self, z: Tensor, y: Tensor | ClassMixture | None = None, noise: None = None) -> Tensor:
        """float32 images [N, channels, R, R] in [-1, 1] from z [N, z_dim] and labels (see `condition`). `noise` is
        accepted for the common signature and must be None."""
        if noise is not None:
            raise ModelError("WGAN-GP ResNets have no noise inputs: leave noise=None")
        z = self.prior(z)
        condition = self.condition(y, len(z))
        if self.config.label_inputs:
            label = condition.labels
            z = torch.cat([z, label if label.is_floating_point() else F.one_hot(label, self.num_classes).to(z)], 1)
        h = self.input(z).view(len(z), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h, condition)
        return torch.tanh(self.output(F.relu(self.output_norm(h, condition))))

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        for i, block in enumerate(self.blocks):
            yield f"blocks.{i}.norm1", block.norm1
            yield f"blocks.{i}.norm2", block.norm2
        yield "output_norm", self.output_norm

    def class_norms(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of every class-conditional norm layer in data-flow order; none with "concat"."""
        yield from (pair for pair in self.norms() if isinstance(pair[1], (ClassBatchNorm, RoutedNorm)))

    def class_embedding(self) -> None:
        """None: classes share no embedding."""
        return None

    @torch.no_grad()
    def estimate_statistics(self, batches: int = 8, size: int = 64, seed: int = 0) -> None:
        """Set the running averages to the mean statistics of training-mode passes over latents and classes drawn from
        `seed`; the mode is restored."""
        norms, training = [norm for _, norm in self.norms()], self.training
        buffers = [b for norm in norms for b in (norm.stored_mean, norm.stored_var)]
        for buffer in buffers:
            buffer.zero_()
        rng = torch.Generator().manual_seed(seed)
        self.train()
        for _ in range(batches):
            z = torch.randn(size, self.z_dim, generator=rng).to(self.input.weight)
            y = torch.randint(max(self.num_classes, 1), (size,), generator=rng).to(z.device)
            self(z, y if self.num_classes else None)
        for buffer in buffers:  # a moving average with decay 0.9 that started at 0
            buffer /= 1 - 0.9**batches
        self.train(training)

    def rebuilt(self, config: WGANGPConfig) -> Generator:
        """A freshly initialised generator of `config`."""
        return build_generator(config)

    def fresh(self, classes: int, conditioning: str | None = None) -> Generator:
        """The same architecture for `classes` classes with newly initialised weights (global generator)."""
        config = replace(self.config, num_classes=classes, extensions=(),
                         conditioning=conditioning or self.config.conditioning)
        return build_generator(config).to(self.input.weight.device)

    def with_classes(self, classes: int, rows: Tensor | None, conditioning: str | None = None) -> Generator:
        """A deep copy for `classes` other classes (0: none).

        Args:
            rows: float [max(classes, 1), max(old classes, 1)], each new class's mix of the old ones, an unconditional
                source counting as one class; None: class parameters start as in a new network (global generator).
            conditioning: of the copy of an unconditional source. With "concat" the columns of the new inputs are newly
                initialised whatever `rows` says (section 5.1), with "bnorm" classes start from the source's affines.

        Raises:
            ModelError: a source with classes, and another conditioning than its own.
        """
        source = self.base() if self.config.extensions else self
        old = source.config
        if old.num_classes and conditioning not in (None, old.conditioning):
            raise ModelError(f"this generator takes up its {old.num_classes} classes by '{old.conditioning}', which "
                             f"cannot become '{conditioning}'; keep its own, or start from one without classes")
        target = source.fresh(classes, conditioning)
        norms = tuple(f"{name}." for name, _ in source.norms())
        statistics = ("stored_mean", "stored_var")
        state = {k: v for k, v in source.state_dict().items() if not k.startswith(norms) or k.endswith(statistics)}
        state = {**target.state_dict(), **state}
        state |= source._mixed_input(target, rows)
        for (name, norm), (_, new) in zip(source.norms(), target.norms(), strict=True):
            state |= {f"{name}.{k}": v for k, v in _mixed_affines(norm, new, rows).items()}
        target.load_state_dict(state)
        return target.train(self.training)

    def _mixed_input(self, target: Generator, rows: Tensor | None) -> dict[str, Tensor]:
        """The first layer's tensors in `target`: what reads z is copied, what reads labels mixed by `rows`."""
        weight, bias = self.input.weight.detach(), self.input.bias.detach()
        new = target.input.weight.detach().clone()
        new[:, : self.z_dim] = weight[:, : self.z_dim]
        if self.config.label_inputs and rows is not None:
            mixed = weight[:, self.z_dim :] @ rows.to(weight).t()  # [out, max(classes, 1)]
            if target.config.label_inputs:
                new[:, self.z_dim :] = mixed
            else:  # without a label its column is a constant
                bias = bias + mixed[:, 0]
        return {"input.weight": new, "input.bias": bias}

    def with_class_tables(self, classes: int) -> Generator:
        """A deep copy for `classes` other classes whose class norms hold scale 1 and shift 0; all else is the source's,
        bit for bit."""
        source = self.base() if self.config.extensions else self
        target = source.fresh(classes)
        own = {f"{name}.{part}.weight" for name, _ in source.class_norms() for part in ("gain", "bias")}
        state = {**target.state_dict(), **{k: v for k, v in source.state_dict().items() if k not in own}}
        target.load_state_dict(state)
        return target.train(self.training)

    def adapter_norms(self, classes: int) -> dict[str, nn.Module]:
        """Fresh norm layers, by name, for an adapter with `classes` classes of this generator.

        Raises:
            ModelError: batch statistics, with which old classes' images would depend on the new ones beside them.
        """
        if self.config.statistics == "batch":
            raise ModelError("a generator with batch statistics cannot be extended, as old classes' images would "
                             "depend on the new ones in their batch; use merge, or a source with running averages")
        config = replace(self.config, num_classes=classes, extensions=())
        return {name: _norm(config, norm.channels) for name, norm in self.norms()}


def _mixed_affines(norm: nn.Module, new: nn.Module, rows: Tensor | None) -> dict[str, Tensor]:
    """Affine tensors of `new` from those of `norm`, either of which may have a row per class or one for all."""
    by_class = [isinstance(n, ClassBatchNorm) for n in (norm, new)]
    if any(by_class) and rows is None:
        return {}
    found = {}
    for part, neutral in (("gain", 1), ("bias", 0)):
        own = getattr(norm, part)
        offsets = own.weight.detach() if by_class[0] else own.detach()[None] - neutral
        if any(by_class):
            offsets = rows.to(offsets) @ offsets
        if by_class[1]:
            found[f"{part}.weight"] = offsets
        else:
            found[part] = neutral + offsets[0] if any(by_class) else own.detach()
    return found


class LayerNorm(nn.Module):
    """Over channels and places of each image, with a scale and shift per channel: [N, C, H, W] -> the same.

    Written out, as PyTorch's group norm in channels_last (2.x, CPU) ends the process in its backward pass where the
    scale is frozen, as with FreezeD.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((1, 2, 3), keepdim=True)
        inverse = torch.rsqrt(centred.square().mean((1, 2, 3), keepdim=True) + self.eps)
        return centred * (inverse * self.weight[:, None, None]) + self.bias[:, None, None]


class DiscriminatorBlock(nn.Module):
    """norm, ReLU, 3x3 convolution, norm, ReLU, 3x3 convolution, 2x2 mean, plus the 1x1 shortcut of the input's 2x2
    mean: [N, in, H, W] -> [N, out, H / 2, W / 2]."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(n_in)
        self.conv1 = _convolution(n_in, n_in, bias=False)
        self.norm2 = LayerNorm(n_in)
        self.conv2 = _convolution(n_in, n_out)
        self.shortcut = _convolution(n_in, n_out, 1, gain=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        h = F.conv2d(F.relu(self.norm2(h)), fold_pooling(self.conv2.weight), self.conv2.bias, stride=2, padding=1)
        return self.shortcut(F.avg_pool2d(x, 2)) + h


class Discriminator(nn.Module):
    """WGAN-GP critic: one logit, and with classes the logits of an auxiliary classifier.

    Seams: `blocks` in data-flow order (the image layer, then the residual blocks), `head` (the linear layer),
    `classifier` (None without classes).
    """

    def __init__(self, config: WGANGPConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.g_widths[::-1]
        self.input = _convolution(config.channels, widths[0], gain=1)
        self.residual = nn.ModuleList(DiscriminatorBlock(*pair) for pair in zip(widths, widths[1:], strict=False))
        self.output = _linear(widths[-1] * 16, 1)
        # A model extended by adapters keeps the critic of its own classes.
        self.classifier = _linear(widths[-1] * 16, config.base_classes) if config.base_classes else None

    @property
    def num_classes(self) -> int:
        """Classes that its classifier knows."""
        return self.config.base_classes

    @property
    def head(self) -> nn.Module:
        return self.output

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.input, *self.residual]

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        h = images.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h)
            yield h

    def maps(self, images: Tensor) -> list[Tensor]:
        """Every block's output, float [N, C, h, w]."""
        return list(self._stages(images))

    def features(self, images: Tensor) -> Tensor:
        """float [N, C * 16]: the last block's output, channels first; nothing is between it and the logits."""
        *_, h = self._stages(images)
        return h.flatten(1)

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N] and the auxiliary classifier's [N, num_classes], of one pass."""
        if self.classifier is None:
            raise ModelError("this critic has no classes, so it classifies nothing")
        h = self.features(images)
        return self.output(h).squeeze(1), self.classifier(h)

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits [N] of images [N, channels, R, R] in [-1, 1], whatever their labels y, int64 [N] or None."""
        if self.classifier is not None and y is not None and y.device.type == "cpu" and y.numel() \
                and int(y.max()) >= self.num_classes:
            raise ModelError(f"the critic knows {self.num_classes} classes and was asked about class {int(y.max())}; "
                             "classes added by extend have none (their run's checkpoint holds theirs)")
        return self.output(self.features(images)).squeeze(1)

    def fresh(self, classes: int) -> Discriminator:
        """The same architecture for `classes` classes with newly initialised weights (global generator)."""
        config = replace(self.config, num_classes=classes, extensions=())
        return build_discriminator(config).to(self.output.weight.device)

    def with_classes(self, classes: int, rows: Tensor | None) -> Discriminator:
        """A deep copy whose classifier has `classes` other outputs (0: no classifier): the mixes `rows` [classes, old
        classes] of the old ones, or newly initialised ones (None, or no old ones)."""
        target = self.fresh(classes)
        own = target.state_dict()
        state = {k: v for k, v in self.state_dict().items() if not k.startswith("classifier.")}
        state |= {k: v for k, v in own.items() if k.startswith("classifier.")}
        if rows is not None and self.classifier is not None and classes:
            for part in ("weight", "bias"):
                old = getattr(self.classifier, part).detach()
                state[f"classifier.{part}"] = rows.to(old) @ old
        target.load_state_dict(state)
        return target.train(self.training)


def build_generator(config: WGANGPConfig) -> Generator:
    """A freshly initialised generator in eval mode. Its weights, like everything, are in channels_last, from whose
    layout a convolution takes its algorithm, and so its rounding."""
    return Generator(config).eval().to(memory_format=torch.channels_last)


def build_discriminator(config: WGANGPConfig) -> Discriminator:
    """A freshly initialised critic in eval mode."""
    return Discriminator(config).eval().to(memory_format=torch.channels_last)


@register_architecture("wgan_gp")
class WGANGP:
    """The architecture's entry points for `gantransfer.sources`."""

    config_class = WGANGPConfig
    trained_with = {"loss": "wgan-gp"}
    # TransferGAN, section 4.1 (source models: 50,000 iterations); the betas are its code's.
    published: ClassVar[dict[str, Any]] = {
        "batch_size": 128, "steps": 50_000, "lr_g": 1e-4, "lr_d": 1e-4, "class_lr_scale_g": 1.0,
        "class_lr_scale_d": 1.0, "beta2": 0.9, "d_steps": 5, "gp_weight": 10.0, "augment": "", "ema_decay": 0.0,
    }
    shorthand: ClassVar[dict[str, str]] = {}
    build_generator = staticmethod(build_generator)
    build_discriminator = staticmethod(build_discriminator)

    @staticmethod
    def expand(settings: Mapping[str, Any]) -> dict[str, Any]:
        """`settings` of a config as they are: there are no shorthands."""
        return dict(settings)

    @staticmethod
    def config_dict(config: WGANGPConfig) -> dict[str, Any]:
        """JSON-ready settings."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}

    @staticmethod
    def tiny(**changes: Any) -> WGANGPConfig:
        """The smallest network worth testing."""
        return WGANGPConfig(**{"resolution": 32, "num_classes": 4, "z_dim": 8, "channels": 1, "width": 2, **changes})
