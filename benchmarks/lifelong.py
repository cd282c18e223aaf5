"""Lifelong learning: target sets one after another, each added to the model by `extend`.

    gantransfer data glyph100 --out glyph100.zip
    python benchmarks/lifelong.py glyph80-32 --data glyph100.zip --sets БДЖЗИЙЛ,ЦЧШЩЪЫЬ,ЭЮЯбдф --out runs/lifelong

Every stage adapts the model as it stands (the second set may borrow from the first), extends it, and checks, bit for
bit, that every class it had before still draws the same images, and that the distances of all earlier sets have not
changed in a single digit. ``lifelong.json`` has the distances, the checks and the bytes that each stage adds. Finished
stages are not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import gantransfer as gt
from gantransfer.sampling import draw_latents

BATCH = 50
SETTINGS = ("data", "per_class", "steps", "seed", "match_steps")


def same_images(before: gt.GAN, after: gt.GAN) -> bool:
    """Whether all of `before`'s classes draw the same images in `after`, bit for bit, in batches of one size."""
    labels = torch.arange(len(before.classes)).repeat_interleave(2)
    z = draw_latents(len(labels), before.generator.z_dim, 0)
    with torch.no_grad():
        return all(
            torch.equal(before.generator(z[i : i + BATCH], labels[i : i + BATCH]),
                        after.generator(z[i : i + BATCH], labels[i : i + BATCH]))
            for i in range(0, len(labels), BATCH)
        )


def distance(gan: gt.GAN, data: str, classes: list[str], per_class: int) -> float:
    """Fréchet distance of the model's samples of `classes` to their held-out images."""
    options = {"classes": classes, "per_class": per_class}
    return gt.evaluate(gan, data, data_options=options, metrics=["frechet"])["metrics"]["frechet"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--data", required=True)
    parser.add_argument("--sets", required=True, help="target sets with commas, each a string of one-letter classes")
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match-steps", type=int, default=0, help="of the matching stage (the library's default: 100)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = [list(letters) for letters in arguments.sets.split(",")]
    gan, place, stages = gt.GAN.from_pretrained(arguments.source), arguments.source, []
    for number, classes in enumerate(sets, 1):
        run = arguments.out / f"set{number}"
        settings = {"source": place, "classes": classes, **{key: getattr(arguments, key) for key in SETTINGS}}
        if not (run / "result.json").is_file():
            gt.adapt(place, arguments.data, out=run, match_steps=arguments.match_steps, steps=arguments.steps,
                     seed=arguments.seed, threads=1,
                     data_options={"classes": classes, "per_class": arguments.per_class})
            (run / "stage.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        elif not (run / "stage.json").is_file() or json.loads((run / "stage.json").read_text("utf-8")) != settings:
            raise SystemExit(f"lifelong: '{run}' is of other settings; choose another --out")
        extended = gt.extend(gan, run)
        place = str(arguments.out / f"model{number}")
        extended.save_pretrained(place)
        loaded = gt.GAN.from_pretrained(place)
        result = json.loads((run / "result.json").read_text())
        stage: dict[str, Any] = {
            "classes": "".join(classes), "old_classes": len(gan.classes),
            "old_classes_bit_identical": same_images(gan, loaded), "adapter_bytes": result["adapter_bytes"],
            "bytes_per_class": result["bytes_per_class"], "bytes_shared": result["bytes_shared"],
            "distances": {"".join(c): distance(loaded, arguments.data, c, arguments.per_class) for c in sets[:number]},
        }
        stages.append(stage)
        print(json.dumps(stage, ensure_ascii=False), flush=True)
        gan = loaded
    unchanged = all(stage["distances"][name] == value for i, stage in enumerate(stages)
                    for name, value in stages[max(i - 1, 0)]["distances"].items())
    outcome = {"stages": stages, "earlier_distances_unchanged": unchanged}
    (arguments.out / "lifelong.json").write_text(json.dumps(outcome, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"earlier distances unchanged: {unchanged}")


if __name__ == "__main__":
    main()
