"""Measures for which a network is trained first: the independent Wasserstein critic, and classifiers.

*Independent critic* (IW): Danihelka et al., "Comparison of Maximum Likelihood and GAN-based training of Real NVPs",
2017; TransferGAN (Wang et al., ECCV 2018), eq. 6. A fresh critic D learns, with WGAN-GP, to tell validation images X1
from generated ones X2; then

    IW(X1, X2) = E_{x in X1}[D(x)] - E_{x in X2}[D(x)].

The sign here is eq. 6's: what D maximises, so 0 for a critic that learned nothing and larger for sets further apart;
*lower is better*. The paper's tables print negative values of which higher is better, the negative of this; that is
`table_value`. As in the paper X1 is what D was trained on, so a critic that learned few images by heart counts too;
`unseen` is the same with real images and samples that D did not see, where there are some.

*Classifiers* (TransferGAN, Table 7): one trained on real images and tried on generated ones (are they recognised?), and
the reverse, trained on generated and tried on real images, which also suffers when variety is missing. Beside both
stands what real training images reach on the same real images.

All are small WGAN-GP critics (`gantransfer.networks.wgan_gp`), trained for a stated budget from a stated seed: values
of different budgets are not comparable. The published budgets are not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gantransfer.networks  # noqa: F401  (registers them)
from gantransfer.augment import diff_augment
from gantransfer.data import ImageData, to_float
from gantransfer.errors import DataError, UsageError, did_you_mean
from gantransfer.losses import gradient_penalty
from gantransfer.metrics import collect
from gantransfer.registry import architectures

MEASURES = ("iw", "classifier")
LR = 5e-4  # of the independent critic
FEWEST = 64  # real images: a critic knows fewer by heart before it has learned anything
FEWEST_OF_CLASS = 4
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Budget:
    """How long the networks train.

    Attributes:
        steps: iterations. batch_size: images of each kind in one. width: of the network (a critic's d).
        seed: of the network's start and of the batches; samples have the evaluation's.
    """

    steps: int = 300
    batch_size: int = 64
    width: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 2), ("width", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)} of a trained measure is not possible; give {least} or "
                                 "more")


def checked(names: Sequence[str] | str) -> list[str]:
    """The measures of a list, or of a comma-separated string (UsageError for an unknown one)."""
    chosen = names.split(",") if isinstance(names, str) else names
    chosen = [name.strip() for name in chosen if name.strip()]
    for name in chosen:
        if name not in MEASURES:
            raise UsageError(f"trained measure '{name}' does not exist{did_you_mean(name, MEASURES)}; "
                             f"have: {', '.join(MEASURES)}")
    return chosen


def refuse_few(names: Sequence[str], reference: ImageData, n_fake: int | None = None) -> None:
    """What no measure of `names` could be computed from, before anything is (DataError, UsageError)."""
    if "iw" in names and n_fake is not None and n_fake < FEWEST:
        raise UsageError(f"n_fake={n_fake} generated images are too few for an independent critic, which would learn "
                         f"them by heart; use {FEWEST} or more")
    if "iw" in names and len(reference) < FEWEST:
        raise DataError(f"{len(reference)} validation images are too few for an independent critic, which would learn "
                        f"them by heart; give at least {FEWEST}")
    if "classifier" in names:
        if not reference.labelled or len(reference.classes) < 2:
            raise UsageError("a classifier needs two classes or more that images and model have, and there are "
                             f"{len(reference.classes) if reference.labelled else 0}; leave it out")
        least = min(reference.per_class_counts().values())
        if least < FEWEST_OF_CLASS:
            raise DataError(f"a class has {least} real images, too few to try a classifier on; give at least "
                            f"{FEWEST_OF_CLASS} of each")


def measure(names: Sequence[str], sample: collect.Sample, reference: ImageData, training: ImageData | None, *,
            n_fake: int | None = None, seed: int = 0, budget: Budget | None = None,
            progress: Progress | None = None) -> dict[str, Any]:
    """The measures `names` of generated images, each a JSON-ready dict with its budget and numbers of images.

    Args:
        sample: (labels int64 [k], seed) -> uint8 images [k, C, H, W], as `gantransfer.metrics.evaluate` takes it.
        reference: real images, best held out. training: those that were trained on, or None.
        n_fake: samples; None: as many as there are real images, at least 1000, at most 5000.

    Raises:
        DataError: too few real images. UsageError: a classifier for fewer than two classes.
    """
    refuse_few(names, reference, n_fake)
    budget = budget or Budget()
    n = min(max(len(reference), 1000), 5000) if n_fake is None else n_fake
    found: dict[str, Any] = {}
    with collect.untouched_rng():
        labels = collect.proportional_labels(reference.labels, len(reference.classes), n)
        fakes = _drawn(sample, labels, seed)
        if "iw" in names:
            fresh = training is not None and collect.fingerprint(training) != collect.fingerprint(reference)
            unseen = (training.images(), _drawn(sample, labels, seed + 1)) if fresh else None
            found["iw"] = independent_wasserstein(reference.images(), fakes, budget, unseen, progress)
        if "classifier" in names:
            found["classifier"] = classifiers(reference, training, fakes, labels, budget, progress)
    return found


def _drawn(sample: collect.Sample, labels: Tensor, seed: int) -> Tensor:
    parts = [sample(chunk, collect.chunk_seed(seed, i)) for i, chunk in enumerate(labels.split(collect.CHUNK))]
    return torch.cat(parts)


# ---- the independent critic ------------------------------------------------------------------------------


def independent_wasserstein(real: Tensor, fake: Tensor, budget: Budget, unseen: tuple[Tensor, Tensor] | None = None,
                            progress: Progress | None = None) -> dict[str, Any]:
    """Eq. 6 for validation images `real` and generated ones `fake`, uint8 [n, C, H, W] each.

    Args:
        unseen: real and generated images that the critic does not see in training.

    Returns:
        {value, table_value (its negative, as the paper's tables print it), unseen or None, n_real, n_fake, better,
        curve [[iteration, value]], rise (by what share the value grew in the last half of the iterations; None for a
        single one) and the budget}. A curve that still rises says that the budget is too small.
    """
    critic, side = _network(real, 0, budget)
    optimizer = torch.optim.Adam(critic.parameters(), lr=LR, betas=(0.0, 0.9))
    rng, curve = torch.Generator().manual_seed(budget.seed), []
    steps = budget.steps
    for step in range(steps):
        if step & (step - 1) == 0:
            curve.append([step, _difference(critic, real, fake, side)])
        x, y = (_batch(images, budget.batch_size, rng, side)[0] for images in (real, fake))
        on_y, on_x = critic(torch.cat([y, x])).chunk(2)
        loss = on_y.mean() - on_x.mean() + 10 * gradient_penalty(critic, x, y, None, rng)
        _step(optimizer, loss)
        if progress:
            progress("independent critic", step + 1, steps)
    value = _difference(critic, real, fake, side)
    half = next((there for step, there in reversed(curve) if 0 < 2 * step <= steps), 0.0)
    return {"value": value, "rise": value / half - 1 if half > 0 else None, "table_value": -value,
            "unseen": None if unseen is None else _difference(critic, *unseen, side), "better": "lower",
            "n_real": len(real), "n_fake": len(fake), "lr": LR, "curve": [*curve, [steps, value]], **asdict(budget)}


@torch.no_grad()
def _difference(critic: nn.Module, real: Tensor, fake: Tensor, side: int) -> float:
    means = [torch.cat([critic(_prepared(part, side)) for part in images.split(128)]).double().mean()
             for images in (real, fake)]
    return float(means[0] - means[1])


# ---- classifiers -----------------------------------------------------------------------------------------


def classifiers(reference: ImageData, training: ImageData | None, fakes: Tensor, labels: Tensor, budget: Budget,
                progress: Progress | None = None) -> dict[str, Any]:
    """How well generated images of their classes are recognised, and what they teach.

    A classifier trained on real images (`training`, else half of `reference`) is tried on `fakes`, uint8
    [n, C, H, W] of classes `labels`; one trained on `fakes` on real images that the first did not see.

    Returns:
        {recognised, per_class {class: recognised}, real_on_real, generated_on_real, n_train, n_test, n_fake, better
        and the budget}; shares of images. recognised near real_on_real: generated images pass for their classes;
        generated_on_real near real_on_real: they teach what real ones do.
    """
    classes = reference.classes
    test = reference.images(), reference.labels
    if training is not None and list(training.classes) == list(classes) \
            and collect.fingerprint(training) != collect.fingerprint(reference):
        train = training.images(), training.labels
    else:
        first, second = collect.halves(reference.labels)
        train, test = ((test[0][rows], test[1][rows]) for rows in (first, second))
    on_real = _classifier(*train, len(classes), budget, progress)
    on_fakes = _classifier(fakes, labels, len(classes), budget, progress)
    hits = _hits(on_real, fakes, labels)
    by_class = {name: float(hits[labels == c].mean()) for c, name in enumerate(classes) if (labels == c).any()}
    return {"recognised": float(hits.mean()), "per_class": by_class,
            "real_on_real": float(_hits(on_real, *test).mean()),
            "generated_on_real": float(_hits(on_fakes, *test).mean()),
            "better": "higher", "n_train": len(train[0]), "n_test": len(test[0]), "n_fake": len(fakes),
            **asdict(budget)}


def _classifier(images: Tensor, labels: Tensor, classes: int, budget: Budget,
                progress: Progress | None) -> tuple[nn.Module, int]:
    """A network trained on uint8 images and their classes, with random shifts; and the side it sees."""
    network, side = _network(images, classes, budget)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, betas=(0.9, 0.99))
    augment, rng = diff_augment("translation"), torch.Generator().manual_seed(budget.seed)
    for step in range(budget.steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / budget.steps)
        x, rows = _batch(images, budget.batch_size, rng, side)
        _step(optimizer, F.cross_entropy(network.judge(augment(x, rng))[1], labels[rows]))
        if progress:
            progress("classifier", step + 1, budget.steps)
    return network, side


@torch.no_grad()
def _hits(trained: tuple[nn.Module, int], images: Tensor, labels: Tensor) -> Tensor:
    """float64 [n]: 1 where the network's first choice is the label."""
    network, side = trained
    chosen = torch.cat([network.judge(_prepared(part, side))[1].argmax(1) for part in images.split(128)])
    return (chosen == labels).double()


# ---- both ------------------------------------------------------------------------------------------------


def _network(images: Tensor, classes: int, budget: Budget) -> tuple[nn.Module, int]:
    """A fresh network for images like these, and the side in px that it sees: theirs where it can, else the nearest."""
    arch, side = architectures["wgan_gp"], images.shape[-1]
    seen = 32 if side < 64 else 64 if side < 128 else 128
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        config = arch.config_class(seen, images.shape[1], classes, width=budget.width)
        return arch.build_discriminator(config), seen


def _prepared(images: Tensor, side: int) -> Tensor:
    images = to_float(images)
    if images.shape[-1] != side:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return images


def _batch(images: Tensor, size: int, rng: torch.Generator, side: int) -> tuple[Tensor, Tensor]:
    """Images drawn with replacement, float [size, C, side, side], and their rows."""
    rows = torch.randint(len(images), (size,), generator=rng)
    return _prepared(images[rows], side), rows


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
