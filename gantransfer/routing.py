"""What generators share: their settings' names, and norm layers to which adapters can add classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gantransfer.latents import latent_prior
from gantransfer.layers import weights_follow
from gantransfer.norm import RoutedNorm


class ConfiguredGenerator(nn.Module):
    """What a generator's `config` says, where every method and the trainer look for it."""

    config: Any

    @property
    def z_dim(self) -> int:
        """Length of the latent."""
        return self.config.z_dim

    @property
    def num_classes(self) -> int:
        """Classes; 0 is a generator without them."""
        return self.config.num_classes

    @property
    def num_base_classes(self) -> int:
        """Classes without those of adapters added by `ExtendableGenerator.extended`."""
        return self.config.num_classes - sum(getattr(self.config, "extensions", ()))

    def set_sampling_prior(self, text: str) -> None:
        """Draw latents from what `text` says, see `gantransfer.latents.latent_prior`, from now on."""
        self.prior = latent_prior(text)
        self.config = replace(self.config, sampling_prior=text)


class ExtendableGenerator(ConfiguredGenerator):
    """A generator whose norm layers may hold the classes of adapters (`gantransfer.norm.RoutedNorm`).

    Its `config` has ``num_classes`` and ``extensions``, the class counts of the adapters among them.
    """

    def rebuilt(self, config: Any) -> ExtendableGenerator:
        """A freshly initialised network of this kind with another `config`, in eval mode, on the CPU."""
        raise NotImplementedError

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of every norm layer: what an adapter of a frozen generator may own."""
        raise NotImplementedError

    def standing_norms(self) -> list[Any]:
        """Norm layers with standing statistics."""
        return []

    def beside_base(self) -> list[nn.Module]:
        """What may change while the base model stays: of an extended generator the adapters' norms, else itself."""
        return [part for _, norm in self.norms() for part in getattr(norm, "adapters", ())] or [self]

    def base(self) -> ExtendableGenerator:
        """A copy without the classes added by `extended`."""
        config = replace(
            self.config, num_classes=self.config.num_classes - sum(self.config.extensions), extensions=()
        )
        with weights_follow():
            base = self.rebuilt(config)
        state, own = {}, dict(self.named_modules())
        for key, tensor in self.state_dict().items():
            parts = key.split(".")
            routed = [i for i in range(1, len(parts)) if isinstance(own.get(".".join(parts[:i])), RoutedNorm)]
            if not routed:
                state[key] = tensor
            elif parts[routed[0]] == "source":
                state[".".join(parts[: routed[0]] + parts[routed[0] + 1 :])] = tensor
        base.load_state_dict(state)
        standing = any(norm.standing for norm in self.standing_norms())
        for norm in base.standing_norms():
            norm.standing = standing and bool(norm.accumulation_counter > 0)
        return base.train(self.training)

    def state_before(self, adapters: int) -> dict[str, Tensor]:
        """`state_dict` as it was when only the first `adapters` (at least 1) adapters had been added."""
        later = tuple(f"{name}.adapters.{i}." for name, norm in self.norms()
                      for i in range(adapters, len(norm.adapters)))
        return {key: tensor for key, tensor in self.state_dict().items() if not key.startswith(later)}

    def extended(self, norms: Mapping[str, nn.Module], classes: int) -> ExtendableGenerator:
        """A deep copy with `classes` more classes, whose norm layers are `norms` by name."""
        config = replace(
            self.config,
            num_classes=self.config.num_classes + classes,
            extensions=(*self.config.extensions, classes),
        )
        extended = copy.deepcopy(self)
        extended._append_norms(norms, classes)
        extended.config = config
        return extended.train(self.training)

    def _append_norms(self, norms: Mapping[str, nn.Module], classes: int) -> None:
        own = max(self.config.num_classes - sum(self.config.extensions), 1)
        device = next(self.parameters()).device
        for name, norm in list(self.norms()):
            if not isinstance(norm, RoutedNorm):
                norm = RoutedNorm(norm, [own], [])
                parent, _, last = name.rpartition(".")
                holder = self.get_submodule(parent)
                if isinstance(holder, nn.ModuleList):
                    holder[int(last)] = norm
                else:
                    setattr(holder, last, norm)
            norm.append(norms[name].to(device), classes)


def drawn_by(key: Tensor, source: nn.Module, z: Tensor, condition: Any) -> Tensor:
    """Images of `source` from z [N, z_dim] and its labels. A style head's noise is seeded by `key` [N, any]: z that
    were computed are numbers whose last digits depend on the batch, and one key is to give one image in every batch."""
    if getattr(source, "style_sites", 0):
        return source(z, condition, noise=source.noise(key))
    return source(z, condition)
