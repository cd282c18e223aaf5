"""Every verb: what it is for, examples, and what it takes. The work is done in the modules named by `action`."""

from __future__ import annotations

from typing import Any

from gantransfer.cli.common import DATA, DATA_PATH, DEVICE, METHOD, OUT, QUIET, RUN_FLAGS, SOURCE, THREADS
from gantransfer.cli.flags import JSON, Argument, Flag, Verb
from gantransfer.shipped import preset_names

TRAIN, USE, DATASETS, ABOUT = "train", "look and measure", "models and data", "about"
MODEL = Argument("model", "a run directory, a model directory, a shipped name, or a hub id")
NEW_MODEL = Flag("out", "new model directory", metavar="DIR")
EVERY_25 = Flag("eval_nimg", "images shown between evaluations (default: those of 25 iterations)", int | None, low=0,
                group="measuring and saving")


def _method_flags(settings: dict[str, Any]) -> list[Flag]:
    from gantransfer.cli.fields import method_flags  # imports torch, so only when it is needed

    return method_flags(settings)


def _pretrain_flags(settings: dict[str, Any]) -> list[Flag]:
    from gantransfer.cli.fields import pretrain_flags

    return pretrain_flags(settings)


VERBS = (
    Verb(
        "demo", "teach the shipped GAN of Latin and Greek letters Cyrillic, in about two minutes", "training:demo",
        ("gantransfer demo", "gantransfer demo --out runs/again --seed 1"),
        flags=(
            Flag("out", "run directory (default: runs/demo, or runs/demo-2, ... if that exists)", metavar="DIR"),
            Flag("steps", "iterations (default: those of the recorded settings)", int | None, low=1),
            Flag("seed", "of everything random in training", int | None, low=0),
            Flag("device", "where to compute", str, "auto", ("auto", "cpu", "cuda")),
            THREADS, QUIET,
        ),
        chapter=TRAIN,
    ),
    Verb(
        "adapt", "new classes for a pre-trained GAN, from a folder of images", "training:adapt",
        ("gantransfer adapt --source glyph80-32 --data my-images --out runs/mine",
         "gantransfer adapt --source glyph80-32 --data cyrillic10 --method bsa --lr 1e-3 --steps 1000 --seed 1",
         "gantransfer adapt --config runs/mine/config.yaml --out runs/again --seed 1",
         "gantransfer adapt --source models/a,models/b --data faces.zip --per-class 100 --method minegan --dry-run"),
        flags=(
            SOURCE, DATA_PATH, METHOD, OUT,
            Flag("dry_run", "print what would be done and write nothing", bool, False),
            *RUN_FLAGS, QUIET,
        ),
        required=("source", "data"), fields=_method_flags,
        fields_help="settings of the method: gantransfer adapt --method NAME --help", chapter=TRAIN,
    ),
    Verb(
        "pretrain", "train a GAN from random weights, to be a source", "training:pretrain",
        ("gantransfer pretrain --data glyph100.zip --classes source80 --out runs/source --steps 20000",
         "gantransfer pretrain --data faces.zip --resolution 64 --z-dim 120 --g-ch 16 --d-ch 16",
         "gantransfer sample runs/source --out source.png"),
        flags=(
            DATA_PATH, Flag("out", "new run directory; the model is in its model/ (default: runs/pretrain-<n>)",
                            metavar="DIR"),
            Flag("arch", "architecture", str, "biggan", metavar="NAME"),
            Flag("published", "train as the architecture's paper did, where no flag says otherwise", bool, False),
            Flag("name", "of the model, for its card"), *RUN_FLAGS, QUIET,
        ),
        required=("data",), fields=_pretrain_flags,
        fields_help="settings of the network and the optimisers: gantransfer pretrain --arch biggan --help",
        chapter=TRAIN,
    ),
    Verb(
        "resume", "continue an interrupted run from its newest checkpoint", "training:resume",
        ("gantransfer resume runs/mine", "gantransfer resume runs/source --quiet"),
        arguments=(Argument("run", "directory of the run"),), flags=(THREADS, QUIET), chapter=TRAIN,
    ),
    Verb(
        "compare", "methods x sources x targets x seeds as one study that can be continued: tables, curves, pictures",
        "comparing:compare",
        ("gantransfer compare --source glyph80-32 --data cyrillic10 --methods bsa,cgantransfer --seeds 0,1,2 "
         "--steps 1000 --out runs/compare",
         "gantransfer compare --source glyph80-32 --data cyrillic10 --methods bsa,cgantransfer "
         "--fields 'bsa.lr=1e-3 cgantransfer.lr=2e-4' --out runs/rates",
         "gantransfer compare plan.yaml --slurm 'slurm_partition=gpu gpus_per_node=1 timeout_min=240'",
         "gantransfer compare cgantransfer-cifar100 --dry-run"),
        arguments=(Argument("plan", "YAML file with any of the flags, and rows, sources and targets; or a published "
                                    "experiment's name (" + ", ".join(preset_names()) + ")", config=True),),
        flags=(
            SOURCE, DATA_PATH, Flag("out", "directory of the comparison; one that exists is continued", metavar="DIR"),
            Flag("methods", "methods, each a row of the table", list[str], metavar="A,B,C"),
            Flag("seeds", "one run each", list[int], (0,), metavar="0,1,2"),
            Flag("fields", "settings of single methods: 'METHOD.NAME=VALUE ...'", metavar="TEXT", repeat=True),
            Flag("pairs", "rows whose distances and convergence are compared (default: each with the first)", list[str],
                 metavar="A=B,A=C"),
            Flag("levels", "also the first iterations at or below these distances", list[float], metavar="X,Y"),
            Flag("jobs", "runs at a time, each in a process with one thread", int, 1, low=1),
            Flag("slurm", "run as Slurm jobs, with submitit's settings: 'NAME=VALUE ...' (extra: slurm)", dict | str,
                 metavar="TEXT"),
            Flag("dry_run", "print the runs and how long they will take, and write nothing", bool, False),
            Flag("run", "running what is missing; the tables of what is finished are written", bool, True),
            Flag("variants", "rows with settings: {LABEL: {method: NAME, lr: 0.001, seeds: [0], targets: [A], ...}}",
                 dict, metavar="MAPPING", group="in a plan only"),
            Flag("sources", "{NAME: what --source takes, or a list for minegan}", dict, metavar="MAPPING",
                 group="in a plan only"),
            Flag("targets", "{NAME: {data: PATH, classes: ..., per_class: N, source: NAME, seeds: [0]}}; without "
                            "'source' met by every source", dict, metavar="MAPPING", group="in a plan only"),
            Flag("title", "of the page", group="in a plan only"),
            Flag("about", "a sentence for the page", group="in a plan only"),
            Flag("expected", "published figures: {LABEL: {TARGET: figure}}", dict, metavar="MAPPING",
                 group="in a plan only"),
            *(EVERY_25 if flag.name == EVERY_25.name else flag for flag in RUN_FLAGS if flag.name != "seed"),
            QUIET, JSON,
        ),
        required=("out",), chapter=TRAIN,
    ),
    Verb(
        "sample", "pictures: a grid, single files, or a way from one class to another", "pictures:sample",
        ("gantransfer sample runs/demo --out letters.png",
         "gantransfer sample glyph80-32 -n 64 --classes A,B,Ω --seed 1 --truncation 0.7 --out grid.png",
         "gantransfer sample runs/demo -n 1000 --single --out samples",
         "gantransfer sample glyph80-32 --interpolate A,B --out a-to-b.webp",
         "gantransfer sample runs/adafm --mix-styles 0,1,2:10,11,12,13 --style-groups 5 --out mixed.png",
         "gantransfer sample runs/adafm --augment-to 1000 --out more-images"),
        arguments=(MODEL,),
        flags=(
            Flag("count", "number of images (default: 8 per class, at most 80)", int | None, low=1, short="-n",
                 metavar="N"),
            Flag("classes", "classes, by name or number, taken in turn (default: all)", list[str], metavar="A,B,C"),
            Flag("seed", "same seed, same images", int, 0, low=0),
            Flag("truncation", "in (0, 1]; smaller is more typical and less varied", float, 1.0, metavar="X"),
            Flag("out", "file to write: PNG, or WebP for a way (default: samples.png, way.webp); with --single "
                        "a folder or a zip", metavar="PATH"),
            Flag("single", "one file per image, in a folder or, with --out NAME.zip, a zip; any number of them", bool,
                 False),
            Flag("columns", "images per row of the grid (default: one row per class)", int | None, low=1),
            Flag("scale", "enlarge every pixel so many times", int, 1, low=1),
            Flag("interpolate", "animate the way between two classes", list[str], metavar="A,B"),
            Flag("interpolate_latents", "animate the way through the latents of these seeds", list[int],
                 metavar="0,1,2"),
            Flag("mix_styles", "grid of style mixing: seeds of sources, a colon, seeds of destinations", str,
                 metavar="0,1:2,3"),
            Flag("augment_to", "write so many style-mixed images, in a folder per class if there are any", int | None,
                 low=1, metavar="N"),
            Flag("style_groups", "groups whose style is the destination's (default: the one next to the general part)",
                 list[int], metavar="5,6|5-6"),
            Flag("frames", "of an animation, per way between two stations", int, 24, low=2), DEVICE,
        ),
        chapter=USE,
    ),
    Verb(
        "evaluate", "distances between a model's samples and real images", "measuring:evaluate",
        ("gantransfer evaluate runs/demo --data cyrillic10",
         "gantransfer evaluate glyph80-32 --data glyph100.zip --classes source80 --metrics frechet,kid --json",
         "gantransfer evaluate runs/mine --data my-images --trained iw,classifier --budget 1000",
         "gantransfer evaluate runs/mine --data my-images --features inception:inception.safetensors"),
        arguments=(MODEL,),
        flags=(
            DATA_PATH, *DATA,
            Flag("metrics", "which (default: all that the features allow)", list[str], metavar="A,B,C"),
            Flag("features", "what sees the images: glyph-cnn, random-conv, inception:FILE, dinov2:DIR, clip:DIR", str,
                 "glyph-cnn", metavar="NAME[:PATH]"),
            Flag("n_fake", "samples (default: as many as real images, 1000 to 5000)", int | None, low=2),
            Flag("seed", "of the samples", int, 0, low=0),
            Flag("part", "which held-out images are the reference", str, "report", ("report", "select")),
            Flag("trained", "also measures that train networks: iw (independent Wasserstein critic), classifier",
                 list[str], metavar="A,B"),
            Flag("budget", "iterations that these networks train (default: 300)", int | None, low=1, metavar="N"),
            Flag("budget_seed", "of these networks", int, 0, low=0),
            DEVICE, JSON,
        ),
        required=("data",), chapter=USE,
    ),
    Verb(
        "rank", "which source to start from: evidence and an order, before any adaptation", "choosing:rank",
        ("gantransfer rank --data cyrillic10 --sources glyph80-32 runs/demo",
         "gantransfer rank --data my-images --sources models/a models/b --probe 100 --out sources.html",
         "gantransfer rank --data my-images --sources runs/a models/b --source-data own - --json"),
        flags=(
            Flag("sources", "the sources: shipped names, model directories, runs or hub ids, of one resolution",
                 list[str], metavar="A B C", words=True),
            DATA_PATH, *DATA,
            Flag("features", "what sees the images: glyph-cnn, random-conv, inception:FILE, dinov2:DIR, clip:DIR", str,
                 "glyph-cnn", metavar="NAME[:PATH]"),
            Flag("n_fake", "samples of each source (default: as many as target images, 1000 to 5000)", int | None,
                 low=2),
            Flag("seed", "of the samples", int, 0, low=0),
            Flag("source_data", "real images of each source, in order ('own' for those that its run names, '-' for one "
                 "without)", list[str] | None, metavar="A own - D", words=True),
            Flag("probe", "mine every source for so many iterations and measure again (0: do not)", int, 0, low=0,
                 metavar="N"),
            Flag("out", "HTML page to write, with samples", metavar="FILE.html"), THREADS, JSON,
        ),
        required=("data", "sources"), chapter=USE,
    ),
    Verb(
        "report", "write (again) the HTML report of a run", "measuring:report",
        ("gantransfer report runs/demo", "gantransfer report runs/demo --json"),
        arguments=(Argument("run", "directory of the run"),), flags=(JSON,), chapter=USE,
    ),
    Verb(
        "explain", "what a run has learned: contributors of new classes, or the modulation of filters",
        "measuring:explain",
        ("gantransfer explain runs/demo", "gantransfer explain runs/demo --top 5 --seed 1 --out figures --json",
         "gantransfer explain runs/flowers --beside runs/cars,runs/cathedral"),
        arguments=(Argument("run", "directory of a finished cgantransfer or adafm run"),),
        flags=(
            Flag("out", "folder of the pictures (default: the run's analysis/, and its report is written again)",
                 metavar="DIR"),
            Flag("top", "contributors per class (default: 3)", int | None, low=1),
            Flag("seed", "of the latents", int, 0, low=0),
            Flag("beside", "adafm runs or adapters whose scales are put beside this one's", list[str],
                 metavar="RUN,RUN"), JSON,
        ),
        chapter=USE,
    ),
    Verb(
        "study new", "a page on which people choose between two models' images", "studying:new",
        ("gantransfer study new runs/a runs/b --n 100 --out study.html",
         "gantransfer study new runs/a runs/b --classes cat,dog --seed 1"),
        arguments=(Argument("a", f"model A: {MODEL.help}"), Argument("b", "model B, of the same resolution")),
        flags=(
            Flag("out", "HTML page to write (default: study.html)", metavar="FILE.html"),
            Flag("n", "valid answers of every subject; skipped pairs are replaced", int, 100, low=1),
            Flag("classes", "to show (default: all that both models have)", list[str], metavar="A,B,C"),
            Flag("seed", "of the images and of the sides", int, 0, low=0),
            Flag("truncation", "in (0, 1]; smaller is more typical and less varied", float, 1.0, metavar="X"),
            Flag("question", "what the subjects are asked; '<class>' stands for the class", metavar="TEXT"),
        ),
        chapter=USE,
    ),
    Verb(
        "study score", "preference rates from the subjects' files", "studying:score",
        ("gantransfer study score answers/*.json", "gantransfer study score answers/*.json --json"),
        arguments=(Argument("files", "JSON files that the page saved", many=True),), flags=(JSON,), chapter=USE,
    ),
    Verb(
        "inspect", "what a model, run, adapter or checkpoint file holds", "models:inspect",
        ("gantransfer inspect glyph80-32", "gantransfer inspect runs/demo", "gantransfer inspect G_ema.pth --json"),
        arguments=(Argument("path", "model directory, shipped name, run, adapter, or one checkpoint file"),),
        flags=(JSON,), chapter=USE,
    ),
    Verb(
        "models", "the shipped models", "models:models", ("gantransfer models", "gantransfer models --json"),
        flags=(JSON,), chapter=DATASETS,
    ),
    Verb(
        "convert", "read another code base's checkpoint into a model directory", "models:convert",
        ("gantransfer convert --dialect biggan-pytorch --generator G_ema.pth --discriminator D.pth --out biggan",
         "gantransfer convert --dialect biggan-pytorch --generator G.pth --config config.json --out biggan",
         "gantransfer inspect biggan"),
        flags=(
            Flag("dialect", "biggan-pytorch, cgantransfer, gan-stability, adafm, minegan, transfergan", metavar="NAME"),
            Flag("generator", ".pth or .safetensors file (transfergan: .npz)", metavar="FILE"),
            Flag("discriminator", ".pth or .safetensors file", metavar="FILE"),
            Flag("miner", ".pth or .safetensors file (minegan only)", metavar="FILE"),
            Flag("config", "the settings that belong to the files, as JSON", metavar="FILE"),
            Flag("classes", "class names by class number (default: the numbers)", list[str], metavar="A,B,C"),
            NEW_MODEL,
        ),
        required=("dialect", "generator", "out"), layered=False, chapter=DATASETS,
    ),
    Verb(
        "extend", "a model with the old classes, untouched, and those of adapters", "models:extend",
        ("gantransfer extend glyph80-32 runs/demo --out models/latin-and-cyrillic",
         "gantransfer extend glyph80-32 runs/one runs/two --rename a=a2 --out models/both"),
        arguments=(MODEL, Argument("adapters", "run directories or adapter directories", many=True)),
        flags=(NEW_MODEL, Flag("rename", "new name of an adapter's class that exists already", metavar="OLD=NEW",
                               repeat=True)),
        required=("out",), chapter=DATASETS,
    ),
    Verb(
        "merge", "a model of the new classes alone", "models:merge",
        ("gantransfer merge glyph80-32 runs/demo --out models/cyrillic",
         "gantransfer sample models/cyrillic --out cyrillic.png"),
        arguments=(Argument("model", f"{MODEL.help}; of several sources all with commas, or the first"),
                   Argument("adapter", "run directory or adapter directory")),
        flags=(NEW_MODEL,), required=("out",), chapter=DATASETS,
    ),
    Verb(
        "data check", "scan images before training: counts, sizes, duplicates, every bad file", "datasets:check",
        ("gantransfer data check my-images", "gantransfer data check faces.zip --size 32 --per-class 100 --json"),
        arguments=(Argument("path", "folder, .zip, hf:NAME, or shipped name"),),
        flags=(
            Flag("size", "side of the square images in pixels (default: the shortest side)", int | None, low=1),
            Flag("channels", "1 or 3 (default: 1 if all images are grey)", int | None),
            *DATA, Flag("seed", "short for --data-seed", int | None, low=0, group="data"), JSON,
        ),
        chapter=DATASETS,
    ),
    Verb(
        "data glyph100", "build the benchmark Glyph-100 from installed fonts", "datasets:glyph100",
        ("gantransfer data glyph100 --out glyph100.zip",
         "gantransfer data glyph100 --out source80.zip --classes source80 --faces open"),
        flags=(
            Flag("out", "zip file to write", metavar="FILE.zip"),
            Flag("faces", "all 600 font faces, or those under open licences", str, "all", ("all", "open")),
            Flag("classes", "letters, or a class set: source80, target20, target10 (default: all 100)", list[str],
                 metavar="A,B,C"),
            Flag("size", "side of the images in pixels", int, 32, low=8),
            Flag("colour", "RGB colour pairs instead of grey", bool, False),
            JSON,
        ),
        required=("out",), chapter=DATASETS,
    ),
    Verb(
        "doctor", "is everything in place: versions, device, extras, shipped files", "about:doctor",
        ("gantransfer doctor", "gantransfer doctor --json"), flags=(JSON,), chapter=ABOUT,
    ),
)
BY_NAME = {verb.name: verb for verb in VERBS}
