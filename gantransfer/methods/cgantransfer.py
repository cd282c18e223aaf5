"""cGANTransfer: new classes as learned combinations of the old classes' batch-norm parameters.

Paper: Shahbazi, Huang, Paudel, Chhatkuli, Van Gool, "Efficient Conditional GAN Transfer with Knowledge Propagation
across Classes", CVPR 2021. Reference code: mshahbazi72/cGANTransfer (5a9176ce).

In every class-conditional norm layer, separately for scale and shift, a new class's parameters are
``[g^1 .. g^N] S`` (eq. 5) with the old classes' *effective* scales (leading 1 included) and shifts as columns; a
tunable copy of them is shared by the target classes (eq. 6); residuals are added; eq. 7 penalises residuals (l2)
and scores (l1). After training everything folds into the target classes' rows.

Choices the paper leaves open, measured on Glyph-100 (``results/``):

* ``parametrisation="centred"``: eq. 5 in a basis of differences from the mean class, scores starting at 0, so
  that new classes start as the mean of the old ones. It reaches the combinations whose coefficients sum to 1; plain
  scores ("linear", starting at 1/N) reach all, but all old gains are near 1, so that one Adam step on N scores moves
  every gain by up to N times the rate: they need rates many times smaller than the residuals'.
* Units: scores are stored in units of 2 and residuals of 4, factors on their Adam rates in effect. With them and a
  rate of 2e-4 the best distance that bsa has within 3,000 iterations is reached five times earlier, at 1e-3 never;
  with each method's own rate the two end alike (``results/first-study``).
* The l1 penalty acts on the scores as stored: in the centred form it asks for few departures from the mean class, in
  the linear one for few old classes, as eq. 7 is printed.
* lambda_r and lambda_s: the paper gives none. The code's 0.1 and 0.01 belong to means per tensor
  (``penalty="mean"``). The default is eq. 7's sums with values of the same strength, 0.1 / (M mean C) for the
  residuals of M classes and C channels and 0.01 / (N M) for the scores on N old classes; a run's plan states them.

Differs from the published code by default (``parametrisation="official-imagenet"`` or ``"official-cifar"`` follow
it: offsets instead of scales are combined, spectral norm or biases on scores and prior, orthogonal or N(0, 0.02)
starts): old classes are reproduced exactly by one-hot scores; old tables are never overwritten; frozen layers keep
their spectral-norm buffers (``buffers="official"`` moves them).

New classes train with batch statistics and sample with their running average, which belongs to the adapter
(``statistics="source"``: both with the source's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantransfer.errors import UsageError
from gantransfer.extension import (
    FROZEN,
    Choices,
    check_choices,
    conditional_source,
    frozen_layers,
    frozen_statistics,
    matching_in_images,
    noise_parameters,
    seeded,
    source_rows,
    target_critic,
    with_feature_matching,
)
from gantransfer.losses import AdversarialLoss
from gantransfer.modulation import (
    PARAMETRISATIONS,
    OfficialPropagation,
    Propagation,
    attach_official_propagation,
    propagations,
    start_official_propagation,
)
from gantransfer.plan import Group, Plan, Source, Target
from gantransfer.registry import register_method

OFFICIAL = ("official-imagenet", "official-cifar")


@register_method("cgantransfer")
@dataclass(frozen=True)
class CGANTransfer:
    """Knowledge propagation across classes.

    Attributes:
        parametrisation: how scores make class parameters: "centred", "linear" (eq. 5 as printed), "softmax", or as in
            the published code.
        tune_prior: knowledge sharing, eq. 6 (without it eq. 5's fixed prior).
        residuals: class parameters beside the combinations (section 4.3).
        shared_scores: one score matrix for all layers (scale and shift stay separate), penalised once.
        score_scale, residual_scale: units of the stored scores and residuals: factors on their rates, in effect (not in
            the published code's parametrisations).
        lambda_r, lambda_s: weight of eq. 7's penalty on residuals (r) or scores (s); None: the published strength.
        penalty: eq. 7's sums, or means per tensor as in the published code.
        propagate_in_d: also form the critic's class rows this way (the paper found it to hurt).
        d_embedding: where the critic's new class rows start otherwise ("random": as published).
        lr: Adam rate of all class parameters.
        lr_scores, lr_prior, lr_residual, lr_noise: Adam rate of this part of the class parameters; None: as lr.
        lr_d: Adam rate of the critic, which trains whole.
        finetune_nimg: images shown before the fine-tuning stage of section 5.4 starts: prior and scores are then
            fixed, residuals (and noise) go on, and the generator's other weights train at lr_finetune. 0: never.
        lr_finetune: Adam rate of the generator's other weights in the fine-tuning stage.
        statistics: new classes train with their batches' statistics and sample with the average, or both with the
            source's.
        buffers: frozen layers' spectral-norm vectors stay, or move as in the published code.
        match_steps: iterations of a first stage that only matches the source critic's features (see
            `gantransfer.matching`; not in the papers). None: 100, and none for the published code's parametrisations.
            0: none. match_nimg: the same in images. match_weight: weight of that term in the generator's loss
            afterwards (None: 1). lr_match: Adam rate in that stage. match_fakes: fakes in a batch of that stage,
            of each process and part of an accumulated batch (None: twice the batch's size). match_per_class: fakes of
            a class in the term's batches, in that stage and later; where not all classes fit, they are drawn anew
            each time.
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    parametrisation: str = "centred"
    tune_prior: bool = True
    residuals: bool = True
    shared_scores: bool = False
    score_scale: float = 2.0
    residual_scale: float = 4.0
    lambda_r: float | None = None
    lambda_s: float | None = None
    penalty: str = "sum"
    propagate_in_d: bool = False
    d_embedding: str = "random"
    lr: float = 5e-4
    lr_scores: float | None = None
    lr_prior: float | None = None
    lr_residual: float | None = None
    lr_noise: float | None = None
    lr_d: float = 4e-4
    finetune_nimg: int = 0
    lr_finetune: float = 1e-4
    statistics: str = "batch"
    buffers: str = "fixed"
    match_steps: int | None = None
    match_nimg: int | None = None
    match_weight: float | None = None
    lr_match: float = 5e-3
    match_per_class: int = 4
    match_fakes: int | None = None
    init_seed: int = 0

    choices: ClassVar[Choices] = {"parametrisation": (*PARAMETRISATIONS, *OFFICIAL), "penalty": ("sum", "mean"),
                                  **FROZEN}

    def __post_init__(self) -> None:
        check_choices(self)
        if self.shared_scores and self.parametrisation in OFFICIAL:
            raise UsageError(f"shared_scores is not part of parametrisation '{self.parametrisation}', whose layers "
                             f"have their own scores; use one of {', '.join(PARAMETRISATIONS)}")
        if 0 < self.finetune_nimg <= (self.match_nimg or 0):
            raise UsageError(f"the fine-tuning stage begins at {self.finetune_nimg} images (finetune_nimg), before the "
                             f"matching stage ends at {self.match_nimg} (match_nimg); give a larger finetune_nimg, or "
                             "match_steps 0")

    def in_images(self, shown: int) -> CGANTransfer:
        """This with the matching stage in images, `shown` in an iteration."""
        return matching_in_images(self, 0 if self.parametrisation in OFFICIAL else 100, shown)

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """The source's generator, its class tables replaced by empty ones for the target: what an adapter fills."""
        source = conditional_source(sources, target, "cgantransfer")
        if self.parametrisation in OFFICIAL:
            _check_flavour(self.parametrisation, source)
        with seeded(self.init_seed):
            return source.generator.with_class_tables(target.num_classes)

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: AdversarialLoss) -> Plan:
        """Scores, prior, residuals, noise projections and the whole critic; then the fine-tuning stage."""
        source = conditional_source(sources, target, "cgantransfer")
        frozen = frozen_layers(generator, self.buffers)  # before the propagation, whose own layers train
        with seeded(self.init_seed):
            self._propagate(generator, source)
        critic = target_critic(source, target.num_classes, self.d_embedding, self.init_seed + 1)
        groups = self._groups(generator)
        stage = tuple(groups)
        if self.propagate_in_d:
            self._propagate_in_critic(critic, source)
        groups["D"] = Group(list(critic.parameters()), self.lr_d)
        regulariser = self._regulariser(generator)
        later = None
        if self.finetune_nimg:
            propagated = {id(p) for name in stage for p in groups[name].params}
            body = [p for p in generator.parameters() if id(p) not in propagated]
            body = [p for p in body if not self._is_propagation(generator, p)]
            groups["body"] = Group(body, self.lr_finetune)
            later = (self.finetune_nimg, tuple(n for n in (*stage, "body") if n not in ("scores", "prior")))
        phases = loss.phases(generator, critic, g_updates=stage, regulariser=regulariser, later=later)
        lambda_r, lambda_s = self._weights(generator)
        notes = (
            f"class parameters: {self.parametrisation} combinations of {source.generator.num_classes} old classes",
            f"discriminator pre-trained, its class rows: {'propagated' if self.propagate_in_d else self.d_embedding}",
            f"penalties (eq. 7, {self.penalty}, {self.parametrisation} scores): "
            f"lambda_r {lambda_r:.3g}, lambda_s {lambda_s:.3g}",
        )
        plan = Plan(
            groups, phases, nn.ModuleDict({"critic": critic}), fixed=frozen,
            fixed_until_nimg=self.finetune_nimg or None,
            fixed_statistics=frozen_statistics(generator, self.statistics), notes=notes,
        )
        return with_feature_matching(
            plan, generator, source, target, updates=stage, nimg=self.match_nimg, weight=self.match_weight,
            lr=self.lr_match, per_class=self.match_per_class, fakes=self.match_fakes, regulariser=regulariser,
        )

    # ---- structure -----------------------------------------------------------------------------------

    def _propagate(self, generator: nn.Module, source: Source) -> None:
        """Parametrise every class table: weight = propagation(residual) (eqs. 5 and 6)."""
        if self.parametrisation in OFFICIAL:
            attach_official_propagation(
                generator, source.generator.num_classes, spectral=self.parametrisation == OFFICIAL[0]
            )
            start_official_propagation(generator, source.generator)
            if not self.residuals:
                with torch.no_grad():
                    for residual in _residuals(generator):
                        residual.zero_()
            return
        shared: dict[bool, nn.Parameter] = {}
        for name, rows in source_rows(source.generator).items():
            norm = generator.get_submodule(name)
            for table, prior, is_scale in ((norm.gain, rows[0], True), (norm.bias, rows[1], False)):
                scores = self._scores(table.num_embeddings, prior)
                if self.shared_scores:
                    scores = shared.setdefault(is_scale, scores)
                layer = Propagation(prior, scores, is_scale, self.parametrisation, self.score_scale,
                                    self.residual_scale)
                parametrize.register_parametrization(table, "weight", layer, unsafe=True)

    def _scores(self, classes: int, prior: Tensor) -> nn.Parameter:
        """Scores of the mean class: 0 in the centred and softmax bases, 1/N in the plain one."""
        start = 1 / len(prior) / self.score_scale if self.parametrisation == "linear" else 0.0
        return nn.Parameter(torch.full((classes, len(prior)), start, device=prior.device))

    def _propagate_in_critic(self, critic: nn.Module, source: Source) -> None:
        """Form the critic's class rows from the source's (section 4.1, last paragraph); they start as its mean."""
        prior = source.discriminator.embed.weight.detach()
        with torch.no_grad():
            critic.embed.weight.zero_()
        kind = self.parametrisation if self.parametrisation in PARAMETRISATIONS else "linear"
        start = 1 / len(prior) if kind == "linear" else 0.0
        scores = nn.Parameter(torch.full((critic.embed.num_embeddings, len(prior)), start, device=prior.device))
        parametrize.register_parametrization(
            critic.embed, "weight", Propagation(prior, scores, False, kind), unsafe=True
        )

    # ---- what trains ---------------------------------------------------------------------------------

    def _groups(self, generator: nn.Module) -> dict[str, Group]:
        def rate(own: float | None) -> float:
            return self.lr if own is None else own

        layers = [layer for _, layer in propagations(generator)]
        scores: dict[int, nn.Parameter] = {}
        priors: list[nn.Parameter] = []
        for layer in layers:
            official = isinstance(layer, OfficialPropagation)
            for param in layer.scores.parameters() if official else [layer.scores]:
                scores[id(param)] = param
            priors += layer.prior.parameters() if official else [layer.prior]
        groups = {"scores": Group(list(scores.values()), rate(self.lr_scores))}
        if self.tune_prior:
            groups["prior"] = Group(priors, rate(self.lr_prior))
        if self.residuals:
            groups["residual"] = Group(_residuals(generator), rate(self.lr_residual))
        if noise := noise_parameters(generator):
            groups["noise"] = Group(noise, rate(self.lr_noise))
        return groups

    def _is_propagation(self, generator: nn.Module, param: nn.Parameter) -> bool:
        owned = [p for _, layer in propagations(generator) for p in layer.parameters()] + _residuals(generator)
        return any(param is p for p in owned)

    def _weights(self, generator: nn.Module) -> tuple[float, float]:
        """(lambda_r, lambda_s), the published strengths where none are given."""
        means = 1.0 if self.penalty == "mean" else None
        layers = [layer for _, layer in propagations(generator)]
        residuals = _residuals(generator)
        lambda_r, lambda_s = self.lambda_r, self.lambda_s
        if lambda_r is None:
            lambda_r = 0.1 / (means or sum(p.numel() for p in residuals) / len(residuals))
        if lambda_s is None:
            lambda_s = 0.01 / (means or _score_tensors(layers[0])[0].numel())
        return lambda_r, lambda_s

    def _regulariser(self, generator: nn.Module) -> Callable[[], dict[str, Tensor]]:
        """lambda_r L_r + lambda_s L_s of eq. 7, as sums or (the published code) as means per tensor."""
        lambda_r, lambda_s = self._weights(generator)
        scores = {id(p): (p, getattr(layer, "scale", 1.0))
                  for _, layer in propagations(generator) for p in _score_tensors(layer)}.values()
        residuals = [(t.parametrizations.weight.original, getattr(t.parametrizations.weight[0], "residual_scale", 1.0))
                     for t in _tables(generator)]

        def size(x: Tensor) -> Tensor:
            return x.mean() if self.penalty == "mean" else x.sum()

        def penalties() -> dict[str, Tensor]:
            terms = {}
            if lambda_s:
                terms["sparsity"] = lambda_s * sum(scale * size(p.abs()) for p, scale in scores)
            if lambda_r and self.residuals:
                terms["residual"] = lambda_r * sum(scale**2 * size(p.square()) for p, scale in residuals)
            return terms

        return penalties


def _check_flavour(flavour: str, source: Source) -> None:
    """The published code's two copies know one kind of source each (UsageError for any other)."""
    affine, hierarchical = source.config.get("class_affine"), source.config.get("hierarchical")
    fits = {("shared", True): OFFICIAL[0], ("table", False): OFFICIAL[1]}.get((affine, hierarchical))
    if source.config.get("extensions"):
        raise UsageError(f"parametrisation '{flavour}' knows no extended source; use the base model, or 'centred'")
    if fits != flavour:
        noise = "hierarchical" if hierarchical else "plain"
        raise UsageError(f"parametrisation '{flavour}' does not fit a source with class affine '{affine}' and "
                         f"{noise} z; use {f'{fits!r} or ' if fits else ''}'centred'")


def _score_tensors(layer: nn.Module) -> list[nn.Parameter]:
    """The published code penalises the scores' bias like their weight."""
    return list(layer.scores.parameters()) if isinstance(layer, OfficialPropagation) else [layer.scores]


def _tables(generator: nn.Module) -> list[nn.Module]:
    return [table for _, norm in generator.class_norms() for table in (norm.gain, norm.bias)]


def _residuals(generator: nn.Module) -> list[nn.Parameter]:
    return [table.parametrizations.weight.original for table in _tables(generator)]
