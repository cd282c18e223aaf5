"""The adapter: what a run changed, and nothing else.

The file is computed, never declared: every tensor of the adapted generator, buffers included, whose content
is not in the source, plus a map of the rest to the source's names. It is right for every method by
construction, and refuses any other source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gantransfer.config import from_mapping
from gantransfer.errors import ModelError, UsageError, did_you_mean
from gantransfer.modulation import fold
from gantransfer.plan import Method, Target
from gantransfer.registry import methods
from gantransfer.sources import GAN
from gantransfer.weights import (
    load_strictly,
    read_json,
    read_tensors,
    tensor_sha256,
    tensors_sha256,
    write_json,
    write_tensors,
    write_text,
)

FORMAT_VERSION = 1
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter.

    Attributes:
        method, fields: what made it. source_sha256: the generator it belongs to.
        target: classes and sizes. tensors: what is not in the source. from_source: generator name -> source name, with
            several sources ``NUMBER/name``. others: (name, sha256) of the sources after the first.
    """

    path: Path
    method: str
    fields: dict[str, Any]
    source_sha256: str
    source_name: str
    target: Target
    tensors: dict[str, Tensor]
    from_source: dict[str, str]
    others: tuple[tuple[str, str], ...] = ()


def save_adapter(folder: Path, generator: nn.Module, source: GAN | Sequence[GAN], source_name: str | Sequence[str],
                 method: Method, name: str, target: Target) -> dict[str, int]:
    """Write the adapter of a `generator`, folded but for modulations of its filters, made from one source or several.

    Returns:
        Bytes: ``adapter`` (the tensors' file), ``per_class`` (rows that grow with the classes, for one class),
        ``shared`` (statistics and noise projections, once per adapter), ``generator`` (the sources' tensors).
    """
    sources = [source] if isinstance(source, GAN) else list(source)
    names = [source_name] if isinstance(source_name, str) else list(source_name)
    states = _source_tensors([gan.generator.state_dict() for gan in sources])
    places = {tensor_sha256(t): k for k, t in states.items()}
    own, from_source = {}, {}
    for key, tensor in generator.state_dict().items():
        place = places.get(tensor_sha256(tensor))
        if place is None:
            own[key] = tensor
        else:
            from_source[key] = place
    size = write_tensors(own, folder / WEIGHTS)
    meta = {
        "format_version": FORMAT_VERSION,
        "method": name,
        "fields": asdict(method),
        "source": names[0],
        "source_sha256": sources[0].sha256,
        "classes": list(target.classes),
        "target": asdict(target),
        "from_source": from_source,
        "tensors_sha256": tensors_sha256(own),
    }
    if len(sources) > 1:
        meta["other_sources"] = [{"name": name, "sha256": gan.sha256} for name, gan in zip(names[1:], sources[1:],
                                                                                         strict=True)]
    write_json(meta, folder / "adapter_config.json")
    write_text(_card(meta, size), folder / "README.md")
    rows = sum(t.numel() * t.element_size() for k, t in own.items() if _grows_with_classes(generator, k))
    everything = sum(t.numel() * t.element_size() for t in own.values())
    classes = max(target.num_classes, 1)
    return {"adapter": size, "per_class": rows // classes, "shared": everything - rows,
            "generator": sum(t.numel() * t.element_size() for t in states.values())}


def _source_tensors(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sources' tensors by the names that ``from_source`` has for them."""
    if len(states) == 1:
        return dict(states[0])
    return {f"{i}/{key}": tensor for i, state in enumerate(states) for key, tensor in state.items()}


def _grows_with_classes(generator: nn.Module, key: str) -> bool:
    if hasattr(generator, "added_to"):  # every class has modules of its own before the source
        return not key.startswith("sources.") and generator.num_classes > 0
    module, _, name = key.rpartition(".")
    return name == "weight" and isinstance(generator.get_submodule(module), nn.Embedding)


def _card(meta: Mapping[str, Any], size: int) -> str:
    classes, others = meta["classes"], meta.get("other_sources", ())
    sources = ",".join(["SOURCE"] * (1 + len(others)))
    use = [f"Use it with `gantransfer merge {sources} ADAPTER --out DIR`."]
    if classes and not others:
        use = ["Use it with `gantransfer extend SOURCE ADAPTER --out DIR` (old classes stay bit-identical, where the",
               "method leaves shared weights alone) or `gantransfer merge SOURCE ADAPTER --out DIR` (target classes",
               "only)."]
    return "\n".join([
        "---", "library_name: gantransfer", f"base_model: {meta['source']}", "tags: [gan, adapter]", "---", "",
        f"# {len(classes)} new classes for {meta['source']}" if classes else f"# {meta['source']}, adapted", "",
        f"Made by gantransfer's method `{meta['method']}`; {size} bytes of tensors.", "",
        *([f"- classes: {' '.join(classes)}"] if classes else []),
        f"- belongs to the generator with sha256 `{meta['source_sha256']}`",
        *(f"- and to {other['name']}, sha256 `{other['sha256']}`" for other in others), "", *use, "",
    ])


def read_adapter(folder: str | Path) -> Adapter:
    """Load an adapter directory, or a run directory's adapter (ModelError if there is none)."""
    folder = Path(folder)
    if (folder / "adapter" / "adapter_config.json").is_file():
        folder = folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"'{folder}' holds no adapter (adapter_config.json); give a run directory or its adapter/")
    meta = read_json(folder / "adapter_config.json")
    try:
        if meta["format_version"] > FORMAT_VERSION:
            raise ModelError(f"'{folder}' has format_version {meta['format_version']}, this gantransfer reads up to "
                             f"{FORMAT_VERSION}; upgrade gantransfer")
        target = Target(**{**meta["target"], "classes": tuple(map(str, meta["target"]["classes"]))})
        places = {str(k): str(v) for k, v in meta["from_source"].items()}
        adapter = Adapter(folder, str(meta["method"]), dict(meta["fields"]), str(meta["source_sha256"]),
                          str(meta["source"]), target, read_tensors(folder / WEIGHTS), places,
                          tuple((str(o["name"]), str(o["sha256"])) for o in meta.get("other_sources", ())))
        expected = meta.get("tensors_sha256")
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"'{folder / 'adapter_config.json'}' is incomplete or wrong ({error}); "
                         "export it again") from None
    if expected not in (None, tensors_sha256(adapter.tensors)):
        raise ModelError(f"the tensors in '{folder / WEIGHTS}' are not those adapter_config.json names; restore the "
                         "files or export the adapter again")
    return adapter


def source_state(gan: GAN, adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of the generator that `adapter` was made from: `gan` itself, or what it was before some or all of
    its adapters were added.

    Raises:
        ModelError: the adapter belongs to another generator.
    """
    if adapter.source_sha256 == gan.sha256:
        return gan.generator.state_dict()
    if adapter.source_sha256 in gan.lineage:
        adapters = gan.lineage.index(adapter.source_sha256)
        return gan.generator.state_before(adapters) if adapters else gan.generator.base().state_dict()
    raise ModelError(f"adapter '{adapter.path}' belongs to source '{adapter.source_name}' (sha256 "
                     f"{adapter.source_sha256[:12]}), not to this one ({gan.sha256[:12]}); give that source")


def full_state(gan: GAN, adapter: Adapter, others: Sequence[GAN] = ()) -> dict[str, Tensor]:
    """Every tensor of the adapted generator; `others`: the adapter's sources after the first."""
    states = [source_state(gan, adapter)]
    for number, (other, (name, sha256)) in enumerate(zip(others, adapter.others, strict=True), 2):
        if other.sha256 != sha256:
            raise ModelError(f"adapter '{adapter.path}' belongs to source '{name}' (sha256 {sha256[:12]}) as its "
                             f"source {number}, not to this one ({other.sha256[:12]}); give that source")
        states.append(other.generator.state_dict())
    source = _source_tensors(states)
    missing = [place for place in adapter.from_source.values() if place not in source]
    if missing:
        raise ModelError(f"adapter '{adapter.path}' names source tensor '{missing[0]}', which the source lacks; "
                         "it was damaged: export it again")
    return {**{key: source[place] for key, place in adapter.from_source.items()}, **adapter.tensors}


def rebuild(gan: GAN, adapter: Adapter, others: Sequence[GAN] = ()) -> nn.Module:
    """The adapted generator, in eval mode and plain modules, bit-identical to the one that was saved."""
    state = full_state(gan, adapter, others)
    try:
        method: Method = from_mapping(methods[adapter.method], adapter.fields, f"method {adapter.method}")
    except UsageError as error:
        raise ModelError(f"adapter '{adapter.path}' was made in a way unknown here ({error}); upgrade gantransfer or "
                         "export it again") from None
    base = gan
    if adapter.source_sha256 != gan.sha256:
        base = GAN(gan.generator.base(), gan.discriminator, arch=getattr(gan.generator, "base_arch", gan.arch))
    generator = method.reshape([base, *others], adapter.target)
    load_strictly(generator, state, f"adapter '{adapter.path}'")
    return fold(generator)


def new_names(gan: GAN, adapters: Sequence[Adapter], rename: Mapping[str, str]) -> list[list[str]]:
    """The class names that each of `adapters` brings, in order. A name of `rename` that exists when its adapter's
    turn comes is replaced there alone; one that exists nowhere else is simply replaced.

    Raises:
        UsageError: a class name twice, or one to rename that no adapter has.
    """
    count = Counter(c for adapter in adapters for c in adapter.target.classes)
    for name in rename:
        if name not in count:
            raise UsageError(f"no adapter has a class '{name}' to rename{did_you_mean(name, count)}; "
                             f"have: {', '.join(count)}")
    taken, found = list(gan.classes), []
    for adapter in adapters:
        names = []
        for name in adapter.target.classes:
            alone = count[name] == 1 and name not in gan.classes
            new = rename.get(name, name) if alone or name in taken else name
            if new in taken:
                raise UsageError(f"class '{new}' of adapter '{adapter.path}' exists already; rename it with "
                                 f"--rename {name}=NEW")
            taken.append(new)
            names.append(new)
        found.append(names)
    return found


def extend(gan: GAN, adapter: Adapter, names: Sequence[str]) -> GAN:
    """A GAN with the old classes, bit-identical in any mix of classes, and the adapter's, called `names`, after them.

    Raises:
        ModelError: another source, several sources, or an adapter that changed weights the old classes use.
    """
    if adapter.others:
        raise ModelError(f"adapter '{adapter.path}' belongs to {1 + len(adapter.others)} sources, whose classes no one "
                         "model has; use merge instead")
    state = full_state(gan, adapter)
    before_source = getattr(methods[adapter.method], "before_source", ())  # where its classes' own modules are
    if hasattr(gan.generator, "added_to") and not before_source:
        raise ModelError(f"adapter '{adapter.path}' adds norm layers and this model has classes before its source, "
                         "which come last; extend the source with the other adapters first")
    owned = before_source or tuple(f"{name}." for name, _ in gan.generator.norms())
    shared = [key for key in adapter.tensors if not key.startswith(owned)]
    if shared:
        raise ModelError(f"adapter '{adapter.path}' (method {adapter.method}) changed {len(shared)} tensors that old "
                         f"classes use (first: {shared[0]}), so they could not stay untouched; use merge instead")
    card = {**gan.card, "extended_by": [*gan.card.get("extended_by", []), adapter.method]}
    identity = {"classes": [*gan.classes, *names], "lineage": [*gan.lineage, gan.sha256], "card": card}
    if before_source:
        generator = rebuild(gan, adapter).added_to(gan.generator, gan.arch)
        return GAN(generator, gan.discriminator, arch=generator.arch, **identity)
    norms = gan.generator.adapter_norms(len(names))
    for name, norm in norms.items():
        part = {key[len(name) + 1 :]: tensor for key, tensor in state.items() if key.startswith(name + ".")}
        load_strictly(norm, part, f"adapter '{adapter.path}', {name}")
    generator = gan.generator.extended(norms, len(names))
    return GAN(generator, gan.discriminator, arch=gan.arch, **identity)
