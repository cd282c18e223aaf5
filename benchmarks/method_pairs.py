"""Which methods work on which networks, as Markdown: "yes", or what the library says instead.

    python benchmarks/method_pairs.py > results/baselines/pairs.md

Every method with its defaults on a tiny network of every kind, before any image is read, as `adapt` checks it. That a
"yes" holds (the source untouched, only declared groups move, adapter, merge, resume) is tested in
`tests/test_methods.py`.
"""

from __future__ import annotations

import torch

import gantransfer.methods  # noqa: F401  (registers them)
from gantransfer import api
from gantransfer.errors import GanTransferError
from gantransfer.registry import architectures, methods
from gantransfer.sources import GAN

NETWORKS = {
    "BigGAN, a class table per layer": ("biggan", {}),
    "BigGAN, shared embedding": ("biggan", {"class_affine": "shared", "shared_dim": 6}),
    "BigGAN, hierarchical z": ("biggan", {"class_affine": "shared", "shared_dim": 6, "hierarchical": True}),
    "BigGAN, no classes": ("biggan", {"num_classes": 0}),
    "GP-GAN": ("gp_gan", {}),
    "GP-GAN, no classes": ("gp_gan", {"num_classes": 0}),
    "WGAN-GP ResNet, classes in norms": ("wgan_gp", {}),
    "WGAN-GP ResNet, classes beside z": ("wgan_gp", {"conditioning": "concat"}),
    "WGAN-GP ResNet, no classes": ("wgan_gp", {"num_classes": 0}),
}


def pairs() -> dict[str, dict[str, str]]:
    """method -> network -> "" or the refusal."""
    found: dict[str, dict[str, str]] = {method: {} for method in methods}
    for network, (name, settings) in NETWORKS.items():
        arch = architectures[name]
        config = arch.tiny(**settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            gan = GAN(arch.build_generator(config), arch.build_discriminator(config), arch=name)
        for method in methods:
            try:
                api.check_fit(gan, method, {})
                found[method][network] = ""
            except GanTransferError as error:
                found[method][network] = str(error)
    return found


def markdown() -> str:
    """The table, and below it every refusal with the pairs that it is the answer to."""
    found = pairs()
    lines = ["| method | " + " | ".join(NETWORKS) + " |", "|---" * (1 + len(NETWORKS)) + "|"]
    reasons: dict[str, list[str]] = {}
    for method, of in found.items():
        for network, text in of.items():
            if text:
                reasons.setdefault(text, []).append(f"{method} on {network}")
        numbers = {network: list(reasons).index(text) + 1 for network, text in of.items() if text}
        cells = (f"[{numbers[network]}]" if text else "yes" for network, text in of.items())
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    told = [f"{number}. {text} ({'; '.join(of)})" for number, (text, of) in enumerate(reasons.items(), 1)]
    return "\n".join([*lines, "", *told])


if __name__ == "__main__":
    print(markdown())
