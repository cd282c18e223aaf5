"""Preference studies: which of two models do people find more realistic?

Paper: Wang et al., "Transferring GANs: generating images from limited data", ECCV 2018, section 5.2: subjects see two
images of the same class, one of each model, and choose the more realistic one; they may skip a pair, and every subject
gives 100 valid answers. Sides are drawn at random here, and a skipped pair is replaced by another.

Rates have Wilson's interval, which takes answers as independent. Those of one subject are not: with two subjects or
more it is Wilson's of the effective number of answers (Korn and Graubard 1998, "Confidence intervals for proportions
with small expected number of positive counts estimated from survey data"), the smaller the more subjects differ and the
fewer they are. (A bootstrap over few subjects is too sure: of two who agree, its interval is a point.)
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gantransfer.compare.student import point
from gantransfer.errors import DataError, ModelError, UsageError
from gantransfer.report.study import write_study
from gantransfer.results import Run, as_gan
from gantransfer.sources import GAN

QUESTION = "Which of these two images of <class> is more realistic?"
QUESTION_ALONE = "Which of these two images is more realistic?"
SPARE = 2  # pairs for every valid answer: as many may be skipped
PNG_UP_TO = 64  # px; larger images are WebP
Z95 = 1.959964


def new_study(a: GAN | Run | str | Path, b: GAN | Run | str | Path, out: str | Path, *, n: int = 100,
              classes: Sequence[str] | None = None, seed: int = 0, truncation: float = 1.0,
              question: str | None = None) -> Path:
    """Write the page of a study of two models and return its path.

    Args:
        a, b: models of one resolution; see `gantransfer.load`.
        out: HTML file to write. n: valid answers asked of each subject.
        classes: to show, of those that both models have; None: all of these. A model without classes, or of a single
            class, is compared by its images alone.
        seed: of the images and the sides; the same seed gives the same page. truncation: of the latents.
        question: ``<class>`` stands for the class.

    Raises:
        UsageError: n below 1, an unknown class, an existing `out`. ModelError: models that cannot be compared.
    """
    path = Path(out)
    if n < 1:
        raise UsageError(f"n {n} is not possible; ask for 1 answer or more, the paper's subjects gave 100")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"out is '{path}'; give the name of an .html page")
    if path.exists():
        raise UsageError(f"output '{path}' exists; choose another name")
    gans = {"A": as_gan(a), "B": as_gan(b)}
    edges = [gan.config["resolution"] for gan in gans.values()]
    if edges[0] != edges[1]:
        raise ModelError(f"model A draws {edges[0]} px and model B {edges[1]} px, which anybody can tell apart; "
                         "compare models of one size")
    shown = _classes(gans["A"], gans["B"], classes)
    count = SPARE * n
    rng = np.random.default_rng(seed)
    order = [shown[i % len(shown)] for i in range(count)]
    order = [order[i] for i in rng.permutation(count)]
    first = ["A" if heads else "B" for heads in rng.integers(0, 2, count)]
    seeds = {"A": 2 * seed, "B": 2 * seed + 1}  # models that share an origin would draw alike from the same latents
    images = {}
    for name, gan in gans.items():
        drawn = gan.sample(count, order if shown != [""] else None, seeds[name], truncation)
        images[name] = [_uri(image) for image in drawn]
    names = {name: _name(source) for name, source in (("a", a), ("b", b))}
    asked = question or (QUESTION if shown != [""] else QUESTION_ALONE)
    pairs = [{"class": order[i], "first": side, "left": images[side][i], "right": images["AB"[side == "A"]][i]}
             for i, side in enumerate(first)]
    digest = hashlib.sha256(json.dumps([names, n, asked, pairs], sort_keys=True).encode()).hexdigest()[:12]
    return write_study({"id": digest, **names, "n": n, "question": asked, "pairs": pairs}, edges[0], path)


def _classes(a: GAN, b: GAN, wanted: Sequence[str] | None) -> list[str]:
    """Names of the classes to show; [""] where there is none to name, or none in one of the models."""
    if not a.generator.num_classes or not b.generator.num_classes:
        if wanted:
            raise UsageError(f"class '{wanted[0]}' was asked for and one of the models has none; leave classes out")
        return [""]
    if a.generator.num_classes < 2 and b.generator.num_classes < 2 and not set(a.classes) & set(b.classes):
        if wanted:
            raise UsageError(f"class '{wanted[0]}' was asked for and the models have none in common; leave classes out")
        return [""]
    common = [name for name in a.classes if name in b.classes]
    if not common:
        raise ModelError("the two models have no class in common, so no pair can show the same one; compare models of "
                         "the same target")
    unknown = [name for name in wanted or () if name not in common]
    if unknown:
        raise UsageError(f"class '{unknown[0]}' is not one that both models have; have: {', '.join(common[:12])}")
    return list(wanted or common)


def _name(source: GAN | Run | str | Path) -> str:
    if isinstance(source, GAN):
        return source.origin or str(source.card.get("name", "a model"))
    return str(source.path if isinstance(source, Run) else source)


def _uri(image: np.ndarray) -> str:
    """uint8 [H, W, C] as a data URI."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    kind, options = ("png", {"optimize": True}) if len(image) <= PNG_UP_TO else ("webp", {"quality": 95})
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# ---- scoring -------------------------------------------------------------------------------------------------


def score_study(files: Sequence[str | Path]) -> dict[str, Any]:
    """Preference rates from the JSON files that subjects saved.

    Returns:
        JSON-ready dict: a, b, study, subjects [{subject, valid, skipped, rate, complete}], valid, skipped, rate (share
        of valid answers for A), interval [low, high] at 95 %, interval_of ("answers" or "subjects"), p (two-sided, of
        no preference; exact binomial for one subject, a sign-flip test over subjects for more), per_class {class:
        {rate, interval, valid}}, left (share of left images among the choices; far from 0.5 is a habit of the side),
        warnings [sentence].

    Raises:
        DataError: a file that is missing, broken or no study's; files of different studies; one subject twice; no
            valid answer.
    """
    if not files:
        raise UsageError("no file was given; name the JSON files that the subjects saved")
    found = [_read(Path(file)) for file in files]
    first = found[0]
    for file, study in zip(files, found, strict=True):
        if study["study"] != first["study"]:
            raise DataError(f"'{file}' belongs to study {study['study']} and '{files[0]}' to {first['study']}; score "
                            "one study at a time")
    keys = [(study["subject"], study["started"]) for study in found]
    for file, key in zip(files, keys, strict=True):
        if keys.count(key) > 1:
            raise DataError(f"'{file}' is there twice (subject '{key[0]}', started {key[1]}); give every file once")
    answers = [[x for x in study["answers"] if x["choice"] != "skip"] for study in found]
    flat = [x for of in answers for x in of]
    if not flat:
        raise DataError("there is no valid answer in these files; every pair was skipped")
    wins = [sum(x["choice"] == "A" for x in of) for of in answers]
    counts = [len(of) for of in answers]
    used = _tally(answers)
    several = len(used) > 1
    classes = sorted({x["class"] for x in flat})
    warnings = [f"'{file}' has {count} of {study['n']} valid answers"
                for file, study, count in zip(files, found, counts, strict=True) if count < study["n"]]
    return {
        "a": first["a"], "b": first["b"], "study": first["study"],
        "subjects": [{"subject": s["subject"], "valid": c, "skipped": len(s["answers"]) - c,
                      "rate": w / c if c else None, "complete": c >= s["n"]}
                     for s, w, c in zip(found, wins, counts, strict=True)],
        **_rate(used), "skipped": sum(len(s["answers"]) for s in found) - len(flat),
        "interval_of": "subjects" if several else "answers",
        "p": _sign_flips(used) if several else _binomial(*used[0]),
        "per_class": {name: _rate(_tally(answers, name)) for name in classes if classes != [""]},
        "left": sum(x["choice"] == x["left"] for x in flat) / len(flat), "warnings": warnings,
    }


def _read(file: Path) -> dict[str, Any]:
    """One subject's file, checked."""
    try:
        study = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{file}' cannot be read as JSON ({error}); give the file that the page saved") from None
    try:
        if study["format"] != "gantransfer-study" or study["version"] != 1:
            raise KeyError("format")
        good = all(x["choice"] in ("A", "B", "skip") and x["left"] in ("A", "B") and isinstance(x["class"], str)
                   for x in study["answers"])
        for name in ("study", "a", "b", "n", "subject", "started"):
            study[name]
    except (KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise DataError(f"'{file}' holds no answers of a preference study; give the JSON file that the page saved")
    return study


def _tally(answers: Sequence[Sequence[dict[str, Any]]], name: str | None = None) -> list[tuple[int, int]]:
    """(wins of A, answers) of every subject with a valid answer, to class `name` alone where one is given."""
    chosen = [[x["choice"] == "A" for x in of if name in (None, x["class"])] for of in answers]
    return [(sum(wins), len(wins)) for wins in chosen if wins]


def _rate(used: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The pooled rate of a tally, its interval and the number of answers."""
    valid = sum(c for _, c in used)
    rate = sum(w for w, _ in used) / valid
    return {"rate": rate, "interval": list(wilson(rate, _effective(used))), "valid": valid}


def wilson(share: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` answers, at 95 % unless `z` says otherwise."""
    square = z * z / count
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def _effective(used: Sequence[tuple[int, int]]) -> float:
    """How many independent answers those of subjects, (wins, answers) each, are worth: of one subject their number, of
    several that over the design effect (the linearised variance of the pooled rate, from the spread between subjects,
    over the binomial one), times the squared ratio of Student's 5 % points for answers - 1 and subjects - 1 degrees of
    freedom."""
    count, subjects = sum(c for _, c in used), len(used)
    if subjects == 1:
        return count
    rate = sum(w for w, _ in used) / count
    between = subjects / (subjects - 1) * sum((w - rate * c) ** 2 for w, c in used) / count**2
    binomial = rate * (1 - rate) / count
    effect = max(between / binomial, 1.0) if binomial else 1.0
    return count / effect * (point(count - 1) / point(subjects - 1)) ** 2


def _binomial(wins: int, count: int) -> float:
    """Two-sided exact probability of a share so far from a half."""
    far = max(wins, count - wins)
    tail = sum(math.comb(count, k) for k in range(far, count + 1)) / 2**count
    return min(1.0, 2 * tail)


def _sign_flips(used: Sequence[tuple[int, int]]) -> float:
    """Two-sided p of no preference: how often the summed lead is as far from 0 if every subject's may change sign.
    All sign patterns for up to 16 subjects, else 100,000 drawn ones."""
    leads = np.array([2 * wins - count for wins, count in used], float)
    n = len(leads)
    if n <= 16:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(0).choice((-1, 1), (100_000, n))
    return float((np.abs(signs @ leads) >= abs(leads.sum()) - 1e-9).mean())
