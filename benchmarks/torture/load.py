"""Load: many samples, many images measured, a data set of a million entries.

Each is a process of its own, ``python -m torture.load NAME COUNT FOLDER``, whose peak of memory is read and compared
with that of a tenth of the load: what grows with the number of images must be few bytes of each.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Bytes per image by which the peak may grow: nothing but names for samples, an archive's index, features of both sides
# (128 float32, their float64 copies in metrics), names, places and hashes of a data set's entries.
ALLOWED = {"folder": 300, "zip": 1500, "evaluate": 6_000, "listed": 2000, "links": 2000}
SLACK = 64 << 20  # bytes of noise in a peak
TABLES = 512 << 20  # bytes of four tables of the metrics, which are full at 16,000 images


def torture(folder: Path, samples: int = 100_000, measured: int = 50_000, entries: int = 1_000_000) -> dict[str, Any]:
    """Figures of each load at full size; memory per image from the difference to a tenth of it."""
    folder.mkdir(parents=True, exist_ok=True)
    began, found = time.perf_counter(), {}
    counts = {"folder": samples, "zip": samples, "evaluate": measured, "listed": entries, "links": entries // 10}
    for name, count in counts.items():
        small, large = (_measured(name, n, folder / f"{name}-{n}") for n in (count // 10, count))
        grown = large["peak_bytes"] - small["peak_bytes"]
        slack = TABLES if name == "evaluate" else SLACK
        assert grown <= slack + ALLOWED[name] * (count - count // 10), (name, small, large)
        found[name] = {"count": count, "seconds": large["seconds"], "peak_mb": round(large["peak_bytes"] / 1e6),
                       "peak_mb_of_a_tenth": round(small["peak_bytes"] / 1e6)}
    return {"faults": len(found), "survived": len(found), "loads": found,
            "seconds": round(time.perf_counter() - began, 1)}


def _measured(name: str, count: int, place: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "torture.load", name, str(count), str(place)], text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# ---- the loads -------------------------------------------------------------------------------------------


def _generator(place: Path) -> Path:
    """A model of a few hundred weights: what is measured is everything around it."""
    import torch
    from tiny import make_source

    torch.set_num_threads(1)
    return make_source("unconditional", critic=False).save_pretrained(place / "model")


def _sample(place: Path, count: int, out: Path) -> None:
    from gantransfer.cli import main

    assert main(["sample", str(_generator(place)), "-n", str(count), "--single", "--out", str(out)]) == 0


def folder(place: Path, count: int) -> None:
    """`sample --single` into a folder."""
    _sample(place, count, place / "out")
    assert sum(1 for _ in os.scandir(place / "out")) == count


def zip(place: Path, count: int) -> None:
    """`sample --single` into a zip."""
    _sample(place, count, place / "out.zip")
    assert len(zipfile.ZipFile(place / "out.zip").namelist()) == count


def evaluate(place: Path, count: int) -> None:
    """`evaluate` of so many samples against so many real images."""
    import gantransfer as gt

    gan = gt.GAN.from_pretrained(_generator(place))
    size = gan.config["resolution"]
    _archive(place / "real.zip", count, size)
    found = gt.evaluate(gan, gt.ImageData(place / "real.zip", size=size, channels=1).unlabelled(), n_fake=count,
                        metrics=["frechet", "kid", "recall"])
    assert (found["n_real"], found["n_fake"]) == (count, count)


def listed(place: Path, count: int) -> None:
    """The scan of a zip of so many images of a few dozen bytes."""
    from gantransfer.data import ImageData

    _archive(place / "d.zip", count, 4, bad=count // 1000)
    data = ImageData(place / "d.zip", size=4, channels=1, on_bad="skip")
    assert len(data) == count - count // 1000 and len(data.report["bad"]) == count // 1000


def links(place: Path, count: int) -> None:
    """The scan of a folder of so many hard links to a few images."""
    from picture_files import noise, png

    from gantransfer.data import ImageData

    for name in range(100):
        (place / "d" / f"c{name:02d}").mkdir(parents=True)
    for number in range(count):
        file = place / "d" / f"c{number % 100:02d}" / f"{number:07d}.png"
        first = place / f"{number % 64}-{number // 60_000}.png"  # a file has at most 65,000 links
        if not first.exists():
            first.write_bytes(png(noise(number % 64, 4, 4)))
        os.link(first, file)
    assert len(ImageData(place / "d", size=4, channels=1)) == count


def _archive(path: Path, count: int, size: int, bad: int = 0) -> None:
    """A zip of `count` images in 100 classes, `bad` of them empty; made in a process of its own, for its memory."""
    code = ("import sys, zipfile; from torture import TESTS; from picture_files import noise, png\n"
            "path, count, size, bad = sys.argv[1], *map(int, sys.argv[2:])\n"
            "files = [png(noise(i, size, size)) for i in range(256)]\n"
            "with zipfile.ZipFile(path, 'w') as archive:\n"
            "    for i in range(count):\n"
            "        name = zipfile.ZipInfo(f'c{i % 100:02d}/{i:07d}.png')\n"
            "        archive.writestr(name, b'' if i < bad else files[i * 7 % 256])\n")
    subprocess.run([sys.executable, "-c", code, str(path), str(count), str(size), str(bad)], check=True)


LOADS: dict[str, Callable[[Path, int], None]] = {
    "folder": folder, "zip": zip, "evaluate": evaluate, "listed": listed, "links": links}


def main(name: str, count: int, place: Path) -> None:
    place.mkdir(parents=True)
    began = time.perf_counter()
    LOADS[name](place, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of this process, not of its children
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "peak_bytes": peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
