"""BigGAN generator and projection discriminator, 32 to 256 pixels.

Paper: Brock, Donahue, Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
ICLR 2019. Reference code: ajbrock/BigGAN-PyTorch (98459431), whose parameter and buffer names are kept,
so an official state dict of a plain BigGAN loads key by key.

Differs from the original: networks take integer labels (the shared embedding is looked up inside);
channel widths may be given explicitly; one or three image channels; resampling convolutions are folded
(see `gantransfer.layers`), which changes results only by rounding; a norm layer may carry the classes of
several adapters (`gantransfer.norm.RoutedNorm`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.attention import SelfAttention
from gantransfer.errors import ModelError
from gantransfer.latents import latent_prior
from gantransfer.layers import SNConv2d, SNEmbedding, SNLinear, initialise, weights_follow
from gantransfer.norm import (
    BatchNorm,
    ClassBatchNorm,
    ClassMixture,
    ClassTable,
    Condition,
    NoisyClassTable,
    SharedAffine,
    StandingStatistics,
)
from gantransfer.registry import register_architecture
from gantransfer.routing import ExtendableGenerator

INITS = ("ortho", "N02", "xavier", "glorot")
# Multiples of the base width: the generator's first map and the outputs of its blocks.
G_TABLE = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# Outputs of the discriminator's blocks; the last blocks do not pool.
D_TABLE = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}
# Resolution each discriminator block is filed under for attention (official table; 32 px is nominal).
D_RESOLUTIONS = {
    32: (16, 16, 16, 16),
    64: (32, 16, 8, 4, 4),
    128: (64, 32, 16, 8, 4, 4),
    256: (128, 64, 32, 16, 8, 4, 4),
}


@dataclass(frozen=True)
class BigGANConfig:
    """Everything a BigGAN's structure depends on.

    Attributes:
        resolution: image side, 32, 64, 128 or 256 px.
        channels: image channels, 1 or 3.
        num_classes: classes; 0 means unconditional (one row of class parameters, no projection).
        z_dim: length of the latent; with `hierarchical` rounded down to a multiple of blocks + 1.
        g_widths: channels of the 4x4 map and of every generator block's output.
        d_widths: channels of every discriminator block's output.
        hierarchical: the first z chunk feeds the linear layer, chunk i+1 conditions block i.
        shared_dim: width of the shared class embedding; 0 means one table of gains and biases per layer.
        class_affine: "table", "shared" or "noisy-table" (per-class rows plus a noise projection).
        g_attention, d_attention: resolutions with self-attention.
        bn_eps, sn_eps: epsilons of batch norm and of the power iteration's normalisation.
        standing_statistics: the batch norm flavour with standing statistics (official ``mybn``).
        d_wide: hidden channels of a discriminator block are its output's, else its input's.
        init: "ortho", "N02" or "xavier".
        extensions: class counts of the adapters added by `extend`, in order.
        plain_convolutions: names of G's convolutions without spectral norm, whose weights were modulated.
        sampling_prior: what latents are drawn from, see `gantransfer.latents`; "" is standard normal.
    """

    resolution: int = 32
    channels: int = 3
    num_classes: int = 10
    z_dim: int = 128
    g_widths: tuple[int, ...] = (256, 256, 256, 256)
    d_widths: tuple[int, ...] = (256, 256, 256, 256)
    hierarchical: bool = False
    shared_dim: int = 0
    class_affine: str = "table"
    g_attention: tuple[int, ...] = ()
    d_attention: tuple[int, ...] = ()
    bn_eps: float = 1e-5
    sn_eps: float = 1e-6
    standing_statistics: bool = False
    d_wide: bool = True
    init: str = "ortho"
    extensions: tuple[int, ...] = ()
    plain_convolutions: tuple[str, ...] = ()
    sampling_prior: str = ""

    def __post_init__(self) -> None:
        if self.resolution not in G_TABLE:
            raise ModelError(f"BigGAN resolution {self.resolution} is not one of {list(G_TABLE)}")
        if self.channels not in (1, 3):
            raise ModelError(f"BigGAN image channels {self.channels} are neither 1 nor 3")
        for name, table in (("g_widths", G_TABLE), ("d_widths", D_TABLE)):
            widths, need = tuple(getattr(self, name)), len(table[self.resolution])
            if len(widths) != need or any(w < 1 for w in widths):
                raise ModelError(
                    f"{name} {list(widths)} does not fit {self.resolution} px: give {need} positive widths"
                )
            object.__setattr__(self, name, widths)
        if self.class_affine not in ("table", "shared", "noisy-table"):
            raise ModelError(f"class_affine '{self.class_affine}' is not table, shared or noisy-table")
        if (self.class_affine == "shared") != (self.shared_dim > 0):
            raise ModelError(
                f"class_affine '{self.class_affine}' with shared_dim {self.shared_dim}: "
                "'shared' needs a positive shared_dim, the tables need 0"
            )
        if self.hierarchical and self.class_affine == "table":
            raise ModelError("hierarchical z needs class_affine 'shared' or 'noisy-table', not 'table'")
        if self.class_affine == "noisy-table" and not self.hierarchical:
            raise ModelError("class_affine 'noisy-table' needs hierarchical z; use 'table'")
        for name in ("g_attention", "d_attention", "extensions", "plain_convolutions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.hierarchical:
            object.__setattr__(self, "z_dim", self.z_chunk * len(self.g_widths))
        self._check_values()
        if self.z_dim < 1 or self.z_chunk < 1:
            raise ModelError(f"z_dim {self.z_dim} is too small for {len(self.g_widths)} chunks")

    def _check_values(self) -> None:
        if self.init not in INITS:
            raise ModelError(f"init '{self.init}' is unknown; choose one of {', '.join(INITS)}")
        for name in ("bn_eps", "sn_eps"):
            if not 0 < getattr(self, name) < 1:
                raise ModelError(f"{name} {getattr(self, name)} is not possible; give a small positive number")
        if self.num_classes < 0:
            raise ModelError(f"num_classes {self.num_classes} is negative; 0 is a model without classes")
        outputs = {"g": [8 * 2**i for i in range(len(self.g_widths) - 1)], "d": D_RESOLUTIONS[self.resolution]}
        widths = {"g": self.g_widths[1:], "d": self.d_widths}
        for net, places in outputs.items():
            for place in getattr(self, f"{net}_attention"):
                if place not in places:
                    raise ModelError(f"{net}_attention {place} is no resolution of this network; have: "
                                     f"{', '.join(map(str, sorted(set(places))))}")
                if any(w < 8 for w, p in zip(widths[net], places, strict=True) if p == place):
                    raise ModelError(f"{net}_attention {place} needs 8 channels or more there; widen {net}_widths "
                                     f"{list(getattr(self, f'{net}_widths'))}")

    @property
    def z_chunk(self) -> int:
        """Length of one chunk of a hierarchical z; else the whole z."""
        return self.z_dim // len(self.g_widths) if self.hierarchical else self.z_dim


def _class_affine(config: BigGANConfig, channels: int) -> nn.Module:
    rows = max(config.num_classes - sum(config.extensions), 1)
    if config.class_affine == "shared":
        chunk = config.z_chunk if config.hierarchical else 0
        return SharedAffine(config.shared_dim, chunk, channels, config.sn_eps)
    if config.class_affine == "noisy-table":
        return NoisyClassTable(rows, channels, config.z_chunk)
    return ClassTable(rows, channels)


def _class_norm(config: BigGANConfig, channels: int) -> ClassBatchNorm:
    gain, bias = _class_affine(config, channels), _class_affine(config, channels)
    return ClassBatchNorm(channels, gain, bias, config.bn_eps, config.standing_statistics)


class GeneratorBlock(nn.Module):
    """cBN-ReLU-up-conv-cBN-ReLU-conv plus an up-sampled 1x1 shortcut; [N, in, H, W] -> [N, out, 2H, 2W]."""

    def __init__(self, config: BigGANConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        eps = config.sn_eps
        self.conv1 = SNConv2d(in_channels, out_channels, resample="up", eps=eps)
        self.conv2 = SNConv2d(out_channels, out_channels, eps=eps)
        self.conv_sc = SNConv2d(in_channels, out_channels, 1, resample="up", eps=eps)
        self.bn1 = _class_norm(config, in_channels)
        self.bn2 = _class_norm(config, out_channels)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        h = self.conv1(F.relu(self.bn1(x, condition), inplace=True))
        h = self.conv2(F.relu(self.bn2(h, condition), inplace=True))
        return h + self.conv_sc(x)


class Generator(ExtendableGenerator):
    """BigGAN generator.

    Seams: `prior` (of z), `blocks` in data-flow order, `class_norms()`, `head` (output layer).
    """

    conditionings = ("bnorm",)  # ways in which a copy without classes can take some up

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.g_widths
        self.prior = latent_prior(config.sampling_prior)
        self.shared: nn.Module | None = None
        if config.class_affine == "shared":
            rows = max(config.num_classes - sum(config.extensions), 1)
            self.shared = nn.Embedding(rows, config.shared_dim)
        self.linear = SNLinear(config.z_chunk, widths[0] * 16, eps=config.sn_eps)
        self.blocks = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False)):
            block = nn.ModuleList([GeneratorBlock(config, n_in, n_out)])
            if 8 * 2**i in config.g_attention:
                block.append(SelfAttention(n_out, config.sn_eps))
            self.blocks.append(block)
        # The official output norm keeps eps 1e-5 whatever bn_eps is.
        output_norm = BatchNorm(widths[-1], 1e-5, config.standing_statistics)
        conv = SNConv2d(widths[-1], config.channels, eps=config.sn_eps)
        self.output_layer = nn.ModuleList([output_norm, nn.ReLU(), conv])
        initialise(self, config.init)
        for name in config.plain_convolutions:
            self.get_submodule(name).without_norm()
        for classes in config.extensions:
            self._append_norms(self.adapter_norms(classes), classes)

    @property
    def head(self) -> nn.ModuleList:
        return self.output_layer

    def condition(self, y: Tensor | ClassMixture | Condition | None, n: int) -> Condition:
        """Labels and embedding of a batch of `n` from integer labels [n], float class embeddings
        [n, shared_dim] (where the network has a shared embedding), a `ClassMixture`, or None
        (unconditional networks only); a `Condition` is passed on."""
        if isinstance(y, Condition):
            return y
        if y is None:
            if self.config.num_classes > 1:
                raise ModelError(
                    f"this generator has {self.config.num_classes} classes: pass labels [N], not None"
                )
            y = torch.zeros(n, dtype=torch.int64, device=self.linear.weight.device)
        sources = max(self.config.num_classes - sum(self.config.extensions), 1)
        if isinstance(y, ClassMixture):
            if self.shared is None:
                return Condition(y.weights, None, None)
            weights = y.weights[:, :sources]
            weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
            return Condition(y.weights, weights @ self.shared.weight, None)
        if y.is_floating_point():
            if self.shared is None:
                raise ModelError("this generator has no label embedding: pass int64 labels [N]")
            return Condition(None, y, None)
        if self.shared is None:
            return Condition(y, None, None)
        added = (y >= sources) & (y < self.config.num_classes)  # a label beyond them all fails in the embedding
        return Condition(y, self.shared(y.where(~added, 0) if self.config.extensions else y), None)

    def forward(
        self, z: Tensor, y: Tensor | ClassMixture | Condition | None = None, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """float32 images [N, channels, R, R] in [-1, 1] from z [N, z_dim] and labels (see `condition`).
        BigGAN draws no further noise; `noise` is accepted for the common signature and must be None."""
        if noise is not None:
            raise ModelError("BigGAN has no noise inputs: leave noise=None")
        z = self.prior(z)
        condition = self.condition(y, len(z))
        chunks: Sequence[Tensor | None] = (z,) + (None,) * len(self.blocks)
        if self.config.hierarchical:
            chunks = z.split(self.config.z_chunk, 1)
        h = self.linear(chunks[0]).view(len(z), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        for block, chunk in zip(self.blocks, chunks[1:], strict=True):
            h = block[0](h, condition._replace(noise=chunk))
            for attention in block[1:]:
                h = attention(h)
        norm, activation, conv = self.output_layer
        return torch.tanh(conv(activation(norm(h, condition))))

    def class_norms(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of every class-conditional norm layer in data-flow order."""
        for i, block in enumerate(self.blocks):
            yield f"blocks.{i}.0.bn1", block[0].bn1
            yield f"blocks.{i}.0.bn2", block[0].bn2

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of every norm layer: what an adapter of a frozen generator may own."""
        yield from self.class_norms()
        yield "output_layer.0", self.output_layer[0]

    def class_embedding(self) -> Tensor | None:
        """The shared class embedding [classes, shared_dim], or None."""
        return None if self.shared is None else self.shared.weight.detach()

    def standing_norms(self) -> list[StandingStatistics]:
        return [m for m in self.modules() if isinstance(m, StandingStatistics)]

    def rebuilt(self, config: BigGANConfig) -> Generator:
        """A freshly initialised generator of `config`."""
        return build_generator(config)

    def fresh(self, classes: int) -> Generator:
        """The same architecture for `classes` classes with newly initialised weights (global generator)."""
        affine = {"class_affine": "shared" if self.config.shared_dim else self.config.class_affine}
        config = replace(self.config, num_classes=classes, extensions=(), **affine)
        return build_generator(config).to(self.linear.weight.device)

    def with_classes(self, classes: int, rows: Tensor | None) -> Generator:
        """A deep copy for `classes` other classes in the same form of class affine.

        Args:
            rows: float [classes, old classes], each new class's mix of the old ones (in the shared embedding,
                or in every table), or None: newly initialised from the global generator.
        """
        source = self.base() if self.config.extensions else self
        target = source.fresh(classes)
        per_class = {"shared.weight"} if self.shared is not None else {
            f"{name}.{part}.weight" for name, _ in source.class_norms() for part in ("gain", "bias")
        }
        state = source._averaged_state()
        for key in per_class:
            if rows is None:
                state[key] = target.state_dict()[key]
            else:
                state[key] = rows.to(state[key]) @ state[key]
        target.load_state_dict(state)
        return target.train(self.training)

    def _averaged_state(self) -> dict[str, Tensor]:
        """`state_dict` with standing statistics as plain averages: what training goes on from."""
        state = dict(self.state_dict())
        for name, norm in self.named_modules():
            if isinstance(norm, StandingStatistics) and norm.standing:
                for part in ("stored_mean", "stored_var"):
                    state[f"{name}.{part}"] = state[f"{name}.{part}"] / norm.accumulation_counter
                state[f"{name}.accumulation_counter"] = torch.zeros_like(norm.accumulation_counter)
        return state

    def with_class_tables(self, classes: int) -> Generator:
        """A deep copy for `classes` other classes: every class norm holds zero tables (gain 1, bias 0;
        with hierarchical z also the source's effective noise projections), statistics are the source's,
        and the shared embedding is gone. Everything else is the source's, bit for bit."""
        source = self.base() if self.config.extensions else self
        affine = "noisy-table" if self.config.hierarchical else "table"
        config = replace(source.config, num_classes=classes, class_affine=affine, shared_dim=0)
        with weights_follow():
            target = build_generator(config)
        state = {k: v for k, v in source._averaged_state().items() if k in target.state_dict()}
        for name, norm in source.class_norms():
            for part, affine_module in (("gain", norm.gain), ("bias", norm.bias)):
                for key in [k for k in state if k.startswith(f"{name}.{part}.")]:
                    del state[key]
                state[f"{name}.{part}.weight"] = torch.zeros(max(classes, 1), norm.channels)
                if config.hierarchical:
                    state[f"{name}.{part}.noise.weight"] = affine_module.noise_projection()
        target.load_state_dict(state)
        return target.to(self.linear.weight.device).train(self.training)

    def adapter_norms(self, classes: int) -> dict[str, nn.Module]:
        """Fresh norm layers, by name, for an adapter with `classes` classes of this generator."""
        affine = "noisy-table" if self.config.hierarchical else "table"
        config = replace(
            self.config, num_classes=classes, class_affine=affine, shared_dim=0, extensions=()
        )
        new: dict[str, nn.Module] = {name: _class_norm(config, n.channels) for name, n in self.class_norms()}
        output = self.output_layer[0]
        new["output_layer.0"] = BatchNorm(output.channels, 1e-5, config.standing_statistics)
        return new


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions with an optional 2x2 average pool, plus shortcut. Only blocks after the
    first start with a ReLU (on the main path alone)."""

    def __init__(self, n_in: int, n_out: int, *, wide: bool, first: bool, down: bool, eps: float) -> None:
        super().__init__()
        self.first, resample = first, "down" if down else None
        hidden = n_out if wide else n_in
        self.conv1 = SNConv2d(n_in, hidden, eps=eps)
        self.conv2 = SNConv2d(hidden, n_out, resample=resample, eps=eps)
        if down or n_in != n_out:
            self.conv_sc = SNConv2d(n_in, n_out, 1, resample=resample, eps=eps)
        else:
            self.conv_sc = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h, inplace=True))
        return h + (x if self.conv_sc is None else self.conv_sc(x))


class Discriminator(nn.Module):
    """BigGAN projection critic: logits linear(h) + <embed(y), h>, h the sum-pooled last features.

    Seams: `blocks` in data-flow order (image first), `head` (the linear layer), `embed`.
    """

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config = config
        widths, eps = config.d_widths, config.sn_eps
        pooled = len(widths) - (2 if config.resolution == 32 else 1)
        self.blocks = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip((config.channels, *widths), widths, strict=False)):
            block = nn.ModuleList([
                DiscriminatorBlock(
                    n_in, n_out, wide=config.d_wide, first=i == 0, down=i < pooled, eps=eps
                )
            ])
            if D_RESOLUTIONS[config.resolution][i] in config.d_attention:
                block.append(SelfAttention(n_out, eps))
            self.blocks.append(block)
        self.linear = SNLinear(widths[-1], 1, eps=eps)
        # A model extended by adapters keeps the critic of its own classes.
        classes = config.num_classes - sum(config.extensions)
        self.embed = SNEmbedding(classes, widths[-1], eps=eps) if classes else None
        initialise(self, config.init)

    @property
    def num_classes(self) -> int:
        """Classes that it can judge: those it was made with."""
        return 0 if self.embed is None else self.embed.num_embeddings

    @property
    def head(self) -> nn.Module:
        return self.linear

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        h = images.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            for layer in block:
                h = layer(h)
            yield h

    def maps(self, images: Tensor) -> list[Tensor]:
        """Every block's output after ReLU, float [N, d_widths[i], h, w]."""
        return [F.relu(h) for h in self._stages(images)]

    def features(self, images: Tensor) -> Tensor:
        """float [N, d_widths[-1]]: ReLU, then the sum over all positions."""
        *_, h = self._stages(images)
        return F.relu(h).sum((2, 3))

    def forward(self, images: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits [N] of images [N, channels, R, R] in [-1, 1]; y int64 [N], or None: no class projection."""
        h = self.features(images)
        logits = self.linear(h).squeeze(1)
        if y is None or self.embed is None:
            return logits
        if y.device.type == "cpu" and y.numel() and int(y.max()) >= self.embed.num_embeddings:
            raise ModelError(f"the critic knows {self.embed.num_embeddings} classes and was asked about class "
                             f"{int(y.max())}; classes added by extend have none (their run's checkpoint holds theirs)")
        return logits + (self.embed(y) * h).sum(1)

    def fresh(self, classes: int) -> Discriminator:
        """The same architecture for `classes` classes with newly initialised weights (global generator)."""
        config = replace(self.config, num_classes=classes, extensions=())
        return build_discriminator(config).to(self.linear.weight.device)

    def with_classes(self, classes: int, rows: Tensor | None) -> Discriminator:
        """A deep copy whose class embedding has `classes` other rows: the mixes `rows` [classes, old
        classes] of the old ones, or newly initialised ones (None; the published code's way)."""
        target = self.fresh(classes)
        own = target.state_dict()
        state = {k: own[k] if k.startswith("embed.") else v for k, v in self.state_dict().items() if k in own}
        state |= {k: v for k, v in own.items() if k not in state}
        if rows is not None and self.embed is not None and classes:
            state["embed.weight"] = rows.to(self.embed.weight) @ self.embed.weight.detach()
        target.load_state_dict(state)
        return target.train(self.training)


def build_generator(config: BigGANConfig) -> Generator:
    """A freshly initialised generator in eval mode."""
    return Generator(config).eval()


def build_discriminator(config: BigGANConfig) -> Discriminator:
    """A freshly initialised discriminator in eval mode."""
    return Discriminator(config).eval()


@register_architecture("biggan")
class BigGAN:
    """The architecture's entry points for `gantransfer.sources`."""

    config_class = BigGANConfig
    # BigGAN, section 3 and appendix C (batch 2048 in all processes together).
    published: ClassVar[dict[str, Any]] = {
        "batch_size": 2048, "lr_g": 5e-5, "lr_d": 2e-4, "class_lr_scale_g": 1.0, "class_lr_scale_d": 1.0,
        "beta2": 0.999, "d_steps": 2, "r1_gamma": 0.0, "augment": "", "ema_decay": 0.9999,
    }
    # Settings that stand for others in pre-training, see `expand`.
    shorthand = {"g_ch": "base width of G: widths are the official table's multiples of it (default: 64)",
                 "d_ch": "the same for D"}
    build_generator = staticmethod(build_generator)
    build_discriminator = staticmethod(build_discriminator)

    @staticmethod
    def expand(settings: Mapping[str, Any]) -> dict[str, Any]:
        """`settings` of a config with widths from the official tables where none are given.

        Raises:
            ModelError: a base width and widths for the same network, or no width at all.
        """
        found = dict(settings)
        for base, name, table in (("g_ch", "g_widths", G_TABLE), ("d_ch", "d_widths", D_TABLE)):
            if base in found and name in found:
                raise ModelError(f"{base} and {name} both say how wide the network is; give one of them")
            width = found.pop(base, 64)
            if not isinstance(width, int) or width < 1:
                raise ModelError(f"{base} {width} is not possible; give a whole number of 1 or more")
            if name not in found and found.get("resolution", 32) in table:
                found[name] = tuple(width * multiple for multiple in table[found.get("resolution", 32)])
        return found

    @staticmethod
    def config_dict(config: BigGANConfig) -> dict[str, Any]:
        """JSON-ready settings."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}

    @staticmethod
    def tiny(**changes: Any) -> BigGANConfig:
        """The smallest network worth testing."""
        return BigGANConfig(
            **{"num_classes": 4, "z_dim": 8, "channels": 1, "g_widths": (16, 8, 8, 8),
               "d_widths": (8, 8, 8, 16), **changes}
        )
