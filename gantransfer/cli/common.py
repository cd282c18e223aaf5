"""Flags that several verbs share, and how their values reach the library.

Defaults written here are for the help text; the library has its own, and a test holds them equal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gantransfer.cli.flags import Flag
from gantransfer.errors import UsageError

METHOD = Flag("method", "transfer method; its own settings are flags too ('--method NAME --help' lists them)",
              default="cgantransfer", metavar="NAME")
SOURCE = Flag("source", "the pre-trained GAN: a shipped name, a model directory, a run, or a hub id; for minegan also "
              "several, with commas", metavar="NAME")
DATA_PATH = Flag("data", "images: a folder with one folder per class, a .zip, hf:NAME, or a shipped name",
                 metavar="PATH")
OUT = Flag("out", "new run directory (default: runs/<method>-<n>)", metavar="DIR")

DATA = (
    Flag("per_class", "use so many images of each class; the others are held out for measuring", int | None, low=1,
         group="data"),
    Flag("classes", "class names in the order wanted, or a class set of the data", list[str] | None,
         metavar="A,B,C", group="data"),
    Flag("split", "part of the data to use, where it has train/val/test folders", str, "train",
         ("train", "val", "test", "all"), group="data"),
    Flag("fit", "how images that are not square become so", str, "crop", ("crop", "pad", "stretch"), group="data"),
    Flag("class_name", "the class of a folder without class folders", str | None, metavar="NAME", group="data"),
    Flag("on_bad", "unreadable images: stop, or leave them out", str, "error", ("error", "skip"), group="data"),
    Flag("allow_tiny", "accept classes of a single image", bool, False, group="data"),
    Flag("data_seed", "of the choice that --per-class makes", int, 0, low=0, group="data"),
)

DEVICE = Flag("device", "where to compute", str, "auto", ("auto", "cpu", "cuda"))
TRAINING = (
    Flag("steps", "iterations (default: from the number of images)", int | None, low=1, group="training"),
    Flag("seed", "of everything random in training", int, 0, low=0, group="training"),
    Flag("batch_size", "images per process and loss evaluation (default: from the number of images)", int | None,
         low=1, group="training"),
    Flag("accumulate", "loss evaluations per optimiser step", int, 1, low=1, group="training"),
    Flag("d_steps", "critic updates per iteration (default: 1, pre-training 2, wgan-gp 5)", int | None, low=1,
         group="training"),
    Flag("loss", "adversarial loss (default: what source or architecture was trained with)", str | None, None,
         ("hinge", "non-saturating", "wgan-gp"), group="training"),
    Flag("augment", "what the critic sees changed: DiffAugment's translation, cutout, color with commas, or ada (or "
                    "ada:blit,geometry,colour); '' for none (default: from the number of images)",
         str | None, metavar="POLICY", group="training"),
    Flag("ada_target", "mean sign of D on real images that ADA holds", float, 0.6, group="training"),
    Flag("ada_nimg", "images in which ADA's probability moves by 1 at the fastest", int, 500_000, low=1,
         group="training"),
    Flag("r1_gamma", "weight of the R1 penalty (default: 2, with wgan-gp 0)", float | None, low=0, group="training"),
    Flag("r2_gamma", "weight of the same penalty on generated images", float, 0.0, low=0, group="training"),
    Flag("r1_every", "R1 only in every N-th iteration, N times as strong", int, 4, low=1, group="training"),
    Flag("gp_weight", "weight of the gradient penalty of wgan-gp", float, 10.0, low=0, group="training"),
    Flag("order", "network that is updated first; after 'generator' the critic sees the images that it made", str,
         "critic", ("critic", "generator"), group="training"),
    Flag("aux_d", "weight of the classes' cross-entropy on real images, for critics with a classifier", float, 1.0,
         low=0, group="training"),
    Flag("aux_g", "weight of the same on generated images, in the generator's loss", float, 1.0, low=0,
         group="training"),
    Flag("ema_decay", "of the generator's moving average (default: 0.98, pre-training 0.999)", float | None, low=0,
         group="training"),
    Flag("ema_start", "iterations before averaging starts", int, 0, low=0, group="training"),
    Flag("lr_decay", "fraction of the run, at its end, in which all rates fall to zero", float, 0.0, low=0,
         group="training"),
    Flag("optimizer", "optimiser of all parameters", str, "adam", ("adam", "rmsprop"), group="training"),
    Flag("image_noise", "add uniform noise up to this to training images (their range is 2)", float, 0.0, low=0,
         group="training"),
    Flag("mirror", "flip training images left to right half of the time", bool, False, group="training"),
    Flag("precision", "arithmetic", str, "fp32", ("fp32", "bf16"), group="training"),
    replace(DEVICE, group="training"),
)

RHYTHM = (
    Flag("eval_nimg", "images shown between evaluations (default: about 20 per run)", int | None, low=0,
         group="measuring and saving"),
    Flag("checkpoint_nimg", "images shown between checkpoints", int | None, low=0, group="measuring and saving"),
    Flag("log_nimg", "images shown between log lines", int | None, low=0, group="measuring and saving"),
    Flag("evaluate", "measure during and after training", bool, True, group="measuring and saving"),
    Flag("features", "what sees the images: glyph-cnn, random-conv, inception:FILE, dinov2:DIR, clip:DIR", str,
         "glyph-cnn", metavar="NAME[:PATH]", group="measuring and saving"),
    Flag("n_fake", "samples per measurement", int | None, low=2, group="measuring and saving"),
    Flag("track", "also log to tensorboard or wandb (extras), or to both", str, "", metavar="NAME,NAME",
         group="measuring and saving"),
)
# Threads of small networks mostly wait for each other: on two cores with one more busy process, two threads were
# 14 times slower than one (32 px, 0.3 M parameters).
THREADS = Flag("threads", "processor threads (default: PyTorch's choice; 1 is best for small images on a busy machine)",
               int | None, low=1, group="training")
QUIET = Flag("quiet", "no progress, only the result", bool, False, group="general")

RUN_FLAGS = (*TRAINING, THREADS, *DATA, *RHYTHM)


def data_options(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are `ImageData`'s, under its names, removed from `settings`."""
    options = {flag.name: settings.pop(flag.name) for flag in DATA if flag.name in settings}
    if "data_seed" in options:
        options["seed"] = options.pop("data_seed")
    classes = options.get("classes")
    if classes is not None and len(classes) == 1:
        options["classes"] = classes[0]  # may name a class set of the data
    return options


def use_device(settings: dict[str, Any]) -> str:
    """The device that ``--device`` means, removed from `settings`: "cpu" or "cuda"."""
    import torch

    wanted = settings.pop("device", "auto")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device is 'cuda', but PyTorch finds no GPU here; use auto or cpu")
    return "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu")


def use_threads(settings: dict[str, Any]) -> None:
    """Apply ``--threads`` and remove it from `settings`."""
    threads = settings.pop("threads", None)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
