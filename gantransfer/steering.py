"""What the methods that sample iteratively have in common: a classifier of the target's classes before a frozen source,
and the phases that train it and the prior of codes (see `gantransfer.networks.steered` for the sampling)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from gantransfer.augment import diff_augment
from gantransfer.errors import ModelError, UsageError
from gantransfer.extension import Choices, check_choices, one_source, seeded
from gantransfer.losses import NO_CRITIC
from gantransfer.plan import Batch, Group, Losses, Phase, Plan, Source, Target
from gantransfer.registry import architectures
from gantransfer.weights import load_strictly, read_json, read_tensors

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Steering:
    """A frozen source, a classifier, and updates of codes.

    Attributes:
        iterations: updates of a code before it is drawn. prior_step, class_step: e1 and e2, the weights of the prior's
            and the classifier's gradient.
        classifier: file of a trained one (or a run that has one, of the same classes and width); "": trained here, on
            the target's images. classifier_width: channels after its first layer.
        background: it tells the source's images apart from all classes too, as a class of their own.
        lr_classifier: Adam rate (betas 0.9 and 0.99).
        init_seed: seed of everything newly drawn; a run's own seed unless given.
    """

    iterations: int = 40
    prior_step: float = 0.02
    class_step: float = 0.2
    classifier: str = ""
    classifier_width: int = 32
    background: bool = True
    lr_classifier: float = 1e-3
    init_seed: int = 0

    choices: ClassVar[Choices] = {}
    name: ClassVar[str] = ""
    unused: ClassVar[Mapping[str, str]] = NO_CRITIC
    files: ClassVar[tuple[str, ...]] = ("classifier",)
    slow_to_sample: ClassVar[bool] = True  # a run looks at its start and its end alone unless told otherwise
    reads_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("iterations", "classifier_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not possible; give 1 or more")

    def on_stand_in(self) -> Steering:
        """Itself for a target that is not the real one: a given classifier is looked for, its classes are not
        compared (ModelError if it is not there)."""
        if self.classifier:
            _classifier_tensors(Path(self.classifier).expanduser())
        return replace(self, classifier="")

    def sampling(self) -> dict[str, Any]:
        """Settings of `SteeredConfig` beside those of this class."""
        raise NotImplementedError

    def reshape(self, sources: Sequence[Source], target: Target) -> nn.Module:
        """A copy of the source's generator behind a fresh classifier and prior."""
        source = one_source(sources, self.name)
        if not target.num_classes:
            raise UsageError(f"method '{self.name}' draws classes and the target has none; pass --class-name NAME for "
                             "a flat folder")
        if target.num_classes == 1 and not self.background:
            raise UsageError("a classifier of one class has nothing to tell apart; leave background on")
        with seeded(self.init_seed):
            return architectures["steered"].around(
                copy.deepcopy(source.generator), source.config["arch"], num_classes=target.num_classes,
                background=self.background, iterations=self.iterations, prior_step=self.prior_step,
                class_step=self.class_step, classifier_width=self.classifier_width, **self.sampling(),
            )

    def plan(self, generator: nn.Module, sources: Sequence[Source], target: Target, loss: Any) -> Plan:
        """The classifier, unless it is given, and the prior; `loss`, which is a critic's, plays no part."""
        groups, phases = {}, []
        if self.classifier:
            load_classifier(generator, Path(self.classifier).expanduser(), target.classes)
        else:
            groups["C"] = Group(list(generator.classifier.parameters()), self.lr_classifier, BETAS)
            phases.append(Phase("C", ("C",), self._classifier_loss(generator)))
        known = "the source's own images as one more class" if self.background else "no others"
        made = f"from {self.classifier}" if self.classifier else "trained here"
        notes = (f"classifier of {target.num_classes} classes, {known}; {made}", "generator fixed, no discriminator",
                 f"each image is the end of {self.iterations} updates of a code of {generator.z_dim} entries")
        return Plan(groups, phases, nn.ModuleDict(), fixed=[generator.source], notes=notes)

    def _classifier_loss(self, generator: nn.Module) -> Any:
        augment = diff_augment("translation")
        classification = architectures["steered"].classification

        def loss(batch: Batch) -> Losses:
            others = generator.image(batch.z[: max(1, len(batch.z) // 2)]) if self.background else None
            if others is not None:
                others = augment(others.detach(), batch.rng)
            entropy, right = classification(generator, augment(batch.images, batch.rng), batch.labels, others)
            return Losses({"classes": entropy}, {"accuracy": right})

        return loss


def load_classifier(generator: nn.Module, path: Path, classes: Sequence[str]) -> None:
    """Give `generator` the classifier of a tensor file, or of a run's or an adapter's directory.

    Raises:
        ModelError: none is there, it is another network's, or one of other classes.
    """
    tensors, path = _classifier_tensors(path)
    card = path.parent / "adapter_config.json"
    known = read_json(card).get("classes") if card.is_file() else None
    if known is not None and list(known) != list(classes):
        raise ModelError(f"the classifier in '{path}' knows {' '.join(map(str, known))} and the target has "
                         f"{' '.join(classes)}; give one of the same classes in the same order")
    named = {k.removeprefix("classifier."): v for k, v in tensors.items() if k.startswith("classifier.")}
    load_strictly(generator.classifier, named or tensors, f"classifier '{path}'")


def _classifier_tensors(path: Path) -> tuple[dict[str, Tensor], Path]:
    """A file's tensors, or a run's or an adapter's, and where they are."""
    if path.is_dir():
        path = path / "adapter" if (path / "adapter").is_dir() else path
        path = path / "adapter_model.safetensors"
    return read_tensors(path), path
