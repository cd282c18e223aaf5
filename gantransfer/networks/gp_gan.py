"""GP-GAN: residual generator and discriminator without any normalisation, trained with R1.

Paper: Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018. Reference code:
GAN_stability (c1f64c9), whose four architectures are `VARIANTS` and whose parameter names are kept, so that an official
state dict loads key by key. A generator with a style head (Zhao, Cong, Carin, ICML 2020; see `gantransfer.stylehead`)
has `specific` in place of the label embedding, `fc` and the first groups.

Differs from the original: one or three image channels; float label embeddings also where the code has none; nearest
up-sampling and the convolution after it are one (see `gantransfer.layers`), which changes results only by rounding. In
training fakes' labels are drawn uniformly, where the code takes those of the batch of real images: the same
distribution for classes of equal size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError
from gantransfer.latents import latent_prior
from gantransfer.layers import fold_upsampling
from gantransfer.norm import ClassMixture
from gantransfer.registry import register_architecture
from gantransfer.routing import ConfiguredGenerator
from gantransfer.saved_maps import AveragePool, leaky_relu
from gantransfer.stylehead import RESIDUAL, SLOPE, StyleHead


@dataclass(frozen=True)
class Layout:
    """A published variant; widths are multiples of the base width.

    Attributes:
        g: width of G's first map and of its groups' outputs. d: of D's image layer and of its groups' outputs.
        blocks: residual blocks of a group. least: the resolution at which G's first map is a single place.
        kernel: of the image layers. outer: G up-samples after every group, and D pools before every group; else both
            do between groups. normalised: label embeddings are divided by their length.
    """

    g: tuple[int, ...]
    d: tuple[int, ...]
    blocks: int
    least: int
    kernel: int
    outer: bool
    normalised: bool


VARIANTS: dict[str, Layout | None] = {
    "resnet": None,  # groups and widths follow from the resolution
    "resnet2": Layout((16, 16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16, 16), 2, 32, 3, False, True),
    "resnet3": Layout((32, 16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16, 32), 1, 64, 7, True, False),
    "resnet4": Layout((16, 16, 16, 8, 4, 2, 1, 1), (1, 1, 2, 4, 8, 16, 16, 16), 1, 64, 7, False, False),
}


@dataclass(frozen=True)
class GPGANConfig:
    """Everything a GP-GAN's structure depends on.

    Attributes:
        variant: "resnet" (CelebA-HQ, and the code's default), "resnet2" (ImageNet), "resnet3" (LSUN) or "resnet4"
            (CelebA).
        resolution: image side, a power of two; from 32 px (resnet, resnet2) or 64 px (resnet3, resnet4).
        channels: image channels, 1 or 3.
        num_classes: classes; 0 means unconditional (one row of the label embedding, one logit).
        z_dim: length of the latent. embed_dim: of the label embedding.
        g_width, d_width: base widths. g_max, d_max: no layer of variant "resnet" is wider.
        replicate: the images have one channel and the image layers three: G's output is averaged over channels, D's
            input repeated (the limited-data paper's grey targets).
        general: with a style head, how many of G's groups stay below it, the image layer counted as the first
            (G_m's m); 0 is no style head.
        style_blocks, style_dim, mapping_layers, scaled_norm, clamp: of the style head, see
            `gantransfer.stylehead.StyleHead`.
        sampling_prior: what latents are drawn from, see `gantransfer.latents`; "" is standard normal.
    """

    variant: str = "resnet2"
    resolution: int = 32
    channels: int = 3
    num_classes: int = 10
    z_dim: int = 256
    embed_dim: int = 256
    g_width: int = 64
    d_width: int = 64
    g_max: int = 512
    d_max: int = 1024
    replicate: bool = False
    general: int = 0
    style_blocks: int = 2
    style_dim: int = 256
    mapping_layers: int = 8
    scaled_norm: bool = False
    clamp: bool = False
    sampling_prior: str = ""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ModelError(f"GP-GAN variant '{self.variant}' does not exist; have: {', '.join(VARIANTS)}")
        least = 64 if (VARIANTS[self.variant] or VARIANTS["resnet2"]).least == 64 else 32
        if self.resolution < least or self.resolution & (self.resolution - 1):
            raise ModelError(f"GP-GAN resolution {self.resolution} is not possible with variant '{self.variant}'; give "
                             f"a power of two from {least}")
        if self.channels not in (1, 3) or (self.replicate and self.channels != 1):
            allowed = "1, as replicate is for grey images" if self.replicate else "1 or 3"
            raise ModelError(f"GP-GAN image channels {self.channels} are not possible; give {allowed}")
        if self.num_classes < 0:
            raise ModelError(f"num_classes {self.num_classes} is negative; 0 is a model without classes")
        for name in ("z_dim", "embed_dim", "g_width", "d_width", "g_max", "d_max", "style_blocks", "style_dim",
                     "mapping_layers"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} {getattr(self, name)} is not possible; give 1 or more")
        if self.general:
            self._check_general()

    def _check_general(self) -> None:
        groups = len(self.layout.g)  # the image layer included
        if not 1 <= self.general <= groups:
            raise ModelError(f"general part G{self.general} is not possible: this generator has G1 to G{groups} (the "
                             "image layer is the first group)")
        side, factor = self.junction_side(self.general), 2**self.style_blocks
        if side % factor:
            fitting = [f"G{m}" for m in range(1, groups + 1) if self.junction_side(m) % factor == 0]
            most = (side & -side).bit_length() - 1
            raise ModelError(f"a style head of {self.style_blocks} blocks does not fit above G{self.general} at "
                             f"{self.resolution} px: its features have {side} places a side, which {factor} does not "
                             f"divide; with so many blocks {', '.join(fitting) or 'no general part'} would fit, and "
                             f"above G{self.general} " + (f"at most {most}" if most else "none do"))

    @property
    def layout(self) -> Layout:
        """The variant's, with multiples of the base widths."""
        fixed = VARIANTS[self.variant]
        if fixed is not None:
            return fixed
        n = self.resolution.bit_length() - 3  # groups that resample, from 4 px
        powers = tuple(2**i for i in range(n + 1))
        return Layout((*reversed(powers), 1)[: n + 2], (1, *powers), 1, 8, 3, False, True)

    @property
    def g_widths(self) -> tuple[int, ...]:
        """Channels of G's first map and of its groups' outputs."""
        return self._widths(self.layout.g, self.g_width, self.g_max)

    @property
    def d_widths(self) -> tuple[int, ...]:
        """Channels of D's image layer and of its groups' outputs."""
        return self._widths(self.layout.d, self.d_width, self.d_max)

    def _widths(self, multiples: Sequence[int], base: int, most: int) -> tuple[int, ...]:
        limited = self.variant == "resnet"
        return tuple(min(base * m, most) if limited else base * m for m in multiples)

    @property
    def first_side(self) -> int:
        """Side of G's first map and of D's last."""
        return 4 if self.variant == "resnet" else self.resolution // self.layout.least

    @property
    def first_group(self) -> int:
        """Index of the first group that G has: 0, or with a style head the general part's first."""
        return len(self.layout.g) - self.general if self.general else 0

    def junction_side(self, general: int) -> int:
        """Side of the features that a general part of so many groups takes up."""
        groups = len(self.layout.g)
        if general == 1:
            return self.resolution
        at = groups - general
        return self.first_side * 2 ** (at if self.layout.outer else max(at - 1, 0))

    @property
    def image_channels(self) -> int:
        """Channels of the image layers."""
        return 3 if self.replicate else self.channels

    @property
    def rows(self) -> int:
        return max(self.num_classes, 1)


class ResidualBlock(nn.Module):
    """shortcut(x) + 0.1 main(x), main: leaky ReLU, 3x3 convolution, leaky ReLU, 3x3 convolution.

    With ``up`` the input is up-sampled by nearest x2 first: [N, in, H, W] -> [N, out, 2H, 2W].
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        hidden = min(n_in, n_out)
        self.conv_0 = nn.Conv2d(n_in, hidden, 3, padding=1)
        self.conv_1 = nn.Conv2d(hidden, n_out, 3, padding=1)
        self.conv_s = nn.Conv2d(n_in, n_out, 1, bias=False) if n_in != n_out else None

    def forward(self, x: Tensor, up: bool = False) -> Tensor:
        h = leaky_relu(x, SLOPE)  # commutes with the up-sampling, as the shortcut does
        if up:
            h = F.conv_transpose2d(h, fold_upsampling(self.conv_0.weight), self.conv_0.bias, stride=2, padding=1)
        else:
            h = self.conv_0(h)
        h = self.conv_1(leaky_relu(h, SLOPE))
        x = x if self.conv_s is None else self.conv_s(x)
        return (F.interpolate(x, scale_factor=2) if up else x) + RESIDUAL * h


class _Groups(nn.Module):
    """Residual blocks under the published names, by group."""

    def _add_groups(self, widths: Sequence[int], layout: Layout, first: int, widen_first: bool) -> None:
        self._group_names: list[list[str]] = []
        plain = layout.blocks == 1 and layout.kernel == 3  # variant resnet: one sequence, resamplings counted in it
        if plain:
            self.resnet = nn.ModuleDict()
        for i in range(first, len(widths) - 1):
            n_in, n_out = widths[i : i + 2]
            between = n_out if widen_first or layout.blocks == 1 else n_in
            ends = [(n_in, between), (between, n_out)][: layout.blocks]
            for j, (a, b) in enumerate(ends):
                if plain:
                    self.resnet[str(2 * i)] = ResidualBlock(a, b)
                else:
                    self.add_module(f"resnet_{i}_{j}", ResidualBlock(a, b))
            names = [f"resnet.{2 * i}"] if plain else [f"resnet_{i}_{j}" for j in range(layout.blocks)]
            self._group_names.append(names)

    def _groups(self) -> list[list[nn.Module]]:
        return [[self.get_submodule(name) for name in names] for names in self._group_names]


class Generator(ConfiguredGenerator, _Groups):
    """GP-GAN generator.

    Seams: `prior` (of z), `blocks` in data-flow order (a style head's, then the groups of residual blocks),
    `head` (the image layer).
    """

    def __init__(self, config: GPGANConfig) -> None:
        super().__init__()
        self.config = config
        widths, layout = config.g_widths, config.layout
        self.prior = latent_prior(config.sampling_prior)
        # A style head without classes takes up no labels (the published code embeds one there and does not use it).
        labelled = not config.general or config.num_classes > 0
        self.embedding = nn.Embedding(config.rows, config.embed_dim) if labelled else None
        first = config.first_group
        if config.general:
            self.specific = StyleHead(
                config.z_dim, config.embed_dim if config.num_classes else 0, widths[first],
                config.junction_side(config.general), config.style_blocks, config.style_dim, config.mapping_layers,
                config.scaled_norm, config.clamp,
            )
        else:
            self.fc = nn.Linear(config.z_dim + config.embed_dim, widths[0] * config.first_side**2)
        self._add_groups(widths, layout, first, widen_first=True)
        self.conv_img = nn.Conv2d(widths[-1], config.image_channels, layout.kernel, padding=layout.kernel // 2)

    @property
    def head(self) -> nn.Module:
        return self.conv_img

    @property
    def blocks(self) -> list[nn.ModuleList]:
        own = [nn.ModuleList([block]) for block in self.specific.blocks] if self.config.general else []
        return own + [nn.ModuleList(group) for group in self._groups()]

    @property
    def style_sites(self) -> int:
        """Places where a style enters; 0 without a style head."""
        return self.specific.sites if self.config.general else 0

    def noise(self, key: Tensor) -> list[Tensor]:
        """Noise maps for `forward`, drawn by the rows of `key` [N, any] (generators with a style head only)."""
        return self.specific.noise(key)

    def condition(self, y: Tensor | ClassMixture | None, n: int) -> Tensor:
        """Label vectors [n, embed_dim] of integer labels [n], float embeddings [n, embed_dim], a `ClassMixture`, or
        None (unconditional networks only)."""
        if y is None:
            if self.config.num_classes > 1:
                raise ModelError(f"this generator has {self.config.num_classes} classes: pass labels [N], not None")
            y = torch.zeros(n, dtype=torch.int64, device=self.conv_img.weight.device)
        if isinstance(y, ClassMixture):
            vectors = y.weights @ self.embedding.weight
        else:
            vectors = y if y.is_floating_point() else self.embedding(y)
        return vectors / vectors.norm(dim=1, keepdim=True) if self.config.layout.normalised else vectors

    def styles(self, z: Tensor, y: Tensor | ClassMixture | None = None) -> Tensor:
        """float [N, style_dim]: the style w of latents [N, z_dim] (and labels), before it is given to every site."""
        if not self.config.general:
            raise ModelError("this generator has no styles; adapt with method adafm and --head style for some")
        label = self.condition(y, len(z)) if self.config.num_classes else None
        z = self.prior(z)
        return self.specific.mapping(z if label is None else torch.cat([z, label], 1))

    def forward(
        self, z: Tensor, y: Tensor | ClassMixture | None = None, noise: Sequence[Tensor] | None = None,
        styles: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """float32 images [N, channels, R, R] in [-1, 1] from z [N, z_dim] and labels (see `condition`).

        With a style head `noise` is one map [N, 1, h, w] for each site (None: drawn from z, see `StyleHead.noise`) and
        `styles` one w [N, style_dim] for each (None: this z's everywhere). Without one both must be None.
        """
        z = self.prior(z)
        if self.config.general:
            for name, given in (("noise", noise), ("styles", styles)):
                if given is not None and len(given) != self.style_sites:
                    raise ModelError(f"{len(given)} {name} were given to a generator with {self.style_sites} sites; "
                                     "give one for each, or None")
            label = self.condition(y, len(z)) if self.config.num_classes else None
            h = self.specific(z, label, noise, styles)
        elif noise is not None or styles is not None:
            raise ModelError("this GP-GAN has no style head: leave noise and styles at None")
        else:
            side = self.config.first_side
            h = self.fc(torch.cat([z, self.condition(y, len(z))], 1)).view(len(z), -1, side, side)
        h = h.contiguous(memory_format=torch.channels_last)
        outer = self.config.layout.outer
        for i, group in enumerate(self._groups(), self.config.first_group):
            for j, block in enumerate(group):
                h = block(h, up=j == 0 and i > 0 and not outer)
            if outer:
                h = F.interpolate(h, scale_factor=2)
        images = torch.tanh(self.conv_img(leaky_relu(h, SLOPE)))
        return images.mean(1, keepdim=True) if self.config.replicate else images

    def standing_norms(self) -> list[Any]:
        """None: there is no batch norm."""
        return []

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        """None: there are no norm layers that an adapter of a frozen generator may own."""
        return iter(())

    def beside_base(self) -> list[nn.Module]:
        return [self]

    def class_embedding(self) -> Tensor | None:
        """The label embedding [classes, embed_dim], or None."""
        return None if self.embedding is None else self.embedding.weight.detach()

    def fresh(self, classes: int) -> Generator:
        """The same architecture for `classes` classes with newly initialised weights (global generator)."""
        return build_generator(replace(self.config, num_classes=classes)).to(self.conv_img.weight.device)

    def with_classes(self, classes: int, rows: Tensor | None) -> Generator:
        """A deep copy for `classes` other classes, whose label embeddings are the mixes `rows` [classes, old classes]
        of the old ones, or newly initialised (None)."""
        if self.config.general and bool(classes) != bool(self.config.num_classes):
            raise ModelError("a style head takes up labels only if it was made with them: this source has "
                             f"{self.config.num_classes or 'no'} classes and the target {classes or 'none'}")
        target = self.fresh(classes)
        state = dict(self.state_dict())
        if self.embedding is not None:
            old = self.embedding.weight.detach()
            state["embedding.weight"] = target.embedding.weight.detach() if rows is None else rows.to(old) @ old
        target.load_state_dict(state)
        return target.train(self.training)

    def with_changes(self, classes: int, keep_first: bool, **changes: Any) -> Generator:
        """A copy with other settings: of this one's tensors it has those whose names and shapes still fit, everything
        else is newly initialised. So are, without `keep_first`, the layer after the latents and the label embedding;
        with it every class has the mean of the old ones' embeddings.

        `changes`: fields of `GPGANConfig`, as ``general=4`` for a style head above the last groups.
        """
        target = build_generator(replace(self.config, num_classes=classes, **changes))
        own, new = self.state_dict(), target.state_dict()
        fresh = ("embedding.", "specific.") + (() if keep_first else ("fc.",))
        kept = {k: v for k, v in own.items()
                if k in new and v.shape == new[k].shape and not k.startswith(fresh)}
        if keep_first and "embedding.weight" in own and "fc.weight" in kept:
            kept["embedding.weight"] = own["embedding.weight"].mean(0).expand_as(new["embedding.weight"])
        target.load_state_dict({**new, **kept})
        return target.to(self.conv_img.weight.device).train(self.training)


class Discriminator(_Groups):
    """GP-GAN discriminator: one logit for each class, of which the label's counts; without a label their mean.

    Seams: `blocks` in data-flow order (the image layer, then the groups of residual blocks), `head` (`fc`).
    """

    def __init__(self, config: GPGANConfig) -> None:
        super().__init__()
        self.config = config
        widths, layout = config.d_widths, config.layout
        self.conv_img = nn.Conv2d(config.image_channels, widths[0], layout.kernel, padding=layout.kernel // 2)
        self._add_groups(widths, layout, 0, widen_first=False)
        self.pool = AveragePool()
        self.fc = nn.Linear(widths[-1] * config.first_side**2, config.rows)

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def head(self) -> nn.Module:
        return self.fc

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.conv_img, *(nn.ModuleList(group) for group in self._groups())]

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        h = images.expand(-1, 3, -1, -1) if self.config.replicate else images
        h = self.conv_img(h.contiguous(memory_format=torch.channels_last))
        yield h
        for i, group in enumerate(self._groups()):
            if i or self.config.layout.outer:
                h = self.pool(h)
            for block in group:
                h = block(h)
            yield h

    def maps(self, images: Tensor) -> list[Tensor]:
        """Every block's output after the leaky ReLU, float [N, d_widths[i], h, w]."""
        return [leaky_relu(h, SLOPE) for h in self._stages(images)]

    def features(self, images: Tensor) -> Tensor:
        """float [N, d_widths[-1] * side * side]: what the last layer sees."""
        *_, h = self._stages(images)
        return leaky_relu(h, SLOPE).flatten(1)

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits [N] of images [N, channels, R, R] in [-1, 1]; y int64 [N], or None: the mean over classes."""
        logits = self.fc(self.features(images))
        if y is None or not self.config.num_classes:
            return logits.mean(1)
        if y.device.type == "cpu" and y.numel() and int(y.max()) >= logits.shape[1]:
            raise ModelError(f"the critic knows {logits.shape[1]} classes and was asked about class {int(y.max())}")
        return logits.gather(1, y.view(-1, 1)).squeeze(1)

    def fresh(self, classes: int) -> Discriminator:
        """The same architecture for `classes` classes with newly initialised weights (global generator)."""
        return build_discriminator(replace(self.config, num_classes=classes)).to(self.conv_img.weight.device)

    def with_classes(self, classes: int, rows: Tensor | None, **changes: Any) -> Discriminator:
        """A deep copy whose last layer has `classes` other rows: the mixes `rows` [classes, old classes] of the old
        ones, or newly initialised ones (None). `changes`: further fields of `GPGANConfig`."""
        target = build_discriminator(replace(self.config, num_classes=classes, **changes))
        target = target.to(self.conv_img.weight.device)
        state = dict(self.state_dict())
        for name, row in (("fc.weight", self.fc.weight), ("fc.bias", self.fc.bias)):
            state[name] = target.state_dict()[name] if rows is None else rows.to(row) @ row.detach()
        target.load_state_dict(state)
        return target.train(self.training)


def build_generator(config: GPGANConfig) -> Generator:
    """A freshly initialised generator in eval mode. Its weights, like everything, are in channels_last: a convolution
    of maps of a single place takes its algorithm, and so its rounding, from the weight's layout."""
    return Generator(config).eval().to(memory_format=torch.channels_last)


def build_discriminator(config: GPGANConfig) -> Discriminator:
    """A freshly initialised discriminator in eval mode."""
    return Discriminator(config).eval().to(memory_format=torch.channels_last)


@register_architecture("gp_gan")
class GPGAN:
    """The architecture's entry points for `gantransfer.sources`."""

    config_class = GPGANConfig
    # What published critics were trained with; R1 in the gamma/2 convention (the code's 10 has no 1/2).
    trained_with = {"loss": "non-saturating", "r1_gamma": 20.0}
    # The published code's settings of pre-training (ImageNet, 128 px); the limited-data paper names none.
    published: ClassVar[dict[str, Any]] = {
        "batch_size": 128, "optimizer": "rmsprop", "lr_g": 1e-4, "lr_d": 1e-4, "class_lr_scale_g": 1.0,
        "class_lr_scale_d": 1.0, "d_steps": 1, "r1_every": 1, "augment": "", "image_noise": 1 / 128, "mirror": True,
        "ema_decay": 0.999, "ema_start": 1,
    }
    # Settings that stand for others in pre-training, see `expand`.
    shorthand = {"width": "base width of both networks (default: 64)"}
    build_generator = staticmethod(build_generator)
    build_discriminator = staticmethod(build_discriminator)

    @staticmethod
    def expand(settings: Mapping[str, Any]) -> dict[str, Any]:
        """`settings` of a config with both base widths from ``width`` where it is given.

        Raises:
            ModelError: ``width`` and one of the two.
        """
        found = dict(settings)
        if "width" in found:
            width = found.pop("width")
            for name in ("g_width", "d_width"):
                if name in found:
                    raise ModelError(f"width and {name} both say how wide the network is; give one of them")
                found[name] = width
        return found

    @staticmethod
    def config_dict(config: GPGANConfig) -> dict[str, Any]:
        """JSON-ready settings."""
        return asdict(config)

    @staticmethod
    def tiny(**changes: Any) -> GPGANConfig:
        """The smallest network worth testing."""
        return GPGANConfig(**{"num_classes": 4, "z_dim": 8, "embed_dim": 4, "channels": 1, "g_width": 2, "d_width": 2,
                              "style_dim": 6, "mapping_layers": 2, **changes})
