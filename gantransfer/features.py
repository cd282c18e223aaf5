"""Feature extractors: images in, feature vectors (and class probabilities where there is a classifier) out.

``load_features("name")`` or ``load_features("name:/local/path")``. A set of features is named for what it is:

- ``glyph-cnn``: the small classifier of the 100 Glyph-100 letters that ships with the package; offline and
  cheap;
- ``random-conv``: a fixed, untrained network; offline, for images of any kind and colour, and coarse;
- ``inception:FILE``: the Inception-v3 behind the published FID, from a weights file of yours;
- ``dinov2:FOLDER``, ``clip:FOLDER``: transformers from a local folder (extra ``gantransfer[features]``).

Nothing is ever downloaded. Adding an extractor is a file with
``@register_features("name") def build(path, device) -> Extractor``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantransfer.errors import ModelError, UsageError
from gantransfer.registry import features as registry
from gantransfer.registry import register_features
from gantransfer.weights import state_sha256

SHIPPED = Path(__file__).parent / "shipped" / "features"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@runtime_checkable
class Extractor(Protocol):
    """What `gantransfer.evaluate` needs of a feature extractor.

    Attributes:
        name: as registered; only ``inception`` makes a distance an FID.
        identity: name and the first 8 hex digits of the weights' sha256; equal identity, equal features.
        resize: side in px the images are resized to.
        dim: length of a feature vector.
        classes: names of the classifier's classes; empty if they have no names.
        device: where the features are made and kept.
    """

    name: str
    identity: str
    resize: int
    dim: int
    classes: tuple[str, ...]
    device: torch.device

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 [N, C, H, W] -> (features float32 [N, dim], probabilities float32 [N, K] or None)."""
        ...


@dataclass(eq=False)
class NetworkExtractor:
    """An `Extractor` around a network; it keeps the network in eval mode and computes without gradients.

    Attributes:
        network: float32 [N, c, resize, resize] -> (features [N, dim], logits [N, K] or None).
        channels: 1 (mean over colour channels) or 3 (grey is repeated).
        mean, std: per channel, applied to values in [0, 1].
        mode, antialias: the resizing filter; images of the right size are left alone.
        batch_size: images per forward; it does not change the result beyond rounding.
    """

    name: str
    network: nn.Module
    sha256: str
    resize: int
    dim: int
    channels: int = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    mode: str = "bilinear"
    antialias: bool = True
    classes: tuple[str, ...] = ()
    batch_size: int = 128
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.device = torch.device(self.device)
        self.network = self.network.to(self.device).eval().requires_grad_(False)

    @property
    def identity(self) -> str:
        return f"{self.name}@{self.sha256[:8]}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features and probabilities of images uint8 [N, C, H, W], C 1 or 3.

        Raises:
            UsageError: other dtype or shape.
            ModelError: the network gives non-finite features.
        """
        check_images(images)
        self.network.eval()  # nobody outside may leave it in train mode: that has falsified published FIDs
        features, probabilities = [], []
        for start in range(0, len(images), self.batch_size):
            found, logits = self.network(self.prepare(images[start : start + self.batch_size]))
            features.append(found.float())
            if logits is not None:
                probabilities.append(logits.float().softmax(1))
        if not features:
            return torch.empty(0, self.dim, device=self.device), None
        out = torch.cat(features)
        if not bool(torch.isfinite(out).all()):
            raise ModelError(f"features {self.identity} are not finite; replace the broken weights file")
        return out, torch.cat(probabilities) if probabilities else None

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> float32 [N, channels, resize, resize], normalised."""
        x = images.to(self.device).float() / 255
        if self.channels == 1:
            x = x.mean(1, keepdim=True)
        elif x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if x.shape[-2:] != (self.resize, self.resize):
            size = (self.resize, self.resize)
            x = F.interpolate(x, size, mode=self.mode, antialias=self.antialias, align_corners=False)
            x = x.clamp(0, 1)  # bicubic overshoots
        mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


def check_images(images: Tensor) -> None:
    """Refuse everything but uint8 [N, 1 or 3, H, W]."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        got = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"images are {got}; features need a uint8 tensor [N, C, H, W]")
    if images.shape[1] not in (1, 3):
        raise UsageError(f"images have {images.shape[1]} channels; features need 1 (grey) or 3 (RGB)")


def load_features(spec: str | Extractor, device: str | torch.device = "cpu") -> Extractor:
    """The extractor that `spec` names: ``name`` or ``name:path``; an extractor is handed back unchanged.

    Loading is remembered per process while the file stays the same.

    Raises:
        UsageError: unknown name, a path that is missing or not wanted, a missing extra.
        ModelError: a weights file or folder that is missing, unsafe, broken or of another network.
    """
    if not isinstance(spec, str):
        return spec
    name, _, path = spec.partition(":")
    build = registry[name]
    full = str(Path(path).expanduser()) if path else ""
    return _load(build, full, str(device), _stamp(full))


@lru_cache(maxsize=4)
def _load(build: Callable[..., Extractor], path: str, device: str, stamp: tuple[int, ...]) -> Extractor:
    return build(path, torch.device(device))


def _stamp(path: str) -> tuple[int, ...]:
    """Changes when the file, its card or any file of the folder does, so that a replaced file is read again."""
    found = Path(path) if path else SHIPPED
    candidates = sorted(found.iterdir()) if found.is_dir() else [found, found.with_suffix(".json")]
    files = [file for file in candidates if file.is_file()]
    return tuple(n for f in files for n in (f.stat().st_mtime_ns, f.stat().st_size))


def sha256_of(*files: Path) -> str:
    """sha256 (hex) over the files' contents, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


@register_features("glyph-cnn")
def glyph_cnn(path: str, device: torch.device) -> Extractor:
    """The shipped letter classifier; `path` may name another file made by ``recipes/train_glyph_cnn.py``."""
    from gantransfer.glyph_cnn import load_glyph_cnn

    weights = Path(path) if path else SHIPPED / "glyph-cnn.safetensors"
    network, classes = load_glyph_cnn(weights)
    return NetworkExtractor(
        "glyph-cnn",
        network,
        sha256_of(weights),
        resize=32,
        dim=network.FEATURES,
        channels=1,
        mean=(1.0,),
        std=(-1.0,),
        classes=classes,
        device=device,
    )


@register_features("random-conv")
def random_conv(path: str, device: torch.device) -> Extractor:
    """Texture, colour and layout as an untrained network sees them; images at 32 px, nothing to download."""
    from gantransfer.random_conv import RandomConv

    if path:
        raise UsageError(f"features='random-conv:{path}' names a file, which these features do not have; write "
                         "random-conv")
    network = RandomConv()
    return NetworkExtractor("random-conv", network, state_sha256(network), resize=32, dim=network.FEATURES,
                            mean=(0.5,) * 3, std=(0.5,) * 3, device=device)


@register_features("inception")
def inception(path: str, device: torch.device) -> Extractor:
    """Inception-v3 with the published FID weights from a local file; 2048 features, 1008 logits.

    Images are resized to 299 px bilinearly without antialiasing and scaled to [-1, 1], as the published FID
    does.
    """
    from gantransfer.inception import load_inception

    if not path:
        raise UsageError(
            "features='inception' needs the published weights (the PyTorch state dict named "
            "pt_inception-2015-12-05, distributed with the pytorch-fid project): download that file "
            "yourself and write inception:/path/to/file"
        )
    network, sha256 = load_inception(Path(path)), sha256_of(Path(path))
    return NetworkExtractor(
        "inception",
        network,
        sha256,
        resize=299,
        dim=network.fc.in_features,
        antialias=False,
        batch_size=32,
        device=device,
    )


@register_features("dinov2")
def dinov2(path: str, device: torch.device) -> Extractor:
    """DINOv2 from a local transformers folder: the class token after the last norm, images at 224 px."""
    return _from_transformers("dinov2", path, device, "Dinov2Model", 224, *IMAGENET)


@register_features("clip")
def clip(path: str, device: torch.device) -> Extractor:
    """CLIP's image tower from a local transformers folder: the projected embedding, not normalised."""
    return _from_transformers("clip", path, device, "CLIPVisionModelWithProjection", None, *CLIP)


class _Embedding(nn.Module):
    """Picks the image embedding out of a transformers model's output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        out = self.model(pixel_values=x)
        projected = getattr(out, "image_embeds", None)
        return (out.last_hidden_state[:, 0] if projected is None else projected), None


def _from_transformers(
    name: str, path: str, device: torch.device, class_name: str, size: int | None, mean: tuple, std: tuple
) -> Extractor:
    try:
        import transformers
    except ImportError as error:
        raise UsageError(f"features='{name}' needs an extra: pip install 'gantransfer[features]'") from error
    folder = Path(path)
    if not path or not (folder / "config.json").is_file():
        raise ModelError(
            f"features='{name}:{path}' is no folder with a config.json; write "
            f"{name}:/path/to/a/local/model/folder"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder} holds no .safetensors weights; save the model with safetensors first")
    try:
        model = getattr(transformers, class_name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        dim = model.config.hidden_size if name == "dinov2" else model.config.projection_dim
        size = size or model.config.image_size
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{folder} is no {name} model folder: {_first_line(error)}") from error
    return NetworkExtractor(
        name,
        _Embedding(model),
        sha256_of(*weights),
        size,
        dim,
        mean=mean,
        std=std,
        mode="bicubic",
        batch_size=32,
        device=device,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
