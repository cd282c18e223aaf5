"""Checkpoints of GAN_stability (GP-GAN) and GANTransferLimitedData (AdaFM), read into gantransfer's networks.

Everything is inferred from names and shapes; a config is checked against them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gantransfer.dialects.base import Converted, State, dialects, numbered, refuse_contradictions, setting
from gantransfer.errors import ModelError
from gantransfer.filter_modulation import filters, modulate
from gantransfer.networks.gp_gan import VARIANTS, GPGANConfig, build_discriminator, build_generator
from gantransfer.weights import load_strictly

# Official names of a configuration's entries -> ours, for G and D.
_NAMES = {"z_dim": "z_dim", "size": "resolution", "embed_size": "embed_dim"}


def _said(settings: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """What a config says, in our terms: field -> (official name, value). Entries stand in ``generator`` and
    ``discriminator``, in ``config``, or at the top."""
    def part(name: str) -> dict[str, Any]:
        inner = settings.get(name)
        return dict(inner) if isinstance(inner, Mapping) else {}

    of_g, of_d = ({**settings, **part("config"), **part(name)} for name in ("generator", "discriminator"))
    said = {ours: (theirs, setting(of_g, theirs, int)) for theirs, ours in _NAMES.items() if theirs in of_g}
    for found, width in ((of_g, "g_width"), (of_d, "d_width")):
        if "nfilter" in found:
            said[width] = "nfilter", setting(found, "nfilter", int)
    if "nlabels" in of_g:
        labels = setting(of_g, "nlabels", int)
        said["num_classes"] = "nlabels", labels if labels > 1 else 0
    if settings.get("arch") in VARIANTS:
        said["variant"] = "arch", settings["arch"]
    for found, most in ((of_g, "g_max"), (of_d, "d_max")):
        if "nfilter_max" in found:
            said[most] = "nfilter_max", setting(found, "nfilter_max", int)
    return said


def _check(config: GPGANConfig, said: Mapping[str, tuple[str, Any]], critic: bool) -> None:
    """Refuse a config that belongs to other tensors. Limits of widths count in variant "resnet" alone, and there only
    where they bite."""
    ignored = {"g_max", "d_max"} | (set() if critic else {"d_width"})
    refuse_contradictions({k: v for k, v in said.items() if k not in ignored},
                          {k: getattr(config, k) for k in said})


def _variant(state: State) -> str:
    names = "\n".join(state)
    for pattern, variant in ((r"^resnet\.0\.", "resnet"), (r"^resnet_5_1\.", "resnet2"), (r"^resnet_6_0\.", "resnet4"),
                             (r"^resnet_5_0\.", "resnet3")):
        if re.search(pattern, names, re.MULTILINE):
            return variant
    raise ModelError("the file holds no GP-GAN network (resnet.0 or resnet_5_0); choose the dialect it was written in")


def _need(state: State, names: tuple[str, ...], what: str) -> None:
    if lacking := [name for name in names if name not in state]:
        raise ModelError(f"the {what} file holds no GP-GAN {what} (no {lacking[0]}); give the files in the right order "
                         "and dialect")


def infer_gp_gan(g: State | None, d: State | None, settings: Mapping[str, Any]) -> GPGANConfig:
    """The configuration that official GP-GAN tensors belong to.

    Raises:
        ModelError: the tensors are no GP-GAN's, or `settings` contradicts their shapes.
    """
    if g is None:
        raise ModelError("a discriminator alone is no GAN; give the generator's file too")
    _need(g, ("embedding.weight", "fc.weight", "conv_img.weight"), "generator")
    said, variant = _said(settings), _variant(g)
    labels, embed = g["embedding.weight"].shape
    first = g["resnet.0.conv_0.weight" if variant == "resnet" else "resnet_0_0.conv_0.weight"].shape[1]
    side = math.isqrt(g["fc.weight"].shape[0] // first)
    blocks = len(numbered(g, r"resnet\.(\d+)\.conv_0\.weight"))
    layout = VARIANTS[variant]
    resolution = 4 * 2 ** (blocks - 1) if layout is None else side * layout.least
    config = GPGANConfig(
        variant=variant, resolution=resolution, channels=g["conv_img.weight"].shape[0],
        num_classes=labels if labels > 1 else 0, z_dim=g["fc.weight"].shape[1] - embed, embed_dim=embed,
        g_width=g["conv_img.weight"].shape[1],
    )
    config = _with_limit(config, "g", first, said)
    config = _with_discriminator(config, d, said) if d is not None else replace(config, d_width=config.g_width)
    _check(config, said, d is not None)
    return config


def _with_limit(config: GPGANConfig, net: str, widest: int, said: Mapping[str, tuple[str, Any]]) -> GPGANConfig:
    """`config` with the limit of the widths that its widest layer shows, else the one the settings or the published
    defaults give."""
    most = said.get(f"{net}_max", ("", getattr(config, f"{net}_max")))[1]
    free = getattr(config, f"{net}_width") * max(getattr(config.layout, net))
    return replace(config, **{f"{net}_max": widest if widest < free else max(most, widest)})


def _with_discriminator(config: GPGANConfig, d: State, said: Mapping[str, tuple[str, Any]]) -> GPGANConfig:
    _need(d, ("conv_img.weight", "fc.weight"), "discriminator")
    if "embedding.weight" in d or _variant(d) != config.variant:
        raise ModelError(f"the discriminator file does not belong to a generator of variant '{config.variant}'; give "
                         "the files of one model")
    config = replace(config, d_width=d["conv_img.weight"].shape[0])
    config = _with_limit(config, "d", d["fc.weight"].shape[1] // config.first_side**2, said)
    if d["fc.weight"].shape[0] != config.rows:
        raise ModelError(f"the generator has {config.rows} labels, the discriminator {d['fc.weight'].shape[0]}; give "
                         "the files of one model")
    return config


def _notes(config: GPGANConfig, critic: bool) -> tuple[str, ...]:
    shown = ["variant", "resolution", "channels", "num_classes", "z_dim", "embed_dim", "g_width"]
    shown += ["d_width"] if critic else []
    return tuple(f"from tensor shapes: {name} = {getattr(config, name)}" for name in shown)


@dialects.register("gan-stability")
def gan_stability(g: State, d: State | None, settings: Mapping[str, Any]) -> Converted:
    """LMescheder/GAN_stability: one ``.pt`` with generator, discriminator and generator_test (the moving average), or
    one state dict per file."""
    config = infer_gp_gan(g, d, settings)
    generator = build_generator(config)
    load_strictly(generator, g, "the generator file")
    discriminator = None
    if d is not None:
        discriminator = build_discriminator(config)
        load_strictly(discriminator, d, "the discriminator file")
    return Converted(generator, discriminator, _notes(config, d is not None), "gp_gan")


# Names of the published style head and modulation -> ours.
_ADAFM = (
    (r"small_embedding\.", "embedding."), (r"small_fc\.", "specific.fc."),
    (r"small_net_(\d+)\.", lambda m: f"specific.blocks.{int(m[1]) - 2}."),
    (r"(\.conv_1)\.conv\.", r"\1."), (r"(\.adain_\d)\.style\.linear\.", r"\1.linear."),
    (r"small_style\.(\d+)\.linear\.", lambda m: f"specific.mapping.{int(m[1]) // 2}."),
    (r"small_H\.", "specific.norm."),
    (r"^(resnet_\d_\d\.conv_\d)\.weight$", r"\1.parametrizations.weight.original"),
    (r"small_adafm_(\d)\.style_gama", r"conv_\1.parametrizations.weight.0.gamma"),
    (r"small_adafm_(\d)\.style_beta", r"conv_\1.parametrizations.weight.0.beta"),
)


def adafm_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` of a published AdaFM generator under the names it has here."""
    found = {}
    for key, value in state.items():
        for pattern, name in _ADAFM:
            key = re.sub(pattern, name, key)
        found[key] = value
    return found


@dialects.register("adafm")
def adafm(g: State, d: State | None, settings: Mapping[str, Any]) -> Converted:
    """MiaoyunZhao/GANTransferLimitedData: the style head with scaled junction and clamped gradients, on modulated
    groups.

    The modulation is still in place, so that it can be trained on; `GAN.save_pretrained` folds it. Labels, which that
    code embeds and does not use, are left out.
    """
    _need(g, ("small_fc.weight", "small_embedding.weight", "small_style.1.linear.weight", "small_net_2.conv_0.weight",
              "conv_img.weight"),
          "style-head generator")
    groups = sorted(numbered(g, r"resnet_(\d)_0\.conv_0\.weight"))
    blocks = len(numbered(g, r"small_net_(\d+)\.conv_0\.weight"))
    channels = g["small_net_2.conv_0.weight"].shape[0]
    start = math.isqrt(g["small_fc.weight"].shape[0] // channels)
    layout = VARIANTS["resnet2"]
    first = groups[0] if groups else len(layout.g) - 1
    junction = start * 2**blocks
    resolution = layout.least * (junction if first == 0 else junction // 2 ** (first - 1))
    config = GPGANConfig(
        variant="resnet2", resolution=resolution, channels=g["conv_img.weight"].shape[0], num_classes=0,
        z_dim=g["small_fc.weight"].shape[1], embed_dim=g["small_embedding.weight"].shape[1],
        g_width=g["conv_img.weight"].shape[1], d_width=g["conv_img.weight"].shape[1], general=len(layout.g) - first,
        style_blocks=blocks, style_dim=g["small_style.1.linear.weight"].shape[0],
        mapping_layers=len(numbered(g, r"small_style\.(\d+)\.linear\.weight")), scaled_norm="small_H.weight" in g,
        clamp=True,
    )
    if d is not None:
        _need(d, ("conv_img.weight", "fc.weight"), "discriminator")
        config = replace(config, d_width=d["conv_img.weight"].shape[0])
    said = {k: v for k, v in _said(settings).items() if k not in ("num_classes", "variant")}
    _check(config, said, d is not None)
    generator = build_generator(config)
    for group in generator.blocks[blocks:]:
        for _, convolution in filters(group):
            modulate(convolution, "adafm")
    own = adafm_names(g)
    del own["embedding.weight"]
    load_strictly(generator, own, "the generator file")
    discriminator = None
    if d is not None:
        d = {**d, "fc.weight": d["fc.weight"][:1], "fc.bias": d["fc.bias"][:1]}
        discriminator = build_discriminator(config)
        load_strictly(discriminator, d, "the discriminator file")
    notes = (f"AdaFM: style head above G{config.general}, filters modulated", *_notes(config, d is not None))
    return Converted(generator, discriminator, notes, "gp_gan")
