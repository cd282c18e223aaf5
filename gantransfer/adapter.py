"""The adapter: what a run changed, and nothing else.

The file is computed, never declared: every tensor of the adapted generator, buffers included, whose content
is not in the source, plus a map of the rest to the source's names. It is right for every method by
construction, and refuses any other source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.plan import Method, Target
from gantransfer.sources import GAN
from gantransfer.weights import load_strictly, read_json, read_tensors, tensor_sha256, write_json, write_tensors

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter.

    Attributes:
        method, fields: what made it. source_sha256: the generator it belongs to.
        target: classes and sizes. tensors: what is not in the source. from_source: generator name -> source name.
    """

    path: Path
    method: str
    fields: dict[str, Any]
    source_sha256: str
    source_name: str
    target: Target
    tensors: dict[str, Tensor]
    from_source: dict[str, str]


def save_adapter(folder: Path, generator: nn.Module, source: GAN, source_name: str, method: Method, name: str,
                 target: Target) -> dict[str, int]:
    """Write the adapter of a folded `generator`.

    Returns:
        Bytes: ``adapter`` (the tensors' file), ``per_class`` (rows that grow with the classes, for one class),
        ``shared`` (statistics and noise projections, once per adapter), ``generator`` (the source's tensors).
    """
    places = {tensor_sha256(t): k for k, t in source.generator.state_dict().items()}
    own, from_source = {}, {}
    for key, tensor in generator.state_dict().items():
        place = places.get(tensor_sha256(tensor))
        if place is None:
            own[key] = tensor
        else:
            from_source[key] = place
    size = write_tensors(own, folder / "adapter_model.safetensors")
    meta = {
        "format_version": FORMAT_VERSION,
        "method": name,
        "fields": asdict(method),
        "source": source_name,
        "source_sha256": source.sha256,
        "classes": list(target.classes),
        "target": asdict(target),
        "from_source": from_source,
    }
    write_json(meta, folder / "adapter_config.json")
    (folder / "README.md").write_text(_card(meta, size), encoding="utf-8")
    rows = sum(t.numel() * t.element_size() for k, t in own.items() if _is_class_table(generator, k))
    everything = sum(t.numel() * t.element_size() for t in own.values())
    classes = max(target.num_classes, 1)
    return {"adapter": size, "per_class": rows // classes, "shared": everything - rows,
            "generator": sum(t.numel() * t.element_size() for t in source.generator.state_dict().values())}


def _is_class_table(generator: nn.Module, key: str) -> bool:
    module, _, name = key.rpartition(".")
    return name == "weight" and isinstance(generator.get_submodule(module), nn.Embedding)


def _card(meta: Mapping[str, Any], size: int) -> str:
    return "\n".join([
        "---", "library_name: gantransfer", f"base_model: {meta['source']}", "tags: [gan, adapter]", "---", "",
        f"# {len(meta['classes'])} new classes for {meta['source']}", "",
        f"Made by gantransfer's method `{meta['method']}`; {size} bytes of tensors.", "",
        f"- classes: {' '.join(meta['classes'])}",
        f"- belongs to the generator with sha256 `{meta['source_sha256']}`", "",
        "Use it with `gantransfer extend SOURCE ADAPTER --out DIR` (old classes stay bit-identical, where the method",
        "leaves shared weights alone) or `gantransfer merge SOURCE ADAPTER --out DIR` (target classes only).", "",
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
        target = Target(**{**meta["target"], "classes": tuple(meta["target"]["classes"])})
        return Adapter(folder, meta["method"], meta["fields"], meta["source_sha256"], meta["source"], target,
                       read_tensors(folder / "adapter_model.safetensors"), meta["from_source"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"'{folder / 'adapter_config.json'}' is incomplete ({error}); export it again") from None


def source_state(gan: GAN, adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of the generator that `adapter` was made from: `gan` itself, or the base it extends.

    Raises:
        ModelError: the adapter belongs to another generator.
    """
    if adapter.source_sha256 == gan.sha256:
        return gan.generator.state_dict()
    if adapter.source_sha256 == gan.base_sha256:
        return gan.generator.base().state_dict()
    raise ModelError(f"adapter '{adapter.path}' belongs to source '{adapter.source_name}' (sha256 "
                     f"{adapter.source_sha256[:12]}), not to this one ({gan.sha256[:12]}); give that source")


def full_state(gan: GAN, adapter: Adapter) -> dict[str, Tensor]:
    """Every tensor of the adapted generator."""
    source = source_state(gan, adapter)
    missing = [place for place in adapter.from_source.values() if place not in source]
    if missing:
        raise ModelError(f"adapter '{adapter.path}' names source tensor '{missing[0]}', which the source lacks; "
                         "it was damaged: export it again")
    return {**{key: source[place] for key, place in adapter.from_source.items()}, **adapter.tensors}


def rebuild(gan: GAN, adapter: Adapter, method: Method) -> nn.Module:
    """The adapted generator, in eval mode, bit-identical to the one that was saved."""
    state = full_state(gan, adapter)
    base = gan if adapter.source_sha256 == gan.sha256 else GAN(gan.generator.base(), gan.discriminator)
    generator = method.reshape([base], adapter.target)
    load_strictly(generator, state, f"adapter '{adapter.path}'")
    return generator.eval()


def extend(gan: GAN, adapter: Adapter, rename: Mapping[str, str] | None = None) -> GAN:
    """A GAN with the old classes, bit-identical in any batch, and the adapter's after them.

    Raises:
        ModelError: another source, or an adapter that changed weights the old classes use.
        UsageError: a class name that exists already.
    """
    state = full_state(gan, adapter)
    names = [name for name, _ in gan.generator.norms()]
    owned = tuple(f"{name}." for name in names)
    shared = [key for key in adapter.tensors if not key.startswith(owned)]
    if shared:
        raise ModelError(f"adapter '{adapter.path}' (method {adapter.method}) changed {len(shared)} tensors that old "
                         f"classes use (first: {shared[0]}), so they could not stay untouched; use merge instead")
    classes = [(rename or {}).get(c, c) for c in adapter.target.classes]
    twice = sorted(set(classes) & set(gan.classes))
    if twice:
        raise UsageError(f"class '{twice[0]}' exists already ({len(twice)} such); rename it with "
                         f"--rename {twice[0]}=NEW")
    norms = gan.generator.adapter_norms(len(classes))
    for name, norm in norms.items():
        part = {key[len(name) + 1 :]: tensor for key, tensor in state.items() if key.startswith(name + ".")}
        load_strictly(norm, part, f"adapter '{adapter.path}', {name}")
    generator = gan.generator.extended(norms, len(classes))
    card = {**gan.card, "extended_by": [*gan.card.get("extended_by", []), adapter.method]}
    return GAN(generator, gan.discriminator, arch=gan.arch, classes=[*gan.classes, *classes],
               base_sha256=gan.base_sha256, card=card)
