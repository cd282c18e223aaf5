"""Checkpoints of Transferring-GANs (TensorFlow 1), read into gantransfer's WGAN-GP networks.

A TensorFlow checkpoint is exported to one ``.npz`` of its variables, in an environment that has TensorFlow::

    import numpy, tensorflow as tf
    reader = tf.train.load_checkpoint("transfer_model/unconditional/imagenet/wgan-gp.model")
    numpy.savez("imagenet.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})

Variables are those of networks called ``Generator`` and ``Discriminator``, convolutions [height, width, in, out],
linear layers [in, out]; anything else in the file (optimiser slots) is left out. Images, latents and labels are as
published, so is the order of maps flattened to vectors: channels, rows, columns.

The published code normalises with the batch's statistics in sampling too and its checkpoints hold no others (moving
averages exist and are never updated). Running averages are therefore estimated here, from 8 batches of 64 latents drawn
from seed 0; with ``{"statistics": "batch"}`` as config the published behaviour stays instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gantransfer.dialects.base import Converted, State, dialects, numbered, refuse_contradictions, setting
from gantransfer.errors import ModelError
from gantransfer.layers import weights_follow
from gantransfer.networks.wgan_gp import STATISTICS, WGANGPConfig, build_discriminator, build_generator
from gantransfer.weights import load_strictly

# Parts of published names -> ours, for G and D. A critic's layer norms are called BN there.
_NAMES = {
    "Input": "input", "Output": "output", "OutputN": "output_norm", "ACGANOutput": "classifier",
    "Shortcut": "shortcut", "Conv1": "conv1", "Conv2": "conv2", "BN1": "norm1", "BN2": "norm2",
}
_VARIABLE = re.compile(r"(Generator|Discriminator)\.(?:Res(\d)\.)?(\w+)\.(\w+)(?::0)?")


@dialects.register("transfergan")
@weights_follow()
def transfergan(g: State, d: State | None, settings: Mapping[str, Any]) -> Converted:
    """yaxingwang/Transferring-GANs: one ``.npz`` of variables, or one per network; see the module for the export.

    Unconditional and 'Cond BNorm' generators, critics with and without the auxiliary classifier.
    """
    variables = {**(g or {}), **(d or {})}
    config = infer_wgan_gp(variables, settings)
    generator = build_generator(config)
    state = {k: v for k, v in generator.state_dict().items() if k.endswith(("stored_mean", "stored_var"))}
    load_strictly(generator, {**state, **_ours(variables, "Generator")}, "the generator file")
    notes = [f"from variable shapes: {name} = {getattr(config, name)}"
             for name in ("resolution", "channels", "num_classes", "z_dim", "width")]
    if config.statistics == "running":
        generator.estimate_statistics()
        notes.append("running averages estimated from 512 latents; config {'statistics': 'batch'} has the published "
                     "batch statistics")
    critic = _ours(variables, "Discriminator")
    discriminator = None
    if critic:
        discriminator = build_discriminator(config)
        load_strictly(discriminator, critic, "the discriminator's variables")
    return Converted(generator, discriminator, tuple(notes), "wgan_gp")


def infer_wgan_gp(variables: State, settings: Mapping[str, Any]) -> WGANGPConfig:
    """The configuration that published variables belong to.

    Raises:
        ModelError: they are none of a Transferring-GANs generator, or `settings` contradicts their shapes.
    """
    state = {name.removesuffix(":0"): tensor for name, tensor in variables.items()}
    for name in ("Generator.Input.W", "Generator.Output.Filters", "Generator.Res1.BN1.scale"):
        if name not in state:
            raise ModelError(f"the generator file holds no Transferring-GANs generator (no {name}); export its "
                             "variables as the dialect's module says, or choose the dialect the file was written in")
    scale = state["Generator.Res1.BN1.scale"]
    per_part = {part: len(numbered(state, rf"Generator\.Res(\d)\.{part}")) for part in
                ("BN1.scale", "Conv1.Filters", "Conv2.Filters")}
    blocks = max(per_part.values())
    for part, count in per_part.items():
        if count < blocks:
            raise ModelError(f"the generator's variables are incomplete ({blocks} blocks, but {count} of "
                             f"Generator.Res*.{part}); export all of them")
    found = {
        "resolution": 4 * 2**blocks, "channels": state["Generator.Output.Filters"].shape[3],
        "num_classes": scale.shape[0] if scale.dim() == 2 else 0, "z_dim": state["Generator.Input.W"].shape[0],
        "width": state["Generator.Output.Filters"].shape[2],
    }
    names = {"DIM": "width", "N_CLASSES": "num_classes", "resolution": "resolution", "z_dim": "z_dim"}
    refuse_contradictions({ours: (theirs, setting(settings, theirs, int)) for theirs, ours in names.items()
                           if theirs in settings}, found)
    head = state.get("Discriminator.ACGANOutput.b")
    classes = 0 if head is None else len(head)
    if "Discriminator.Output.W" in state and classes != found["num_classes"]:
        raise ModelError(f"the generator has {found['num_classes'] or 'no'} classes, the discriminator "
                         f"{classes or 'none'}; give the files of one model")
    statistics = str(settings.get("statistics", STATISTICS[0]))
    return WGANGPConfig(**found, statistics=statistics)


def _ours(variables: State, network: str) -> State:
    """The variables of `network` under our names and in our layouts; moving averages, never updated, are left out."""
    found: State = {}
    for name, tensor in variables.items():
        match = _VARIABLE.fullmatch(name)
        if match is None or match[1] != network:
            continue
        block, part, kind = match[2], match[3], match[4]
        if kind in ("moving_mean", "moving_variance"):
            continue
        if part not in _NAMES:
            raise ModelError(f"variable '{name}' is of no network known here; export the variables of the published "
                             "model alone")
        where = _NAMES[part]
        if block is not None:
            where = f"{'blocks' if network == 'Generator' else 'residual'}.{int(block) - 1}.{where}"
        key, value = _entry(network, kind, tensor)
        found[f"{where}.{key}"] = value.contiguous()
    return found


def _entry(network: str, kind: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Our name and layout of one variable of a layer."""
    if kind == "Filters":
        return "weight", tensor.permute(3, 2, 0, 1)
    if kind == "W":
        return "weight", tensor.t()
    if kind in ("Biases", "b"):
        return "bias", tensor
    if kind not in ("scale", "offset"):
        raise ModelError(f"a layer's variable '{kind}' is known neither here nor in the published code; export the "
                         "variables of the published model alone")
    if network == "Discriminator":
        return ("weight" if kind == "scale" else "bias"), tensor
    if tensor.dim() == 2:  # a row per class, as an offset from 1
        return ("gain.weight", tensor - 1) if kind == "scale" else ("bias.weight", tensor)
    return ("gain" if kind == "scale" else "bias"), tensor
