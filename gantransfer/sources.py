"""A pre-trained GAN: load, identify, sample, save. A source is never mutated."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gantransfer.networks  # noqa: F401  (registers the architectures)
from gantransfer import dialects
from gantransfer.errors import GanTransferError, ModelError, OutputError, UsageError, did_you_mean, first_line
from gantransfer.kept_memory import kept_memory
from gantransfer.layers import weights_follow
from gantransfer.modulation import fold, is_plain
from gantransfer.registry import architectures
from gantransfer.sampling import channels_last, class_ids, draw_latents, generate, latent_chunks
from gantransfer.weights import (
    check_fit,
    load_strictly,
    read_json,
    read_networks,
    read_tensors,
    state_sha256,
    write_json,
    write_tensors,
    write_text,
)

FORMAT_VERSION = 1
SHIPPED = Path(__file__).parent / "shipped" / "models"


class GAN:
    """Generator, optional discriminator, class names and identity.

    Attributes:
        generator: the EMA generator where there is one, in eval mode; float images in [-1, 1].
        discriminator: critic in eval mode, or None.
        classes: names by class id.
        sha256: SHA-256 over the generator's tensors, modulations folded.
        base_sha256: of an extended model, the identity of the model it extends.
        lineage: of an extended model, the identities with 0, 1, ... of its adapters, its own aside.
        notes: what `convert` inferred; empty otherwise.
        origin: the name or directory it was loaded from, or "".
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None = None,
        *,
        arch: str = "biggan",
        classes: Sequence[str] | None = None,
        raw_generator: nn.Module | None = None,
        lineage: Sequence[str] = (),
        card: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.arch = arch
        self.generator = generator.eval()
        self.discriminator = None if discriminator is None else discriminator.eval()
        self.raw_generator = raw_generator
        count = max(generator.num_classes, 1)
        known, own = getattr(discriminator, "num_classes", 0), generator.num_classes
        own = getattr(generator, "num_base_classes", own)  # a critic knows none of those that adapters added
        if known and known != own and not getattr(generator, "wraps", ""):
            raise ModelError(f"the generator has {own} classes and the discriminator {known}; give networks of the "
                             "same classes")
        self.classes = [str(c) for c in classes] if classes is not None else [str(i) for i in range(count)]
        if len(self.classes) != count or len(set(self.classes)) != count:
            raise ModelError(f"{len(set(self.classes))} distinct class names for {count} classes; give one each")
        self.lineage = tuple(lineage)
        self.card = dict(card or {})
        self.notes = tuple(notes)
        self.origin = ""
        self._sha256: str | None = None

    @property
    def sha256(self) -> str:
        if self._sha256 is None:
            self._sha256 = state_sha256(self.plain().generator)
        return self._sha256

    @property
    def base_sha256(self) -> str:
        return self.lineage[0] if self.lineage else self.sha256

    @property
    def trained_with(self) -> dict[str, Any]:
        """What the critic was trained with, as settings of `gantransfer.defaults.Training`: as the model's card says,
        else its architecture, else hinge."""
        known = getattr(architectures[self.arch], "trained_with", {"loss": "hinge"})
        return known if "loss" not in self.card else {k: self.card[k] for k in ("loss", "r1_gamma") if k in self.card}

    @property
    def config(self) -> dict[str, Any]:
        """Architecture name and settings; ``z_dim`` is the effective one."""
        return {"arch": self.arch, **architectures[self.arch].config_dict(self.generator.config)}

    def plain(self) -> GAN:
        """This GAN, or if its generator holds modulations (a converted cGANTransfer or AdaFM checkpoint), a copy in
        which they are folded into plain tensors: what can be saved, adapted and extended."""
        if is_plain(self.generator):
            return self
        other = copy.copy(self)
        other.generator = fold(copy.deepcopy(self.generator))
        if self.raw_generator is not None:
            other.raw_generator = fold(copy.deepcopy(self.raw_generator))
        return other

    @classmethod
    def from_pretrained(cls, name: str | Path) -> GAN:
        """Load a shipped model, a directory, or a hub id (contains '/'), in that order.

        Raises:
            ModelError: unknown name, missing or broken files, tensors that do not match their recorded hash.
        """
        folder = locate(name)
        meta = read_json(folder / "config.json")
        try:
            _check_types(meta)
            if meta.get("format_version", 0) > FORMAT_VERSION:
                raise ModelError(f"'{folder}' has format_version {meta['format_version']}, this gantransfer reads up "
                                 f"to {FORMAT_VERSION}; upgrade gantransfer")
            arch = architectures[meta.get("arch", "biggan")]
            config = arch.config_class(**meta["network"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, GanTransferError):
                raise
            raise ModelError(f"'{folder / 'config.json'}' describes no {meta.get('arch')} network ({error}); "
                             "export the model again") from None
        files = {part: folder / f"{part}.safetensors" for part in ("generator", "generator_ema", "discriminator")}

        def load(file: Path, build: Any) -> nn.Module:
            tensors = read_tensors(file)
            try:
                with torch.device("meta"), weights_follow():  # takes no memory, whatever sizes the config claims
                    check_fit(build(config), tensors, f"'{file}'")
                with weights_follow():
                    network = build(config)
            except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError) as error:
                if isinstance(error, GanTransferError):
                    raise
                raise ModelError(f"'{folder / 'config.json'}' describes no {meta.get('arch')} network "
                                 f"({first_line(error)}); export the model again") from None
            load_strictly(network, tensors, f"'{file}'")
            recorded = meta.get("other_sha256", {}).get(file.stem)
            if recorded not in (None, state_sha256(network)):
                raise ModelError(f"'{file}' is not the file its config.json names; restore it")
            return network

        if not files["generator"].is_file() and not files["generator_ema"].is_file():
            raise ModelError(f"'{folder}' holds no generator.safetensors; give a directory written by save_pretrained")
        ema = load(files["generator_ema"], arch.build_generator) if files["generator_ema"].is_file() else None
        raw = load(files["generator"], arch.build_generator) if files["generator"].is_file() else None
        critic = None
        if files["discriminator"].is_file():
            critic = load(files["discriminator"], arch.build_discriminator)
        gan = cls(
            ema or raw, critic, arch=meta.get("arch", "biggan"), classes=meta.get("classes"),
            raw_generator=raw if ema is not None else None, lineage=meta.get("lineage", ()),
            card=meta.get("card"),
        )
        gan.origin = str(name) if str(name) in shipped_models() else str(folder.resolve())
        for norm in gan.generator.standing_norms():
            norm.standing = bool(meta.get("standing")) and bool(norm.accumulation_counter > 0)
        if meta.get("sha256") not in (None, gan.sha256):
            raise ModelError(f"the weights in '{folder}' are not those its config.json names (sha256 "
                             f"{gan.sha256[:12]} instead of {meta['sha256'][:12]}); restore the files")
        return gan

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write config.json, the networks (`plain`) as safetensors, and a model card; returns the directory."""
        folder = Path(directory)
        plain = self.plain()
        generator, raw = plain.generator, plain.raw_generator
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot create '{folder}' ({error.strerror}); choose another folder") from None
        if raw is not None:
            write_tensors(raw.state_dict(), folder / "generator.safetensors")
        part = "generator" if raw is None else "generator_ema"
        write_tensors(generator.state_dict(), folder / f"{part}.safetensors")
        if self.discriminator is not None:
            write_tensors(self.discriminator.state_dict(), folder / "discriminator.safetensors")
        meta = {
            "format_version": FORMAT_VERSION,
            "arch": self.arch,
            "network": architectures[self.arch].config_dict(self.generator.config),
            "classes": self.classes,
            "sha256": state_sha256(generator),
            "standing": any(n.standing for n in generator.standing_norms()),
            "card": self.card,
        }
        others = {"generator": raw, "discriminator": self.discriminator}
        meta["other_sha256"] = {name: state_sha256(net) for name, net in others.items() if net is not None}
        if self.lineage:
            meta["lineage"] = list(self.lineage)
        write_json(meta, folder / "config.json")
        write_text(self._model_card(meta), folder / "README.md")
        return folder

    def _model_card(self, meta: Mapping[str, Any]) -> str:
        lines = [
            "---", "library_name: gantransfer", "tags: [gan, image-generation]",
            f"license: {self.card.get('license', 'unknown')}", "---", "",
            f"# {self.card.get('name', 'GAN')}", "",
            str(self.card.get("description", "A GAN saved by gantransfer.")), "",
            f"- architecture: {self.arch}, {meta['network']['resolution']} px, "
            f"{meta['network']['channels']} channel(s), z of {meta['network']['z_dim']}",
            f"- classes ({len(self.classes)}): {' '.join(self.classes)}",
            f"- sha256 of the generator: `{meta['sha256']}`",
        ]
        lines += [f"- {k}: {v}" for k, v in self.card.items() if k not in ("name", "description", "license")]
        return "\n".join(lines) + "\n"

    def labels(self, classes: str | int | Sequence[str | int] | None, n: int, start: int = 0) -> Tensor | None:
        """What the generator takes for `classes`: int64 [n] as `class_ids` has them, or None for a generator without
        classes, whose images go by a single name, which is checked all the same (UsageError)."""
        ids = class_ids(classes, self.classes, n, start)
        return ids if self.generator.num_classes else None

    def sample(
        self, n: int, classes: str | int | Sequence[str | int] | None = None, seed: int = 0,
        truncation: float = 1.0, batch_size: int = 128,
    ) -> np.ndarray:
        """uint8 [n, H, W, C]; the same seed gives the same images.

        Args:
            classes: a class, a list of classes taken in turn (names or ids), or None for all in turn.
            truncation: in (0, 1]; smaller is more typical and less varied.
        """
        z = draw_latents(n, self.generator.z_dim, seed, truncation, getattr(self.generator, "picks", 0))
        return channels_last(generate(self.generator, z, self.labels(classes, n), batch_size))

    def stream(
        self, n: int, classes: str | int | Sequence[str | int] | None = None, seed: int = 0, truncation: float = 1.0,
        rows: int = 256,
    ) -> Iterator[np.ndarray]:
        """The images of `sample` in parts uint8 [`rows` or fewer, H, W, C]: any number of them in constant memory."""
        start, generator = 0, self.generator
        with kept_memory():  # from part to part
            for z in latent_chunks(n, generator.z_dim, seed, truncation, getattr(generator, "picks", 0), rows):
                yield channels_last(generate(generator, z, self.labels(classes, len(z), start), rows))
                start += len(z)

    @torch.no_grad()
    def accumulate_standing_statistics(self, zs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        """Replace the batch-norm statistics by their mean over training-mode passes on the given batches
        (BigGAN's standing statistics), in place; the model's identity changes with them.

        In an extended model only adapters' norms accumulate, each over the rows of its own classes: the base model's
        weights and statistics, and so its classes' images, stay as they are.

        Raises:
            ModelError: the network's batch norm keeps running averages only.
        """
        owners = self.generator.beside_base()
        inside = {id(m) for owner in owners for m in owner.modules()}
        norms = [norm for norm in self.generator.standing_norms() if id(norm) in inside]
        if not norms:
            raise ModelError("this network's batch norm has no standing statistics (official flag mybn); "
                             "sample with its running averages")
        before = [({k: v.clone() for k, v in norm.state_dict().items()}, norm.standing) for norm in norms]
        complete = False
        try:
            for norm in norms:
                norm.reset()
                norm.accumulating = True
            for owner in owners:
                owner.train()
            for z, y in zip(zs, ys, strict=True):
                self.generator(z, y)
            complete = True
        finally:
            self.generator.eval()
            for norm, (state, standing) in zip(norms, before, strict=True):
                norm.accumulating = False
                norm.standing = complete and bool(norm.accumulation_counter > 0)
                if not norm.standing:  # an error, or an adapter whose classes were not in `ys`
                    norm.load_state_dict(state)
                    norm.standing = standing
        self._sha256, self.origin = None, ""  # no longer what lies there
        self.lineage = self.lineage[:1]

    def summary(self) -> dict[str, Any]:
        """What there is: architecture, sizes, parameters, classes, which networks, identity."""
        def count(net: nn.Module | None) -> int | None:
            return None if net is None else sum(p.numel() for p in net.parameters())

        return {
            **self.config, "classes": self.classes, "sha256": self.sha256, "base_sha256": self.base_sha256,
            "generator_parameters": count(self.generator), "discriminator_parameters": count(self.discriminator),
            "has_raw_generator": self.raw_generator is not None, "card": self.card,
            **({"p": self.generator.p.tolist()} if hasattr(self.generator, "p") else {}),
        }


def _check_types(meta: Mapping[str, Any]) -> None:
    """TypeError where an entry of a ``config.json`` that is used further on is of another type."""
    types = {"format_version": int, "arch": str, "network": dict, "classes": list, "lineage": list, "card": dict,
             "other_sha256": dict, "sha256": str}
    for name, wanted in types.items():
        if meta.get(name) is not None and not isinstance(meta[name], wanted):
            raise TypeError(f"{name} is no {wanted.__name__}")


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(p.name for p in SHIPPED.iterdir() if (p / "config.json").is_file()) if SHIPPED.is_dir() else []


def locate(name: str | Path) -> Path:
    """The directory of a shipped model, a directory, or a hub snapshot (ModelError if there is none)."""
    if str(name) in shipped_models():
        return SHIPPED / str(name)
    path = Path(name)
    if path.is_dir():
        if (path / "config.json").is_file():
            return path
        raise ModelError(f"'{path}' has no config.json; give a directory written by save_pretrained, or "
                         "'gantransfer convert' a foreign checkpoint first")
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")) and not str(name).endswith("/"):
        return _from_hub(str(name))
    have = shipped_models()
    raise ModelError(f"source '{name}' is no shipped model, directory or hub id{did_you_mean(str(name), have)}; "
                     f"shipped: {', '.join(have) or 'none'}")


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except ImportError:
        raise ModelError(f"'{name}' looks like a hub id but huggingface_hub is not installed; "
                         "install it or give a directory") from None
    except Exception as error:  # network, authentication and name errors: many types, one meaning
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"'{name}' is no local directory and could not be fetched from the hub ({reason}); "
                         "check the name or give a directory") from None


def convert(
    dialect: str,
    generator: str | Path,
    discriminator: str | Path | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    classes: Sequence[str] | None = None,
    miner: str | Path | None = None,
) -> GAN:
    """Read another code base's checkpoint files into a `GAN`; what was inferred is in its `notes`.

    Args:
        dialect: "biggan-pytorch", "cgantransfer", "gan-stability", "adafm", "minegan" or "transfergan".
        generator, discriminator: ``.pth`` or ``.pt`` (read with ``weights_only=True``) or ``.safetensors`` files, or
            ``.npz`` (transfergan, whose one file may hold both; `gantransfer.dialects.wgan_gp` says how to export). The
            first may hold several networks: ``generator``, ``generator_test`` (its moving average) and
            ``discriminator``, which the second argument, where given, replaces. miner: the same, of the minegan
            dialect.
        config: the official settings as mapping or JSON path; extra keys are ignored.
        classes: names by class id; '0'..'N-1' if absent.

    Raises:
        UsageError: unknown dialect, a miner too many or too few. ModelError: files that are unsafe, broken or of
            another network.
    """
    read, settings = dialects.registered[dialect], dialects.read_settings(config)
    if (miner is not None) != (dialect in dialects.WITH_MINER):
        raise UsageError(f"dialect '{dialect}' takes {'a' if miner is None else 'no'} miner's file; " +
                         ("give it with miner (--miner FILE)" if miner is None else "leave miner out"))
    found = read_networks(generator)
    raw = found.get("generator", found.get(""))
    average, critic = found.get("generator_test"), found.get("discriminator")
    if discriminator is not None:
        given = read_networks(discriminator)
        critic = given.get("discriminator") or next(iter(given.values()))
    more = () if miner is None else (read_tensors(miner),)
    networks = read(raw if average is None else average, critic, settings, *more)
    raw_generator = None if average is None or raw is None else read(raw, None, settings, *more).generator
    return GAN(networks.generator, networks.discriminator, arch=networks.arch, classes=classes, notes=networks.notes,
               raw_generator=raw_generator)


def generator_bytes(generator: nn.Module) -> int:
    """Bytes of the generator's tensors (what its file holds, headers aside)."""
    return sum(t.numel() * t.element_size() for t in generator.state_dict().values())

