"""What the class-extending methods (bsa, cgantransfer) and the fine-tuning ones share: where new classes'
rows start, which parts of a frozen generator stay in eval mode, and the target's critic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError, did_you_mean
from gantransfer.layers import SpectralNorm
from gantransfer.matching import FeatureMatching
from gantransfer.norm import class_rows
from gantransfer.plan import Batch, Group, Losses, Phase, Plan, Source, Target
from gantransfer.registry import architectures

ROW_INITS = ("mean", "random_source", "random")
FROZEN = {"statistics": ("batch", "source"), "buffers": ("fixed", "official"), "d_embedding": ROW_INITS}
Choices = Mapping[str, Sequence[str]]  # field name -> its values; a method's `choices`, for checks and for help texts


def check_choices(method: Any) -> None:
    """Refuse a field of `method` that is not one of its class's `choices` (UsageError)."""
    for name, choices in method.choices.items():
        value = getattr(method, name)
        if value not in choices:
            raise UsageError(f"{name} '{value}' does not exist{did_you_mean(value, choices)}; "
                             f"have: {', '.join(choices)}")


def one_source(sources: Sequence[Source], method: str) -> Source:
    """The single source of a method that takes one (UsageError otherwise)."""
    if len(sources) != 1:
        raise UsageError(f"method '{method}' takes one source, not {len(sources)}; give one --source")
    refuse_wrapped(sources)
    return sources[0]


def refuse_wrapped(sources: Sequence[Source]) -> None:
    """ModelError for a source whose generator is another model with something before it."""
    for source in sources:
        if wraps := getattr(source.generator, "wraps", ""):
            raise ModelError(f"a model that {wraps} is no source for another adaptation; give the source that it was "
                             "made from")


def conditional_source(sources: Sequence[Source], target: Target, method: str) -> Source:
    """The single source, checked to have class-conditional norm layers, for a labelled target."""
    source = one_source(sources, method)
    norms = getattr(source.generator, "class_norms", tuple)
    if not source.generator.num_classes or not any(True for _ in norms()):
        raise ModelError(f"method '{method}' combines class-conditional norm layers and this source has none; "
                         "use transfergan or freezed")
    if not target.num_classes:
        raise UsageError(f"method '{method}' learns classes and the target has none; pass --class-name NAME "
                         "for a flat folder")
    return source


def mixing_rows(init: str, classes: int, old_classes: int, seed: int) -> Tensor | None:
    """float [classes, old_classes]: how new rows start as mixes of old ones.

    `init` is one of `ROW_INITS`: "mean" averages all, "random_source" copies one drawn old class each, "random"
    gives None (newly initialised by the network).
    """
    if init == "random" or not old_classes:
        return None
    if init == "mean":
        return torch.full((classes, old_classes), 1 / old_classes)
    picks = torch.randint(old_classes, (classes,), generator=torch.Generator().manual_seed(seed))
    return nn.functional.one_hot(picks, old_classes).float()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw new weights from `seed` and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def with_target_classes(source: Source, classes: int, init: str, seed: int, **changes: Any) -> nn.Module:
    """A copy of the source's generator with `classes` new classes in place of its own, started as `init` says.
    `changes`: what else its ``with_classes`` takes."""
    rows = mixing_rows(init, max(classes, 1), max(source.generator.num_base_classes, 1), seed)
    with seeded(seed):
        return source.generator.with_classes(classes, rows, **changes)


def transfer_notes(name: str, source: nn.Module | None, network: nn.Module, init: str) -> list[str]:
    """What of `network` was copied from `source`, combined from its class rows, or newly initialised, and what of the
    source is not in it: one line each, for the run's record. Found by content; `init` is how new rows started (one of
    `ROW_INITS`)."""
    old = {} if source is None else dict(source.named_parameters())
    own = dict(network.named_parameters())
    fresh = {id(p) for p in class_parameters(network)} if init == "random" else set()
    if init == "random" and getattr(network, "classifier", None) is not None:
        fresh |= {id(p) for p in network.classifier.parameters()}
    found: dict[str, list[str]] = {"copied": [], "spread": [], "combined": [], "new": []}
    rows = "new" if init == "random" else "combined"
    for key, param in own.items():
        one, table = old.get(key.removesuffix(".weight")), old.get(f"{key}.weight")
        before = old.get(key)
        if before is None and table is None and one is None or id(param) in fresh:
            found["new"].append(key)
        elif before is None:  # one affine where there was a row for each class, or a row for each where there was one
            found[rows if table is not None else "spread"].append(key)
        elif before.shape == param.shape and torch.equal(before, param):
            found["copied"].append(key)
        elif width := _same_columns(before, param, getattr(network, "z_dim", 0)):
            found["copied"].append(key)
            if param.shape[1] > width:  # of labels beside the latent, whose columns are the classes' rows
                labelled = before.shape[1] > width
                found[rows if labelled else "new"].append(f"{key} from column {width}")
        else:
            found[rows].append(key)
    gone = [key for key in old if key not in own and f"{key}.weight" not in own
            and key.removesuffix(".weight") not in own]
    lines = ((f"copied: {len(found['copied'])} of {len(own)} parameters", ()),
             (f"copied to every class: {len(found['spread'])}", found["spread"]),
             (f"combined from the source's class rows ({init}): {len(found['combined'])}", found["combined"]),
             (f"newly initialised: {len(found['new'])}", found["new"]), (f"left out: {len(gone)}", gone))
    return [f"{name}, {text}" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")
            for text, names in lines if text.startswith("copied: ") or names]


def _same_columns(a: Tensor, b: Tensor, z_dim: int) -> int:
    """How many leading columns two matrices share: all of the narrower, else those of the latent; 0: not these."""
    if not a.dim() == b.dim() == 2 or len(a) != len(b):
        return 0
    return next((width for width in (min(a.shape[1], b.shape[1]), z_dim)
                 if 0 < width <= min(a.shape[1], b.shape[1]) and torch.equal(a[:, :width], b[:, :width])), 0)


def target_critic(source: Source, classes: int, init: str, seed: int, *, fresh: bool = False) -> nn.Module:
    """The critic a run starts from: the source's with `classes` new embedding rows, or a fresh one.

    Raises:
        ModelError: the source has no critic and `fresh` is False.
    """
    with seeded(seed):
        if fresh:
            if source.discriminator is None:
                arch = architectures[source.config["arch"]]
                return arch.build_discriminator(source.generator.config).fresh(classes)
            return source.discriminator.fresh(classes)
        if source.discriminator is None:
            raise ModelError("this source has no discriminator, which the method starts from; use a source with "
                             "one, or transfergan with --discriminator scratch")
        old = source.discriminator.num_classes
        # Without classes on both sides nothing is new, whatever new rows would start as.
        rows = critic_rows(init if classes or old else "mean", classes, old, seed)
        return source.discriminator.with_classes(classes, rows)


def critic_rows(init: str, classes: int, old: int, seed: int) -> Tensor | None:
    """float [rows, old rows] as `mixing_rows`, where a critic without classes counts as one with a single row."""
    return mixing_rows(init, max(classes, 1), max(old, 1), seed)


def refuse_label_inputs(source: Source, target: Target, name: str) -> None:
    """ModelError where classes would come in beside the latent, in a layer that method `name` does not train."""
    if target.num_classes > 1 and getattr(source.generator.config, "label_inputs", 0):
        raise ModelError(f"method '{name}' does not train the first layer, where this source takes labels beside the "
                         "latent; use transfergan, or one run for each class")


def class_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Class tables and embeddings."""
    return [p for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)]


def split_groups(
    name: str, network: nn.Module, lr: float, lr_classes: float, frozen: Sequence[nn.Module] = (), **adam: Any
) -> dict[str, Group]:
    """Two groups of a network but for its `frozen` parts: ``name`` for shared weights, ``name_classes`` for class
    tables and embeddings, which see few images each and need larger rates (and are new: in frozen parts too)."""
    rows = class_parameters(network)
    without = {id(p) for p in (*rows, *(p for part in frozen for p in part.parameters()))}
    groups = {name: Group([p for p in network.parameters() if id(p) not in without], lr, **adam)}
    if rows:
        groups[f"{name}_classes"] = Group(rows, lr_classes, **adam)
    return groups


def anchors(network: nn.Module, source: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of `network`, as it starts, that it copied from `source`, and copies of the source's. What is
    new with the target's classes is not there, also where its shape is the old one's."""
    theirs = {k: p.detach().clone() for k, p in source.named_parameters()}
    rows = {id(p) for p in class_parameters(network)}
    own = {k: p for k, p in network.named_parameters() if id(p) not in rows and k in theirs
           and p.shape == theirs[k].shape and torch.equal(p, theirs[k].to(p.device))}
    return own, {k: theirs[k].to(own[k].device) for k in own}


def frozen_layers(generator: nn.Module, buffers: str) -> list[nn.Module]:
    """Modules of a frozen generator that stay in eval mode: every spectrally normed layer, whose u0 and sv0 then do
    not move; none with ``buffers="official"``."""
    return [m for m in generator.modules() if isinstance(m, SpectralNorm)] if buffers == "fixed" else []


def frozen_statistics(generator: nn.Module, statistics: str) -> list[nn.Module]:
    """With ``statistics="source"`` the norms, and what inside them keeps statistics; none with "batch"."""
    norms = [norm for _, norm in generator.norms()] if statistics == "source" else []
    return [m for norm in norms for m in (norm, getattr(norm, "bn", None)) if m is not None]


def source_rows(generator: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Effective scales (leading 1 included) and shifts of every old class, float [N, C] each, by norm name."""
    embedding = generator.class_embedding()
    return {name: class_rows(norm, embedding) for name, norm in generator.class_norms()}


def noise_parameters(generator: nn.Module) -> list[nn.Parameter]:
    """The hierarchical-noise projections inside the class tables (none without hierarchical z)."""
    tables = [t for _, norm in generator.class_norms() for t in (norm.gain, norm.bias)]
    return [p for table in tables if hasattr(table, "noise") for p in table.noise.parameters()]


def matching_in_images(method: Any, steps: int, shown: int) -> Any:
    """`method` with `match_nimg` from its `match_steps` (None: `steps`), where that is not given; `shown` in a step."""
    if method.match_nimg is not None:
        return method
    return replace(method, match_nimg=shown * (steps if method.match_steps is None else method.match_steps))


def with_feature_matching(
    plan: Plan, generator: nn.Module, source: Source, target: Target, *, updates: Sequence[str], nimg: int | None,
    weight: float | None, lr: float, per_class: int, fakes: int | None,
    regulariser: Callable[[], dict[str, Tensor]] = dict,
) -> Plan:
    """`plan` with a first stage of `nimg` images in which the groups `updates` only match the source critic's features
    (Adam at `lr`; `fakes` in a batch, None: twice the batch's size), and with `weight` times the matching term in
    every loss of the generator after it. `per_class`: fakes of a class in a batch, 2 or more.

    The plan's other phases start after the stage. 0 or None images: the plan as it is. A weight of None is 1.

    Raises:
        UsageError: a weight without the stage, which is where the images' statistics come from; one fake of a class,
            or in a batch.
        ModelError: the source's critic is missing, or shows no features by block.
    """
    if not nimg:
        if weight:
            raise UsageError(f"match_weight {weight:g} needs the images' features, which the matching stage collects; "
                             "give match_steps, for example 100")
        return plan
    for name, number in (("match_per_class", per_class), ("match_fakes", fakes)):
        if number is not None and number < 2:
            raise UsageError(f"{name} {number} has no two fakes of a class to compare; give 2 or more")
    weight = 1.0 if weight is None else weight
    if not hasattr(source.discriminator, "maps"):
        raise ModelError("feature matching needs a source with a discriminator that shows its blocks' features; use "
                         "match_steps 0")
    matching = FeatureMatching(source.discriminator, target.num_classes, target.resolution, target.channels, per_class)

    def term(batch: Batch, size: int) -> Tensor:
        labels = matching.labels(size, batch.rng)
        z = torch.randn(len(labels), batch.z.shape[1], generator=batch.rng).to(batch.z.device)
        return matching(generator(z, labels), labels)

    def alone(batch: Batch) -> Losses:
        matching.see(batch.images, batch.labels)
        return Losses({"match": term(batch, fakes or 2 * len(batch.z)), **regulariser()}, {})

    def beside(phase: Phase) -> Phase:
        start = max(phase.start_nimg, nimg)
        if not (weight and set(phase.updates) & set(updates)):
            return replace(phase, start_nimg=start)

        def joint(batch: Batch) -> Losses:
            found = phase.loss(batch)
            return Losses({**found.terms, "match": weight * term(batch, len(batch.z))}, found.logs)

        return replace(phase, start_nimg=start, loss=joint)

    params = [param for name in updates for param in plan.groups[name].params]
    # As many updates in an iteration as the critic has later, so that every iteration shows as many images.
    repeat = max(phase.repeat for phase in plan.phases if phase.uses_images)
    return replace(
        plan, groups={**plan.groups, "match": Group(params, lr, betas=(0.5, 0.99))},
        phases=[Phase("match", ("match",), alone, repeat=repeat, stop_nimg=nimg), *map(beside, plan.phases)],
        extras=nn.ModuleDict({**plan.extras, "matching": matching}),
        notes=(*plan.notes, f"features of the source's discriminator matched alone for {nimg} images, then with weight "
                            f"{weight:g}"),
    )
