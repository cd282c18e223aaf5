"""What a run has learned: knowledge propagation, in pictures (cGANTransfer, Figures 8, 9, 11 and 12), or filters'
modulation (`gantransfer.filter_analysis`).

A finished run keeps scores and tuned prior of every class-conditional norm layer in ``analysis/``; together with the
adapter they are enough, and the training images are not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantransfer import filter_analysis
from gantransfer.errors import ModelError, UsageError, writing
from gantransfer.modulation import fold, propagations
from gantransfer.pictures import GRID_SEED, save_grid, source_classes
from gantransfer.report import write_report
from gantransfer.results import load, source_of
from gantransfer.sampling import channels_last, draw_latents, generate
from gantransfer.sources import GAN
from gantransfer.weights import read_json, read_tensors, write_json, write_tensors

KINDS = (("scale", "gain"), ("shift", "bias"))
SAMPLES = 4  # images of a class in the pictures of contributors
TOP = 3  # contributors shown, as in the paper
PICTURES = ("source_classes.png", "pseudo_classes.png", "layers.png", "contributors.png")


def record(generator: nn.Module, gan: GAN, classes: Sequence[str], folder: Path) -> Learned | None:
    """Keep in ``folder/analysis`` what folding discards, before `generator` is folded; None without propagation.

    Per layer and kind: ``scores`` float [M, N], the effective ones; ``prior`` float [N, C], the tuned rows that they
    combine; ``offset`` float [C], what makes such a row a class's scale or shift (the published code combines offsets).
    """
    found = dict(propagations(generator))
    layers = [name for name, _ in generator.class_norms()] if found else []
    if not layers:
        return None
    tensors: dict[str, Tensor] = {}
    scores: dict[str, list[Any]] = {"scale": [], "shift": []}
    with torch.no_grad():
        for name in layers:
            for kind, part in KINDS:
                layer = found[f"{name}.{part}"]
                effective = layer.effective_scores()
                rows, offset = layer.pseudo_classes(is_scale=kind == "scale")
                noise = getattr(generator.get_submodule(name).get_submodule(part), "noise", None)
                if getattr(noise, "bias", None) is not None:  # the published code's; `fold` adds it to every class
                    offset = offset + noise.bias
                tensors |= {f"{name}.{kind}.scores": effective, f"{name}.{kind}.prior": rows,
                            f"{name}.{kind}.offset": offset}
                scores[kind].append([[round(float(s), 4) for s in row] for row in effective])
    analysis = folder / "analysis"
    write_tensors(tensors, analysis / "propagation.safetensors")
    write_json({"layers": layers, "classes": list(classes), "source_classes": gan.classes, "scores": scores},
               analysis / "contributions.json")
    return Learned(tensors, layers)


def read(folder: Path) -> Learned:
    """What `record` kept in a run directory."""
    layers = read_json(folder / "analysis" / "contributions.json")["layers"]
    return Learned(read_tensors(folder / "analysis" / "propagation.safetensors"), layers)


def explain(
    run: str | Path, out: str | Path | None = None, *, top: int | None = None, seed: int = 0,
    beside: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write a run's pictures of knowledge propagation (again), and its report where they stay in the run; of a run with
    modulated filters, put their scales `beside` those of other runs, in its report.

    Args:
        run: directory of a finished run of cgantransfer, or of adafm. out: folder of the pictures (None: the run's
            ``analysis``). top: contributors per class, and of each layer in the report (None: 3 and 4, or all of a
            source with fewer). seed: of the latents.
        beside: runs or adapters of adafm to compare with, see `gantransfer.filter_analysis.compare`.

    Returns:
        Of modulated filters: ``groups`` with box plots of scales and shifts, and ``compared``. Of propagation:
        ``classes``: {target class: {layer: {"scale": [[source class, score], ...], "shift": ...}}}, the `top` largest
        by size; ``first_layer``: {target class: [source class, ...]}, the contributors that the picture shows;
        ``files``: the pictures.

    Raises:
        ModelError: no finished run. UsageError: it used no knowledge propagation, or `top` is out of range.
    """
    folder = Path(run)
    if (folder / "analysis" / filter_analysis.FILE).is_file():
        for name, value, unless in (("out", out, None), ("top", top, None), ("seed", seed, 0)):
            if value != unless:
                raise UsageError(f"{name} '{value}' means nothing for run '{folder}': its report shows modulated "
                                 f"filters; leave {name} out")
        compared = filter_analysis.compare(folder, [Path(other) for other in beside]) if beside else None
        write_report(folder)
        return {"groups": read_json(folder / "analysis" / filter_analysis.FILE)["groups"], "compared": compared,
                "files": [str(folder / "report.html")]}
    if not (folder / "config.yaml").is_file():
        raise ModelError(f"'{folder}' is no run; give the --out of an earlier gantransfer adapt")
    adapted = load(folder)
    analysis = folder / "analysis"
    if not (analysis / "contributions.json").is_file():
        raise UsageError(f"run '{folder}' has neither knowledge propagation nor modulated filters to explain; it takes "
                         "a run of method cgantransfer or adafm")
    if beside:
        raise UsageError(f"run '{folder}' has no modulated filters to put beside others'; it takes a run of adafm")
    names = read_json(analysis / "contributions.json")
    shown = top  # in the report
    top = min(TOP, len(names["source_classes"])) if top is None else top
    if not 1 <= top <= len(names["source_classes"]):
        raise UsageError(f"top {top} is not possible: choose 1 to {len(names['source_classes'])}, the source's classes")
    place = analysis if out is None else Path(out)
    learned = read(folder)
    draw(adapted.generator, source_of(folder).generator, learned, place, top, seed)
    if out is None:
        write_json({**names, "top": shown}, analysis / "contributions.json")
        write_report(folder)
    sources = names["source_classes"]
    classes = {
        target: {layer: {kind: [[sources[i], round(float(learned.scores(layer, kind)[m, i]), 4)]
                                for i in learned.strongest(layer, kind, m, top)] for kind, _ in KINDS}
                 for layer in learned.layers}
        for m, target in enumerate(names["classes"])
    }
    first = {target: [sources[i] for i in learned.contributors(m, top)] for m, target in enumerate(names["classes"])}
    return {"classes": classes, "first_layer": first, "files": [str(place / name) for name in PICTURES]}


class Learned:
    """Scores and tuned prior of a run, by layer and kind ("scale" or "shift")."""

    def __init__(self, tensors: dict[str, Tensor], layers: Sequence[str]) -> None:
        self.tensors, self.layers = tensors, list(layers)
        missing = [f"{layer}.{kind}.{part}" for layer in layers for kind, _ in KINDS
                   for part in ("scores", "prior", "offset") if f"{layer}.{kind}.{part}" not in tensors]
        if missing:
            raise ModelError(f"analysis/propagation.safetensors has no '{missing[0]}', as another version of "
                             "gantransfer wrote it; run the adaptation again")

    def scores(self, layer: str, kind: str) -> Tensor:
        """float [M, N]."""
        return self.tensors[f"{layer}.{kind}.scores"]

    def prior(self, layer: str, kind: str) -> Tensor:
        """float [N, C]."""
        return self.tensors[f"{layer}.{kind}.prior"]

    def pseudo_class_rows(self, layer: str, kind: str) -> Tensor:
        """float [N, C]: the tuned rows as scales (leading 1 included) or shifts of classes of their own."""
        return self.prior(layer, kind) + self.tensors[f"{layer}.{kind}.offset"]

    def strongest(self, layer: str, kind: str, m: int, top: int) -> list[int]:
        """The source classes of the `top` largest scores of target class `m`, by size."""
        return self.scores(layer, kind)[m].abs().argsort(descending=True, stable=True)[:top].tolist()

    def contributors(self, m: int, top: int) -> list[int]:
        """As the paper picks them: the classes of the first layer's largest scores, here summed over scale and shift.
        A negative score takes a class away, and is none of these however large."""
        first = self.layers[0]
        return sum(self.scores(first, kind)[m] for kind, _ in KINDS).argsort(
            descending=True, stable=True)[:top].tolist()


@torch.no_grad()
def draw(generator: nn.Module, source: nn.Module, learned: Learned, folder: Path, top: int = TOP,
         seed: int = 0) -> None:
    """Write `PICTURES` to `folder`. `generator` is the adapted one with plain tables, `source` the source's."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    source_classes(source, folder / PICTURES[0], seed)
    source_classes(pseudo_classes(generator, learned), folder / PICTURES[1], seed)
    z = draw_latents(1, generator.z_dim, GRID_SEED + seed)
    labels = torch.arange(generator.num_classes)
    stages = [generate(stage, z.repeat(len(labels), 1), labels) for stage in layer_by_layer(generator, learned)]
    save_grid(channels_last(torch.stack(stages, 1).flatten(0, 1)), len(stages), folder / PICTURES[2])
    z, rows = draw_latents(SAMPLES, generator.z_dim, GRID_SEED + seed), []
    top = min(top, source.num_classes)
    for m in range(generator.num_classes):
        rows.append(generate(generator, z, torch.full((SAMPLES,), m)))
        rows += [generate(source, z, torch.full((SAMPLES,), n)) for n in learned.contributors(m, top)]
    save_grid(channels_last(torch.cat(rows)), SAMPLES * (1 + top), folder / PICTURES[3])


@torch.no_grad()
def pseudo_classes(generator: nn.Module, learned: Learned) -> nn.Module:
    """Figure 8: the tuned prior's rows sampled as classes, N of them, without scores and residuals; statistics and
    noise projections are the target's."""
    rows = {(layer, kind): learned.pseudo_class_rows(layer, kind) for layer in learned.layers for kind, _ in KINDS}
    return _with_rows(generator, rows)


def layer_by_layer(generator: nn.Module, learned: Learned) -> Iterator[nn.Module]:
    """Figure 9: the first layer's scores used in every layer, then layer by layer each one's own; the last is
    `generator` itself. Residuals stay: scale_l = prior_l S_1 + (learned scale_l - prior_l S_l)."""
    first = learned.layers[0]
    for own in range(1, len(learned.layers) + 1):
        rows = {}
        for layer in learned.layers[own:]:
            norm = generator.get_submodule(layer)
            for kind, part in KINDS:
                other = learned.scores(first, kind) - learned.scores(layer, kind)
                table = getattr(norm, part).weight.detach() + float(kind == "scale")
                rows[layer, kind] = table + other @ learned.prior(layer, kind)
        yield _with_rows(generator, rows) if rows else generator


@torch.no_grad()
def _with_rows(generator: nn.Module, rows: dict[tuple[str, str], Tensor]) -> nn.Module:
    """A copy of `generator` whose class tables have other effective rows [K, C] in some layers and kinds; K classes."""
    count = len(next(iter(rows.values())))
    changed = generator.with_class_tables(count)
    for layer, norm in generator.class_norms():
        for kind, part in KINDS:
            found = rows.get((layer, kind))
            table = getattr(norm, part).weight if found is None else found - float(kind == "scale")
            getattr(changed.get_submodule(layer), part).weight.copy_(table)
    return fold(changed)
