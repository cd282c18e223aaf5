"""Train the small classifier of the 100 Glyph-100 letters whose features ship as ``glyph-cnn``.

    python recipes/train_glyph_cnn.py --data glyph100.zip

It writes gantransfer/shipped/features/glyph-cnn.{safetensors,json}; ``gantransfer data glyph100`` makes the zip.
Only faces under open licences are trained on, and of those only a part: the others are held out, by face, to
report the accuracy. (Faces of one family may lie on both sides; the accuracy on the faces under other licences,
mostly of unseen families, is reported beside it.)

A distance needs features that also see *how* a letter is drawn, not only which one: a linear read-out of the
features has to give ink, extent, slant and edge length (`style_of`) while training. Shifts, scalings, slants
and blur as augmentation keep the features smooth. Batch norms are folded into the convolutions, the features
are scaled to a mean variance of 1 per unit, the weights rounded to half precision, and only then measured.

Deterministic for a given seed, torch version and processor. 6 to 10 minutes on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import shlex
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gantransfer.glyph_cnn import GlyphCNN
from gantransfer.weights import write_json, write_tensors

BATCH = 128
RATE = 4e-3
STYLE_WEIGHT = 0.3
TRAIN_SHARE = 0.7


def read_glyphs(path: Path) -> tuple[Tensor, list[str], list[dict]]:
    """Ink float16 [faces, classes, 32, 32] (1 = ink), class names, and one entry per face."""
    with zipfile.ZipFile(path) as archive:
        card = json.loads(archive.read("dataset.json"))
        classes, faces = card["classes"], card["faces"]
        images = np.empty((len(faces), len(classes), 32, 32), np.uint8)
        members = set(archive.namelist())
        for f, face in enumerate(faces):
            face["name"] = f"{face['package']}--{Path(face['file']).stem}"
            if f"{classes[0]}/{face['name']}.png" not in members:  # two font formats of one face
                face["name"] = f"{face['package']}--{face['file']}"
            for c, name in enumerate(classes):
                with archive.open(f"{name}/{face['name']}.png") as member:
                    images[f, c] = np.asarray(Image.open(io.BytesIO(member.read())).convert("L"))
    return (1 - torch.from_numpy(images).float() / 255).half(), classes, faces


def split_faces(faces: list[dict], seed: int) -> dict[str, list[int]]:
    """Indices of the faces: train and held_out (open licences), other (never trained on)."""
    is_open = [i for i, face in enumerate(faces) if face["open"]]
    order = torch.randperm(len(is_open), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = round(TRAIN_SHARE * len(is_open))
    return {
        "train": sorted(is_open[i] for i in order[:cut]),
        "held_out": sorted(is_open[i] for i in order[cut:]),
        "other": [i for i, face in enumerate(faces) if not face["open"]],
    }


def style_of(ink: Tensor) -> Tensor:
    """How a letter is drawn: ink, edge length, width, height, slant; [N, 5] from [N, 1, 32, 32]."""
    grid = torch.linspace(-1, 1, 32)
    mass = ink.sum((1, 2, 3)).clamp(min=1)
    x = (ink * grid).sum((1, 2, 3)) / mass
    y = (ink * grid[:, None]).sum((1, 2, 3)) / mass
    dx, dy = grid - x.view(-1, 1, 1, 1), grid[:, None] - y.view(-1, 1, 1, 1)
    moments = [(ink * product).sum((1, 2, 3)) / mass for product in (dx * dx, dy * dy, dx * dy)]
    edges = (ink[..., 1:] - ink[..., :-1]).abs().mean((1, 2, 3))
    edges = edges + (ink[..., 1:, :] - ink[..., :-1, :]).abs().mean((1, 2, 3))
    return torch.stack([mass / 1024, edges, *moments], 1)


def augment(ink: Tensor, rng: torch.Generator) -> Tensor:
    """Shift by up to 1.5 px, scale by 7 %, turn by 4 degrees; a little blur for half; [N, 1, 32, 32]."""
    n = len(ink)

    def uniform(width: float) -> Tensor:
        return (torch.rand(n, generator=rng) * 2 - 1) * width

    angle, zoom = uniform(math.radians(4)), 1 + uniform(0.07)
    rows = [
        torch.stack([zoom * angle.cos(), -angle.sin(), uniform(1.5 / 16)], 1),
        torch.stack([angle.sin(), zoom * angle.cos(), uniform(1.5 / 16)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(ink.shape), align_corners=False)
    moved = F.grid_sample(ink, grid, align_corners=False)
    side = torch.rand(n, generator=rng).clamp(min=0.5).sub(0.5) * 0.5  # 0 for half of them, at most 0.25
    kernel = torch.stack([side, 1 - 2 * side, side], 1)
    blurred = F.conv2d(moved.transpose(0, 1), kernel.view(n, 1, 1, 3), padding=(0, 1), groups=n)
    return F.conv2d(blurred, kernel.view(n, 1, 3, 1), padding=(1, 0), groups=n).transpose(0, 1)


class Trainee(nn.Module):
    """`GlyphCNN` with batch norms behind its convolutions and a linear read-out of style."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = GlyphCNN(num_classes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (*GlyphCNN.WIDTHS, GlyphCNN.WIDTHS[-1]))
        self.style = nn.Linear(GlyphCNN.FEATURES, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        for conv, norm in zip((*self.net.convs, self.net.place), self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.1)
        features = F.leaky_relu(self.net.embed(x.flatten(1)), 0.1)
        return self.net.head(F.dropout(features, 0.1, self.training)), self.style(features)

    @torch.no_grad()
    def folded(self) -> GlyphCNN:
        """The same function in eval mode, without batch norms."""
        net = GlyphCNN(self.net.head.out_features)
        net.load_state_dict(self.net.state_dict())
        for conv, norm in zip((*net.convs, net.place), self.norms, strict=True):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight.mul_(scale.view(-1, 1, 1, 1))
            conv.bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
        return net.eval()


def train(ink: Tensor, labels: Tensor, num_classes: int, epochs: int, seed: int) -> GlyphCNN:
    """Fit on ink [N, 1, 32, 32] and labels [N]; prints one line per epoch."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed + 1)
    model = Trainee(num_classes).to(memory_format=torch.channels_last)
    style = torch.cat([style_of(part.float()) for part in ink.split(4096)])
    mean, std = style.mean(0), style.std(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    steps = epochs * (len(ink) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    began = time.perf_counter()
    for epoch in range(epochs):
        order, total, right = torch.randperm(len(ink), generator=rng), 0.0, 0
        for rows in order[: len(ink) // BATCH * BATCH].split(BATCH):
            pictures = augment(ink[rows].float(), rng)
            logits, read = model(pictures)
            drawn = (style_of(pictures) - mean) / std
            loss = F.cross_entropy(logits, labels[rows]) + STYLE_WEIGHT * F.mse_loss(read, drawn)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
            right += int((logits.argmax(1) == labels[rows]).sum())
        seconds = time.perf_counter() - began
        print(
            f"epoch {epoch + 1}: loss {total / len(ink):.3f}, right {right / len(ink):.4f}, {seconds:.0f} s",
            flush=True,
        )
    return model.eval().folded()


@torch.no_grad()
def finish(net: GlyphCNN, ink: Tensor) -> GlyphCNN:
    """Scale features to a mean variance of 1 on `ink` (leaky ReLU lets a positive factor through), round."""
    factor = features_of(net, ink)[0].var(0).mean().rsqrt()
    net.embed.weight.mul_(factor)
    net.embed.bias.mul_(factor)
    net.head.weight.div_(factor)
    for tensor in net.state_dict().values():
        tensor.copy_(tensor.half().float())
    return net


@torch.no_grad()
def features_of(net: GlyphCNN, ink: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of ink [N, 1, 32, 32]."""
    parts = [net(part.float()) for part in ink.split(1024)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def figures(net: GlyphCNN, ink: Tensor, faces: list[int]) -> dict[str, float | int]:
    """Accuracy, live units and effective rank (exponential of the spectrum's entropy) on some faces."""
    pictures, labels = flat(ink, faces)
    features, logits = features_of(net, pictures)
    spectrum = torch.linalg.eigvalsh(features.double().T.cov()).clamp(min=0)
    share = spectrum / spectrum.sum()
    return {
        "faces": len(faces),
        "images": len(pictures),
        "accuracy": round(float((logits.argmax(1) == labels).double().mean()), 4),
        "live_units": int((features.std(0) > 1e-3).sum()),
        "smallest_unit_std": round(float(features.std(0).min()), 4),
        "effective_rank": round(float(torch.special.entr(share).sum().exp()), 1),
    }


def flat(ink: Tensor, faces: list[int]) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 32, 32] and labels [N] of some faces."""
    classes = ink.shape[1]
    return ink[faces].reshape(-1, 1, 32, 32), torch.arange(classes).repeat(len(faces))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="glyph100.zip of 'gantransfer data glyph100'"
    )
    parser.add_argument("--out", type=Path, default=Path("gantransfer/shipped/features"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    ink, classes, faces = read_glyphs(args.data)
    split = split_faces(faces, args.seed)
    began = time.perf_counter()
    net = train(*flat(ink, split["train"]), len(classes), args.epochs, args.seed)
    net = finish(net, flat(ink, split["train"])[0])
    seconds = time.perf_counter() - began
    card = {
        "name": "glyph-cnn",
        "classes": classes,
        "parameters": sum(p.numel() for p in net.parameters()),
        "features": net.FEATURES,
        "figures": {part: figures(net, ink, rows) for part, rows in split.items() if rows},
        "command": f"python recipes/train_glyph_cnn.py --data {shlex.quote(args.data.name)} "
        f"--epochs {args.epochs} --seed {args.seed}",
        "seed": args.seed,
        "epochs": args.epochs,
        "seconds": round(seconds),
        "torch": torch.__version__,
        "licence": "Apache-2.0; trained on letters of openly licensed fonts only",
        "data_sha256": hashlib.sha256(args.data.read_bytes()).hexdigest(),
        "held_out_faces": [faces[i]["name"] for i in split["held_out"]],
    }
    write_tensors(
        {key: value.half() for key, value in net.state_dict().items()}, args.out / "glyph-cnn.safetensors"
    )
    write_json(card, args.out / "glyph-cnn.json")
    print(json.dumps({key: card[key] for key in ("parameters", "figures", "seconds")}, indent=1))


if __name__ == "__main__":
    main()
