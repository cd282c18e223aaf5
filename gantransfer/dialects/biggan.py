"""Checkpoints of BigGAN-PyTorch, cGANTransfer and MineGAN (its BigGAN form).

The architecture is inferred from tensor shapes; the config adds what shapes cannot tell (epsilons) and is checked
against them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gantransfer.dialects.base import Converted, State, dialects, numbered, refuse_contradictions, setting
from gantransfer.errors import ModelError
from gantransfer.layers import weights_follow
from gantransfer.modulation import attach_official_propagation
from gantransfer.networks.biggan import (
    D_RESOLUTIONS,
    D_TABLE,
    G_TABLE,
    BigGANConfig,
    build_discriminator,
    build_generator,
)
from gantransfer.networks.mined import MinedArchitecture, MinerConfig
from gantransfer.weights import load_strictly

RESOLUTIONS = (32, 64, 128, 256)


def infer_biggan(g: State | None, d: State | None, settings: Mapping[str, Any]) -> BigGANConfig:
    """The configuration that official BigGAN tensors belong to.

    Raises:
        ModelError: the tensors are no BigGAN's, or `settings` contradicts their shapes.
    """
    if g is None:
        raise ModelError("a discriminator alone is no GAN; give the generator's file too")
    _refuse_unsupported(settings)
    found: dict[str, Any] = {
        "bn_eps": setting(settings, "BN_eps", float, 1e-5),
        "sn_eps": setting(settings, "SN_eps", float, 1e-6),
        "init": settings.get("G_init", "ortho"),
    }
    found |= _infer_generator(g)
    if d is not None:
        found |= _infer_discriminator(d, found)
    said = _said(settings, found["resolution"])
    refuse_contradictions(said, found)
    if d is None:  # what a discriminator made for this generator would be
        base = max(found["g_widths"][0] // G_TABLE[found["resolution"]][0], 1)
        found["d_widths"] = tuple(base * m for m in D_TABLE[found["resolution"]])
        found |= {k: said[k][1] for k in ("d_widths", "d_wide", "d_attention") if k in said}
    return BigGANConfig(**found)


# Settings of the official code that change what a network computes, and the only values supported.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_G_SVs": (1,), "num_D_SVs": (1,), "num_G_SV_itrs": (1,), "num_D_SV_itrs": (1,), "norm_style": ("bn",),
    "G_nl": ("relu", "inplace_relu"), "D_nl": ("relu", "inplace_relu"), "G_param": ("SN",), "D_param": ("SN",),
}


def _refuse_unsupported(settings: Mapping[str, Any]) -> None:
    for name, allowed in _SUPPORTED.items():
        if name in settings and settings[name] not in allowed:
            raise ModelError(f"config says {name} {settings[name]!r}, which is not supported; have: "
                             f"{', '.join(map(str, allowed))}")


def _said(settings: Mapping[str, Any], resolution: int) -> dict[str, tuple[str, Any]]:
    """What official settings say, in our terms: field -> (official name, value). ``g_widths`` and ``d_widths``, which
    the official code has not, stand in for ``G_ch`` and ``D_ch`` where a model left the official tables."""
    numbers = {"resolution": "resolution", "n_classes": "num_classes"}
    switches = {"hier": "hierarchical", "mybn": "standing_statistics", "D_wide": "d_wide"}
    said: dict[str, tuple[str, Any]] = {ours: (k, settings[k]) for k, ours in switches.items() if k in settings}
    said |= {ours: (k, setting(settings, k, int)) for k, ours in numbers.items() if k in settings}
    tables = {"G_ch": ("g_widths", G_TABLE), "D_ch": ("d_widths", D_TABLE)}
    for theirs, (ours, table) in tables.items():
        if settings.get(ours):
            said[ours] = ours, tuple(settings[ours])
        elif theirs in settings:
            base = setting(settings, theirs, int)
            said[ours] = theirs, tuple(base * m for m in table[resolution])
    places = {"G_attn": ("g_attention", [8 * 2**i for i in range(len(G_TABLE[resolution]) - 1)]),
              "D_attn": ("d_attention", dict.fromkeys(D_RESOLUTIONS[resolution]))}
    for theirs, (ours, possible) in places.items():
        if theirs in settings:  # "16_32"; resolutions the network has not are ignored, "0" is none
            said[ours] = theirs, tuple(r for r in possible if str(r) in str(settings[theirs]).split("_"))
    if "dim_z" in settings and "hier" in settings:
        slots = len(G_TABLE[resolution]) if settings["hier"] else 1
        said["z_dim"] = "dim_z", setting(settings, "dim_z", int) // slots * slots
    if "shared_dim" in settings and settings.get("G_shared"):  # 0 is the official code's word for dim_z
        width = setting(settings, "shared_dim", int) or setting(settings, "dim_z", int)
        if width is not None:
            said["shared_dim"] = "G_shared and shared_dim", width
    elif "G_shared" in settings and not settings["G_shared"]:
        said["shared_dim"] = "G_shared", 0
    return said


def _infer_generator(g: State) -> dict[str, Any]:
    conv1 = numbered(g, r"blocks\.(\d+)\.0\.conv1\.weight")
    needed = ["blocks.0.0.conv1.weight", "blocks.0.0.bn1.gain.weight", "linear.weight", "output_layer.2.weight"]
    needed += [f"blocks.{i}.0.conv1.weight" for i in range(len(conv1))]
    if lacking := [key for key in needed if key not in g]:
        raise ModelError(f"the generator file holds no BigGAN generator (no {lacking[0]}); "
                         "choose the dialect it was written in")
    if 4 * 2 ** len(conv1) not in RESOLUTIONS:
        raise ModelError(f"a BigGAN generator with {len(conv1)} blocks is not supported; 3 to 6 are (32 to 256 px)")
    gain = g["blocks.0.0.bn1.gain.weight"]
    shared = g.get("shared.weight")
    chunk = g["linear.weight"].shape[1]
    shared_dim = shared.shape[1] if shared is not None else 0
    hierarchical = bool(shared_dim) and gain.shape[1] > shared_dim
    return {
        "resolution": 4 * 2 ** len(conv1),
        "channels": g["output_layer.2.weight"].shape[0],
        "num_classes": (shared if shared is not None else gain).shape[0],
        "g_widths": (conv1[0].shape[1], *(conv1[i].shape[0] for i in range(len(conv1)))),
        "hierarchical": hierarchical,
        "z_dim": chunk * (len(conv1) + 1) if hierarchical else chunk,
        "shared_dim": shared_dim,
        "class_affine": "shared" if shared_dim else "table",
        "standing_statistics": "blocks.0.0.bn1.bn.stored_mean" in g,
        "g_attention": tuple(8 * 2**i for i in sorted(numbered(g, r"blocks\.(\d+)\.1\.gamma"))),
    }


def _infer_discriminator(d: State, g: Mapping[str, Any]) -> dict[str, Any]:
    conv1 = numbered(d, r"blocks\.(\d+)\.0\.conv1\.weight")
    conv2 = numbered(d, r"blocks\.(\d+)\.0\.conv2\.weight")
    if not conv2 or conv1.keys() != conv2.keys() or "linear.weight" not in d or "output_layer.2.weight" in d:
        raise ModelError("the discriminator file holds no BigGAN discriminator (blocks.i.0.conv1/conv2.weight, "
                         "linear.weight, no output layer); give the files in the right order and dialect")
    by_blocks = {len(v): r for r, v in D_RESOLUTIONS.items()}
    resolution = by_blocks.get(len(conv2))
    if resolution is None or resolution != g.get("resolution", resolution):
        raise ModelError(
            f"a BigGAN discriminator with {len(conv2)} blocks does not belong to a generator of "
            f"{g.get('resolution', 'any')} px; give the files of one model"
        )
    attention = numbered(d, r"blocks\.(\d+)\.1\.gamma")
    classes = d["embed.weight"].shape[0] if "embed.weight" in d else 0
    if g.get("num_classes", classes) != classes and classes:
        raise ModelError(f"the generator has {g['num_classes']} classes, the discriminator {classes}; "
                         "give the files of one model")
    return {
        "d_widths": tuple(conv2[i].shape[0] for i in range(len(conv2))),
        "d_wide": all(conv1[i].shape[0] == conv2[i].shape[0] for i in conv2),
        "d_attention": tuple({D_RESOLUTIONS[resolution][i]: None for i in sorted(attention)}),
    }


def _notes(config: BigGANConfig, settings: Mapping[str, Any], critic: bool) -> tuple[str, ...]:
    shown = ["resolution", "channels", "num_classes", "z_dim", "g_widths", "class_affine", "hierarchical",
             "shared_dim", "g_attention", "standing_statistics"]
    shown += ["d_widths", "d_wide", "d_attention"] if critic else []
    notes = [f"from tensor shapes: {k} = {getattr(config, k)}" for k in shown]
    if not critic:
        notes.append(f"no discriminator file: one made from scratch would have d_widths = {config.d_widths}")
    for theirs, ours in (("BN_eps", "bn_eps"), ("SN_eps", "sn_eps")):
        if theirs not in settings:
            notes.append(f"not in the files, default taken: {ours} = {getattr(config, ours)}")
    return tuple(notes)


@dialects.register("biggan-pytorch")
@weights_follow()
def biggan_pytorch(g: State, d: State | None, settings: Mapping[str, Any]) -> Converted:
    """``G.pth``/``G_ema.pth`` and ``D.pth`` of ajbrock/BigGAN-PyTorch."""
    config = infer_biggan(g, d, settings)
    generator = build_generator(config)
    if any(_TRANSFER_KEY.fullmatch(key) for key in g):
        raise ModelError("the generator file holds cGANTransfer layers (comb_layer_*); use dialect 'cgantransfer'")
    load_strictly(generator, g, "the generator file")
    notes = _notes(config, settings, d is not None)
    standing = [n for n in generator.standing_norms() if int(n.accumulation_counter) > 0]
    if standing:  # sums over several batches, useless without the division
        notes += (f"the file holds standing statistics of {int(standing[0].accumulation_counter)} batches: in use",)
    for norm in standing:
        norm.standing = True
    discriminator = None
    if d is not None:
        discriminator = build_discriminator(config)
        load_strictly(discriminator, d, "the discriminator file")
    return Converted(generator, discriminator, notes)


_TRANSFER_KEY = re.compile(
    r"(blocks\.\d+\.0\.bn[12])\.(comb_layer|prev_knowledge|z_layer|res)_([gb])\.(weight|bias|u0|sv0)"
)
_CLASS_AFFINE = re.compile(r"blocks\.\d+\.0\.bn[12]\.(gain|bias)\.")


@dialects.register("cgantransfer")
@weights_follow()
def cgantransfer(g: State, d: State | None, settings: Mapping[str, Any]) -> Converted:
    """``G.pth`` and ``D.pth`` of mshahbazi72/cGANTransfer, both flavours.

    The result generates the *target* classes with the official parametrisation still in place
    (`gantransfer.modulation.OfficialPropagation`), so that it can be trained on; `GAN.save_pretrained`
    folds it. The old classes' tables in the file, unused by that code, are left out.
    """
    own = {k: v for k, v in g.items() if not k.endswith("pretrain_embedding_w")}
    new = {k: v for k, v in own.items() if _TRANSFER_KEY.fullmatch(k)}
    if not new:
        raise ModelError(
            "the generator file holds no cGANTransfer layers (comb_layer_*); use dialect 'biggan-pytorch'"
        )
    old_settings = {**settings, "n_classes": settings.get("n_pretrain_classes")}
    if old_settings["n_classes"] is None:
        del old_settings["n_classes"]
    source = {k: v for k, v in own.items() if k not in new}
    config = infer_biggan(source, None, old_settings)
    generator = build_generator(config)
    load_strictly(generator, source, "the generator file")
    classes = new["blocks.0.0.bn1.comb_layer_g.weight"].shape[1]
    if settings.get("n_classes", classes) != classes:
        raise ModelError(f"config says n_classes {settings['n_classes']} but the tensors have {classes}; "
                         "give the config that belongs to these files or none")
    target = generator.with_class_tables(classes)
    attach_official_propagation(target, config.num_classes, spectral=config.hierarchical)
    state = {k: v for k, v in target.state_dict().items() if not _CLASS_AFFINE.match(k)}
    state |= dict(official_keys(new))
    load_strictly(target, state, "the generator file")
    discriminator = None
    if d is not None:
        d = {k.replace("new_embed.", "embed."): v for k, v in d.items()
             if not (k.startswith("embed.") and "new_embed.weight" in d)}
        found = _infer_discriminator(d, {"resolution": config.resolution, "num_classes": classes})
        refuse_contradictions(_said(settings, config.resolution), found)
        target.config = replace(target.config, **found)
        discriminator = build_discriminator(target.config)
        load_strictly(discriminator, d, "the discriminator file")
    notes = (f"cGANTransfer: {config.num_classes} source classes, {classes} target classes",)
    return Converted(target, discriminator, notes + _notes(target.config, settings, d is not None))


_MINER_KEY = re.compile(r"linear([1-8]?)\.(weight|bias|u0|sv0)")


@dialects.register("minegan")
@weights_follow()
def minegan(g: State, d: State | None, settings: Mapping[str, Any], m: State) -> Converted:
    """``G.pth``, ``D.pth`` and ``M.pth`` of yaxingwang/MineGAN's BigGAN variant: samples of u without labels.

    Its miner is two stacks of spectrally normed linear layers without activation, ``linear`` to ``linear4`` for z and
    ``linear5`` to ``linear8`` for the class embedding. The miner's own ``shared`` table is unused there and left out.
    """
    networks = biggan_pytorch(g, d, settings)
    config = networks.generator.config
    if not config.shared_dim:
        raise ModelError("the miner's labels are a shared class embedding and the generator's file has none; give the "
                         "generator that was mined")
    state = {}
    for key, tensor in m.items():
        found = _MINER_KEY.fullmatch(key)
        if found is None:
            if key != "shared.weight":
                raise ModelError(f"the miner file holds '{key}', which no MineGAN miner has; give M.pth")
            continue
        number = int(found[1] or 1) - 1
        state[f"miners.0.{'latent' if number < 4 else 'label'}.{number % 4}.{found[2]}"] = tensor
    miner = MinerConfig(config.z_dim, config.z_dim, 4, config.z_dim, "none", True, "embedding", config.shared_dim,
                        config.sn_eps)
    mined = MinedArchitecture.around([networks.generator], ["biggan"], [miner])
    kept = {f"sources.0.{key}": tensor for key, tensor in networks.generator.state_dict().items()}
    load_strictly(mined, {**kept, **state}, "the miner file")
    notes = (f"MineGAN: a miner of {config.z_dim} entries before a generator of {config.num_classes} classes, whose "
             "condition it mines", *networks.notes)
    return Converted(mined, networks.discriminator, notes, "mined")


def official_keys(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """cGANTransfer's names and layouts -> those of `OfficialPropagation` (residuals are transposed)."""
    parts = {"comb_layer": "parametrizations.weight.0.scores", "prev_knowledge": "parametrizations.weight.0.prior",
             "z_layer": "noise"}
    renamed = []
    for key, tensor in state.items():
        norm, layer, which, what = _TRANSFER_KEY.fullmatch(key).groups()
        table = f"{norm}.{'gain' if which == 'g' else 'bias'}"
        if layer == "res":
            renamed.append((f"{table}.parametrizations.weight.original", tensor.t().contiguous()))
        else:
            renamed.append((f"{table}.{parts[layer]}.{what}", tensor))
    return renamed
