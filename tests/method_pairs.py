"""Methods, their variants and the tiny networks they are tested on; what makes no sense together.

A method registered in `gantransfer.methods` is taken up without a line of its own; variants of its fields stand in
`VARIANTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiny import NETWORKS, UNLABELLED

import gantransfer.methods  # noqa: F401  (registers them)
from gantransfer.errors import GanTransferError, ModelError, UsageError
from gantransfer.registry import methods

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "bsa": {
        "mean": {"init": "mean"},
        "random-source": {"init": "random_source", "d_embedding": "mean"},
        "source-statistics": {"statistics": "source"},
        "official-buffers": {"buffers": "official"},
        "matching": {"match_nimg": 4, "match_weight": 1.0, "match_per_class": 2},
    },
    "bsa-published": {
        "filters": {"form": "filters", "perceptual": "none"},
        "no-first-layer": {"first_layer": False, "latents": "normal", "init": "random_source", "prior": ""},
        "modulation": {"form": "modulation", "init": "scratch"},
        "code": {"init": "first", "perceptual": "glyph-cnn", "normalised_l1": True, "prior": "normal:0.4"},
    },
    "cgantransfer": {
        "plain": {"match_steps": 0},
        "linear": {"match_steps": 0, "parametrisation": "linear", "lr_scores": 1e-4},
        "softmax": {"match_steps": 0, "parametrisation": "softmax"},
        "shared-scores": {"match_steps": 0, "shared_scores": True},
        "fixed-prior": {"match_steps": 0, "tune_prior": False},
        "no-residuals": {"match_steps": 0, "residuals": False},
        "eq5-alone": {"match_steps": 0, "tune_prior": False, "residuals": False, "lambda_s": 0.0},
        "sum-penalty": {"match_steps": 0, "penalty": "sum", "lambda_r": 1e-3, "lambda_s": 1e-3},
        "in-d": {"match_steps": 0, "propagate_in_d": True},
        "fine-tuning": {"match_steps": 0, "finetune_nimg": 8},
        "official-imagenet": {"parametrisation": "official-imagenet", "buffers": "official"},
        "official-cifar": {"parametrisation": "official-cifar", "buffers": "official"},
        "source-statistics": {"match_steps": 0, "statistics": "source"},
        "official-buffers": {"match_steps": 0, "buffers": "official"},
        "matching": {"match_nimg": 4, "match_weight": 1.0},
        "matching-alone": {"match_nimg": 8, "propagate_in_d": True},
    },
    "transfergan": {
        "scratch-g": {"generator": "scratch"},
        "scratch-d": {"discriminator": "scratch"},
        "scratch-both": {"generator": "scratch", "discriminator": "scratch"},
        "random-source": {"class_init": "random_source", "d_embedding": "random_source"},
        "random": {"class_init": "random"},
        "no-classes": {"conditioning": "none"},
        "cond-bnorm": {"conditioning": "bnorm"},
        "cond-concat": {"conditioning": "concat"},
        "cond-concat-scratch": {"conditioning": "concat", "generator": "scratch"},
        "no-classes-concat": {"conditioning": "none", "beta2": 0.9},
    },
    "dgn-am": {"no-background": {"background": False, "objective": "log-probability", "clip": 0.0}},
    "ppgn": {
        "noisy": {"train_noise": 0.1, "noise": 0.0},
        "dae": {"prior": "dae", "train_noise": 0.5},
        "gaussian": {"prior": "gaussian"},
    },
    "freezed": {"none": {"frozen_blocks": 0}, "all": {"frozen_blocks": 4}},
    "freezeg": {"none": {"frozen_blocks": 0}, "all": {"frozen_blocks": 3}},
    "l2sp": {"both": {"weight_d": 10.0}, "none": {"weight_g": 0.0}},
    "ewc": {"few": {"fisher_images": 3}},
    "distillation": {"first": {"block": 1, "weight": 10.0}},
    "lora": {"wide": {"rank": 64, "alpha": 1.0}},
    "adafm": {
        "small-head": {"modulation": "none"},
        "gp-head": {"head": "source", "modulation": "none"},
        "source-head": {"head": "source", "first_layer": "source", "modulation": "fs"},
        "filter-selection": {"modulation": "fs", "general_g": 3, "general_d": 0},
        "demodulation": {"modulation": "demodulation", "general_g": 2, "z_dim": 5, "style_blocks": 3},
        "official": {"scaled_norm": True, "clamp": True, "modulation_nimg": 8, "general_d": 6},
        "scratch": {"start": "scratch"},
        "biggan": {"head": "source", "general_d": 1},
        "biggan-all": {"head": "source", "modulation": "demodulation", "general_g": 4, "general_d": 4},
    },
    "minegan": {
        "fine-tuning": {"mining_nimg": 8},
        "without-fine-tuning": {"finetune": False},
        "per-class": {"per_class": True, "finetune": False},
        "biggan": {"variant": "biggan", "buffers": "official"},
        "mnist": {"variant": "mnist", "miner_init": "torch"},
        "mixture": {"label_miner": "mixture", "depth": 3, "activation": "lrelu"},
    },
}

ITERATIVE = ("dgn-am", "ppgn")  # they sample towards classes, which they need whatever the source has
# What is enough here: a few updates, narrow networks, importance from a few images.
QUICK: dict[str, dict[str, Any]] = {
    **{m: {"iterations": 3, "classifier_width": 4} for m in ITERATIVE}, "ewc": {"fisher_images": 12}}


@dataclass(frozen=True)
class Pair:
    """A method with fields on a network; the target has classes unless the network has none and the method is not told
    how it takes them up."""

    method: str
    network: str
    variant: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        return {**QUICK.get(self.method, {}), **(VARIANTS[self.method][self.variant] if self.variant else {})}

    @property
    def labelled(self) -> bool:
        return self.network not in UNLABELLED or "conditioning" in self.fields or self.method in ITERATIVE

    def __str__(self) -> str:
        return "-".join(filter(None, (self.method, self.variant, self.network)))


# What makes no sense, and what it must say: support cannot be lost unnoticed.
REFUSED: dict[Pair, tuple[type[GanTransferError], str]] = {
    **{Pair(m, n): (ModelError, "class-conditional norm layers") for m in ("bsa", "cgantransfer")
       for n in (*UNLABELLED, "gp_gan", "wgan_gp-concat")},
    **{Pair("scaleshift", n): (ModelError, "this source's generator has none; use adafm") for n in NETWORKS
       if n.startswith("gp_gan")},
    **{Pair("adafm", n): (ModelError, f"architecture '{NETWORKS[n].get('arch', 'biggan')}' cannot take a style head")
       for n in NETWORKS if not n.startswith("gp_gan")},
    **{Pair(m, "wgan_gp-concat"): (ModelError, "takes labels beside the latent")
       for m in ("bsa-published", "fsgan", "lora", "scaleshift")},
    Pair("bsa-published", "tables", "modulation"): (ModelError, "trains maps from class vectors"),
    Pair("cgantransfer", "tables", "official-imagenet"): (UsageError, "does not fit a source with class affine"),
    Pair("cgantransfer", "hierarchical", "official-cifar"): (UsageError, "does not fit a source with class affine"),
}


def home(method: str, wanted: str = "tables") -> str:
    """The network `wanted`, or the first that `method` takes with its defaults."""
    return next(n for n in (wanted, *NETWORKS) if Pair(method, n) not in REFUSED)


def _pairs() -> list[Pair]:
    """Every method on every network with its defaults; variants on the richest network, and those of the class
    parameters' form on the plainest too."""
    pairs = [Pair(m, n) for m in methods for n in NETWORKS]
    for method, variants in VARIANTS.items():
        for variant, fields in variants.items():
            form = {"init", "parametrisation"} & fields.keys()
            networks = ("tables", "hierarchical") if form else ("hierarchical",)
            if "conditioning" in fields:
                networks = {"no-classes": (*networks, "wgan_gp"), "no-classes-concat": ("wgan_gp-concat",)}.get(
                    variant, ("wgan_gp-unconditional",))
            if method == "adafm" and not variant.startswith("biggan"):
                networks = ("gp_gan",)
            pairs += [Pair(method, n, variant) for n in networks]
    return [pair for pair in pairs if pair not in REFUSED]


PAIRS = _pairs()
