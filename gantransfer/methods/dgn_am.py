"""DGN-AM: codes of a frozen generator are moved until a classifier's unit is as active as it gets.

Paper: Nguyen, Dosovitskiy, Yosinski, Brox, Clune, "Synthesizing the preferred inputs for neurons in neural networks via
deep generator networks", NIPS 2016. h* = argmax_h phi_y(G(h)) - lambda |h|^2, phi_y the classifier's output
for the class before the softmax, by gradient ascent from a random code, entries limited to a few standard deviations.
In the notation of its successor (see method ppgn): e1 is the decay, e2 the step along the gradient, e3 = 0.

A baseline of the MineGAN and cGANTransfer papers, which give no settings; those here were found on Glyph-100.

Differs from the original:

* The generator is a GAN's and its code the latent (and a mix of the source's classes, see
  `gantransfer.networks.steered`), not the features fc6 of a network trained to invert them.
* The classifier knows the target's classes and, as the papers' know a thousand others, a class for everything that the
  source draws by itself (``background``). Without it the ascent finds images that fool it: in four settings on
  cyrillic10, 1 to 6 % of 80 samples were recognised by ``glyph-cnn``, with it 29 to 44 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gantransfer.extension import Choices
from gantransfer.registry import register_method
from gantransfer.steering import Steering


@register_method("dgn-am")
@dataclass(frozen=True)
class DGNAM(Steering):
    """Activation maximisation in code space, decayed and clipped.

    Attributes:
        clip: entries of the code stay within so many standard deviations; 0: no limits.
        objective: what goes up, the class's "logit" or its "log-probability".
    """

    clip: float = 3.0
    objective: str = "logit"

    name: ClassVar[str] = "dgn-am"
    choices: ClassVar[Choices] = {"objective": ("logit", "log-probability")}

    def sampling(self) -> dict[str, Any]:
        return {"prior": "gaussian", "objective": self.objective, "clip": self.clip}
