"""MineGAN: a miner finds what of one or several sources looks like the target; then all fine-tunes.

Paper: Wang et al., "MineGAN: effective knowledge transfer from GANs to target domains with few images", CVPR 2020
(equation numbers of its summary). Reference code: yaxingwang/MineGAN (a810f2d7).

The miner M maps a new latent u ~ p(u) to the source's z. Mining trains M and the critic on eqs. 2 and 3, L_D =
E[D(G(M(u)))] - E[D(x)] and L_G = -E[D(G(M(u)))], with G fixed, its buffers included; fine-tuning goes on with M, G and
D. In their printed, Wasserstein form with gradient penalty (eq. 1) both are ``loss="wgan-gp"``; by default a run takes
the loss its critic was trained with. They are computed in `gantransfer.losses`.

Conditional sources need no labels: a second miner maps the same u to the class condition, a float embedding where
the source has a shared one, else mixing weights over its classes (softmax). The critic drops its class projection.
With ``per_class`` every target class has a miner of its own before one frozen generator, and the critic keeps a
projection, on the target's classes (ours: without it no miner would know its class).

Several sources: every G_i has its miner M_i and, as the text writes z ~ p_i(z), a u_i of its own; one critic, of one
source. A *supersample* is {G_i(M_i(u_i)): i = 1..N}; both losses see its highest-scoring image alone,
max_i D(G_i(M_i(u_i))), sample by sample, so that only that generator and its miner receive a gradient. The selector's
p_1..p_N are the mixture that has the images' mean features, or follow the shares of supersamples that each wins
(`gantransfer.supersamples` says how, and why). Sampling picks one G_i by p; outputs are never blended.

Where the official code differs (facts from its BigGAN, StyleGAN and MNIST variants), the paper is the default:

* BigGAN: two stacks of four spectrally normed linear layers without activation (``variant="biggan"``); G in training
  mode while it is mined, so that its statistics and power iterations move (``buffers="official"``); the softplus loss
  (``loss="non-saturating"``). StyleGAN: two layers with a ReLU (``variant="stylegan"``, the default). MNIST: the same
  from a u of four entries (``variant="mnist"``).
* Miners start as PyTorch's linear layers do there (``miner_init="torch"``): z near 0, a small part of what the source
  was trained on. The paper's summary names no start; "unit" (ours, the default) keeps the size of z, and classes near
  the source's own (results/minegan/single has both): embeddings around their mean with their spread, mixing weights
  of which one leads. Where all start as one blend (``class_spread=1``), miners soon draw few classes and a softmax does
  not find back to the others: target classes are missing (results/minegan/README.md).
* Its rates are 1e-4 for miners too; here 1e-3, as a miner starts from nothing.
* The gradient penalty of several sources, which the text leaves open, is between the images and winners.
* One code base has several generators (a prototype on MNIST): there the noise is shared (``noise="shared"``) and the
  source is chosen from the noise by a trained head, not by p.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import ROW_INITS, Choices, check_choices, refuse_wrapped, seeded, target_critic
from gantransfer.layers import SpectralNorm, weights_follow
from gantransfer.losses import AdversarialLoss
from gantransfer.plan import Group, Plan, Source, Target
from gantransfer.proportions import Proportions
from gantransfer.registry import architectures, register_method
from gantransfer.supersamples import SEEN, Supersample, with_shares

# Published miners; layers are as wide as the source's z.
VARIANTS: dict[str, dict[str, Any]] = {
    "stylegan": {"depth": 2, "activation": "relu", "spectral": False},
    "biggan": {"depth": 4, "activation": "none", "spectral": True},
    "mnist": {"depth": 2, "activation": "relu", "spectral": False, "u_dim": 4},
}


MINING_NIMG = 6400
POWER_ITERATIONS = 50


@register_method("minegan")
@dataclass(frozen=True)
class MineGAN:
    """Mine one or several sources, then fine-tune.

    Attributes:
        variant: a published miner: "stylegan" (two layers, ReLU), "biggan" (four normed layers, affine) or "mnist"
            (two layers from a narrow u).
        depth: linear layers of a miner; None: the variant's. width: of the layers between; None: the source's z. u_dim:
            length of u; None: the variant's, or the source's z.
        activation: between the layers; "preset": the variant's. spectral: spectral norm (--no-spectral: without); None:
            the variant's.
        label_miner: what mines a conditional source's class: an "embedding", a "mixture" of its classes, or "auto".
        miner_init: where miners start: keeping the size of z ("unit"; of normed layers its mean alone), or as linear
            layers do ("torch").
        class_spread: standard deviation of a mixture's logits where miners start ("unit"). With 3 the first of 15
            weights has 0.6 on average, that of 80 has 0.5.
        mining_nimg: images shown while the generator is fixed (None: 6400). mining_steps: the same in iterations,
            instead; 0 is no mining.
        finetune: train miner, generator and critic afterwards; without it this is MineGAN (w/o FT).
        per_class: a miner for every target class (no fine-tuning, one source); as a flag --class-miners.
        d_embedding: where the critic's class rows start (per_class only).
        critic: number of the source, from 1, whose critic is taken; None: drawn by init_seed.
        noise: several sources read entries of u of their own ("separate") or the same ("shared").
        p_update: where the selector's p comes from: mean "features", or the shares of wins, averaged so that they
            forget ("ema") or not ("mean"). p_half_life_nimg: images after which half of an average is newer.
        buffers: a fixed generator's buffers stay, or move as in the published code.
        lr: Adam rate of the miners. lr_g: Adam rate of the generators in fine-tuning. lr_d: Adam rate of the critic.
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    variant: str = "stylegan"
    depth: int | None = None
    width: int | None = None
    u_dim: int | None = None
    activation: str = "preset"
    spectral: bool | None = None
    label_miner: str = "auto"
    miner_init: str = "unit"
    class_spread: float = 3.0
    mining_nimg: int | None = None
    mining_steps: int | None = None
    finetune: bool = True
    per_class: bool = False
    d_embedding: str = "random"
    critic: int | None = None
    noise: str = "separate"
    p_update: str = "features"
    p_half_life_nimg: int = 2000
    buffers: str = "fixed"
    lr: float = 1e-3
    lr_g: float = 1e-4
    lr_d: float = 4e-4
    init_seed: int = 0

    flag_names: ClassVar[dict[str, str]] = {"per_class": "class_miners"}  # --per-class counts images
    before_source: ClassVar[tuple[str, ...]] = ("miners.",)  # what an adapter without fine-tuning consists of
    choices: ClassVar[Choices] = {
        "variant": tuple(VARIANTS), "activation": ("preset", "relu", "lrelu", "none"),
        "label_miner": ("auto", "embedding", "mixture"), "miner_init": ("unit", "torch"), "d_embedding": ROW_INITS,
        "noise": ("separate", "shared"), "p_update": ("features", "ema", "mean"), "buffers": ("fixed", "official"),
    }

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("depth", "width", "u_dim", "critic"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not possible; give 1 or more")
        if not self.class_spread > 0:
            raise UsageError(f"class_spread {self.class_spread} is not possible; give a number above 0")
        if self.mining_nimg is not None and self.mining_steps is not None:
            raise UsageError(f"mining_nimg {self.mining_nimg} and mining_steps {self.mining_steps} both say how long "
                             "to mine; give one of the two")
        if self.per_class and self.finetune:
            raise UsageError("per_class mines one generator for all classes, which stays fixed; add --no-finetune")

    @property
    def reads_labels(self) -> bool:
        """Whether target classes are told apart; otherwise they are mined as one."""
        return self.per_class

    def in_images(self, shown: int) -> MineGAN:
        """This with `mining_steps` in images, `shown` in an iteration."""
        if self.mining_steps is None:
            return self
        return replace(self, mining_nimg=self.mining_steps * shown, mining_steps=None)

    # ---- structure -----------------------------------------------------------------------------------

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """Copies of the sources' generators with fresh miners before them."""
        self._check(sources, target)
        mined = architectures["mined"]
        generators = [self._copy(source) for source in sources]
        names = [f"source {i}" if len(sources) > 1 else "this source" for i in range(1, len(sources) + 1)]
        kinds = [self._miner(*parts) for parts in zip(sources, generators, names, strict=True)]
        classes = target.num_classes if self.per_class else int(target.num_classes == 1)
        with seeded(self.init_seed):
            generator = mined.around(
                generators, [source.config["arch"] for source in sources],
                [mined.miner_class(**kind) for kind in (kinds * classes if self.per_class else kinds)],
                num_classes=classes, shared_u=self.noise == "shared",
            )
            if self.miner_init == "unit":
                for number, miner in enumerate(generator.miners):
                    _keep_size(miner, generators[number if len(generators) > 1 else 0], self.class_spread)
        return generator

    def _check(self, sources: Sequence[Source], target: Target) -> None:
        if not sources:
            raise UsageError("method 'minegan' mines 1 source or more, not 0; give --source")
        if self.per_class and len(sources) > 1:
            raise UsageError(f"per_class mines one source, not {len(sources)}; give one --source")
        if self.per_class and not target.num_classes:
            raise UsageError("per_class learns classes and the target has none; pass --class-name NAME for a flat "
                             "folder, or leave per_class out")
        refuse_wrapped(sources)

    def _copy(self, source: Source) -> nn.Module:
        """As it is where it stays fixed; for fine-tuning with standing statistics as the averages that go on."""
        if not self.finetune:
            return copy.deepcopy(source.generator)
        classes = source.generator.num_base_classes
        if classes != source.generator.num_classes:
            raise ModelError(f"this source has {source.generator.num_classes - classes} classes from adapters, which "
                             "fine-tuning would drop; add --no-finetune, or start from its base model")
        with seeded(self.init_seed), weights_follow():
            return source.generator.with_classes(classes, torch.eye(max(classes, 1)))

    def _miner(self, source: Source, generator: nn.Module, name: str) -> dict[str, Any]:
        """Settings of the miner of the source called `name` in errors."""
        preset = VARIANTS[self.variant]
        z_dim = generator.z_dim
        condition, dim = self._condition(generator, name)
        return {
            "u_dim": self.u_dim or preset.get("u_dim", z_dim), "z_dim": z_dim, "depth": self.depth or preset["depth"],
            "width": self.width or z_dim, "condition": condition, "condition_dim": dim,
            "activation": preset["activation"] if self.activation == "preset" else self.activation,
            "spectral": preset["spectral"] if self.spectral is None else self.spectral,
            "sn_eps": source.config.get("sn_eps", 1e-6),
        }

    def _condition(self, generator: nn.Module, name: str) -> tuple[str, int]:
        """How the class of the source called `name` is mined, and of what length."""
        if not generator.num_classes:
            if self.label_miner != "auto":
                raise UsageError(f"label_miner '{self.label_miner}' mines a class and {name} has none; leave it at "
                                 "auto")
            return "none", 0
        table = generator.class_embedding()
        if self.label_miner == "mixture" or (self.label_miner == "auto" and table is None):
            return "mixture", generator.num_classes
        if table is None:
            raise UsageError(f"label_miner 'embedding' needs a shared class embedding and {name} has one table per "
                             "layer; use mixture or auto")
        return "embedding", table.shape[1]

    # ---- what trains ---------------------------------------------------------------------------------

    def critic_source(self, sources: Sequence[Source]) -> Source:
        """The source whose critic is taken: the named one, or one drawn among those that have one."""
        if self.critic is not None:
            if self.critic > len(sources):
                raise UsageError(f"critic {self.critic} names no source: choose 1 to {len(sources)}")
            return sources[self.critic - 1]
        able = [source for source in sources if source.discriminator is not None] or list(sources)
        drawn = torch.randint(len(able), (1,), generator=torch.Generator().manual_seed(self.init_seed))
        return able[int(drawn)]

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """Miners and critic; then the generators too."""
        if self.mining_steps is not None:
            raise UsageError("mining_steps means nothing without a schedule; give mining_nimg")
        mining = MINING_NIMG if self.mining_nimg is None else self.mining_nimg
        origin = self.critic_source(sources)
        classes = target.num_classes if self.per_class else 0
        critic = target_critic(origin, classes, self.d_embedding, self.init_seed + 1)
        groups = {"D": Group(list(critic.parameters()), self.lr_d),
                  "M": Group(list(generator.miners.parameters()), self.lr)}
        extras: dict[str, nn.Module] = {"critic": critic}
        fakes: Any = generator
        if len(sources) > 1:
            proportions = None
            if self.p_update == "features":
                proportions = Proportions(origin.discriminator, len(sources), target.resolution, target.channels,
                                          self.p_half_life_nimg / SEEN)
            extras["selector"] = fakes = Supersample(
                generator, critic, self.p_update, self.p_half_life_nimg, loss.order == "generator", proportions)
        later = None
        if self.finetune:
            groups["G"] = Group(_tuned(generator), self.lr_g)
            later = (mining, ("M", "G"))
        phases = loss.phases(fakes, critic, g_updates=("M",), later=later)
        if len(sources) > 1:
            phases = [with_shares(phase, fakes) if phase.name == "D" else phase for phase in phases]
        number = next(i for i, source in enumerate(sources, 1) if source is origin)
        notes = [f"{len(generator.miners)} miner(s) before {len(sources)} source(s), newly initialised "
                 f"({self.variant}, {self.miner_init})", *_conditions(generator),
                 f"discriminator of source {number}, " + (f"its class rows: {self.d_embedding}" if self.per_class else
                                                          "without class projection"),
                 f"generator fixed for {mining} images, then fine-tuned" if self.finetune else
                 "generator fixed to the end"]
        return Plan(
            groups, phases, nn.ModuleDict(extras), fixed=list(generator.sources) if self.buffers == "fixed" else (),
            fixed_until_nimg=mining if self.finetune else None, notes=notes,
        )


def _tuned(generator: nn.Module) -> list[nn.Parameter]:
    """The generators' parameters, but for class embeddings in whose place a miner stands."""
    found = []
    for number, source in enumerate(generator.sources):
        mined = generator.miners[number].config.condition == "embedding"
        rows = {id(m.weight) for m in source.modules() if isinstance(m, nn.Embedding)} if mined else set()
        found += [param for param in source.parameters() if id(param) not in rows]
    return found


def _conditions(generator: nn.Module) -> list[str]:
    kinds = {miner.config.condition for miner in generator.miners} - {"none"}
    return [f"source classes mined as {' and '.join(sorted(kinds))}"] if kinds else []


@torch.no_grad()
def _keep_size(miner: nn.Module, generator: nn.Module, class_spread: float) -> None:
    """Start a miner so that normal u gives z of mean 0 and variance 1, logits of mean 0 and deviation `class_spread`,
    and embeddings of the source's mean and spread (spectrally normed layers, whose size is not free, their mean
    alone)."""
    probe = torch.randn(1024, miner.config.u_dim)
    for stack in filter(None, (miner.latent, miner.label)):
        layers = [layer for layer in stack if isinstance(layer, nn.Linear)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
            layer.bias.zero_()
        if isinstance(layers[-1], SpectralNorm):
            mode = stack.training
            stack.train()
            for _ in range(POWER_ITERATIONS):  # of the new weights: sigma is theirs from the first image on
                stack(probe[:1])
            stack.train(mode)
        mean, spread = torch.zeros(()), torch.ones(())
        if stack is miner.label and miner.config.condition == "mixture":
            spread = torch.tensor(class_spread)
        elif stack is miner.label:
            table = generator.class_embedding().to(probe)
            mean, spread = table.mean(0), (table - table.mean(0)).std()
        if not isinstance(layers[-1], SpectralNorm):
            found = stack(probe)
            layers[-1].weight.mul_(spread / (found - found.mean(0)).std())
        layers[-1].bias.add_(mean - stack(probe).mean(0))
