"""Full and read-only disks: small file systems in memory, mounted for the purpose (which takes root).

A run on a disk that is too small ends with exit code 6 and one sentence wherever the space runs out; what was saved
before can be loaded; and with more space the run goes on to the model that a run with enough space gives.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny import make_source, write_images

import gantransfer as gt
from gantransfer.checkpoint import load_checkpoint
from gantransfer.cli import main
from torture.children import end, prepare, run, start

SHORT = ["--method", "bsa", "--per-class", "6", "--batch-size", "4", "--n-fake", "16", "--device", "cpu"]


def refusal(folder: Path) -> str:
    """Why no file system can be mounted here, or an empty string."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with disk(folder / "try", 64):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"mounting a tmpfs is refused here ({type(error).__name__})"


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of so many kB at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], capture_output=True, check=True)


def torture(folder: Path, sizes: int = 30, commands: int = 99, seed: int = 0) -> dict[str, Any]:
    """Figures of runs on disks of `sizes` random sizes, of a disk that becomes read-only, and of so many other
    `commands`."""
    if reason := refusal(folder):
        return {"skipped": reason}
    prepare()
    began, rng = time.perf_counter(), random.Random(seed)
    parts = _Parts(folder)
    full = [_too_small(parts, number, rng) for number in range(sizes)]
    assert _read_only(parts), "the run did not notice that its disk had become read-only"
    verbs = _verbs(parts, commands)
    return {"faults": sizes + 1 + verbs, "survived": sizes + 1 + verbs, "disks_too_small": sizes,
            "disks_too_small_with_a_checkpoint": sum(full), "read_only": 1, "other_verbs": verbs,
            "seconds": round(time.perf_counter() - began, 1)}


class _Parts:
    """A source, images, a finished run with enough space, and how large it is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        self.source = make_source("hierarchical").save_pretrained(folder / "source")
        self.images = write_images(folder / "images", dict.fromkeys("ab", 12))
        assert main(self.adapt(folder / "reference")) == 0
        self.expected = gt.merge(self.source, folder / "reference").sha256
        self.kilobytes = sum(file.stat().st_size for file in (folder / "reference").rglob("*")) // 1024

    def adapt(self, out: Path, steps: int = 6) -> list[str]:
        """The words of a run with a checkpoint every second step."""
        return [str(word) for word in ("adapt", "--source", self.source, "--data", self.images, "--out", out, *SHORT,
                                       "--steps", steps, "--eval-nimg", 16, "--checkpoint-nimg", 8)]


def _one_sentence(log: Path, code: int, expected: int = 6) -> None:
    errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert code == expected and len(errors) == 1 and "Traceback" not in log.read_text(), (code, log.read_text()[-2000:])


def _too_small(parts: _Parts, number: int, rng: random.Random) -> bool:
    """One run on a disk of random size; whether a checkpoint was there when the space ran out."""
    place = parts.folder / f"disk-{number}"
    with disk(place, rng.randint(16, int(0.95 * parts.kilobytes))):
        out = place / "run"
        code = run(lambda: main(parts.adapt(out)), parts.log)
        _one_sentence(parts.log, code)
        saved = (out / "checkpoints").is_dir() and any((out / "checkpoints").glob("step-*"))
        if saved:
            load_checkpoint(out / "checkpoints")
            _mount("-o", f"remount,size={20 * parts.kilobytes}k", str(place))
            assert run(lambda: main(["resume", str(out)]), parts.log) == 0, parts.log.read_text()
            assert gt.merge(parts.source, out).sha256 == parts.expected
    return saved


def _read_only(parts: _Parts) -> bool:
    """A disk that becomes read-only under a run; and one that is so from the start."""
    place = parts.folder / "read-only"
    with disk(place, 20 * parts.kilobytes):
        out = place / "run"
        pid = start(lambda: main(parts.adapt(out, 10**6)), parts.log)
        while not any((out / "checkpoints").glob("step-0000*")):
            time.sleep(0.01)
        for _ in range(10_000):  # busy while a file is open for writing
            try:
                _mount("-o", "remount,ro", str(place))
                break
            except subprocess.CalledProcessError:
                time.sleep(0.001)
        _one_sentence(parts.log, end(pid))
        load_checkpoint(out / "checkpoints")
        for words in (parts.adapt(place / "other"), ["resume", str(out)]):
            _one_sentence(parts.log, run(lambda words=words: main(words), parts.log))
    return True


def _verbs(parts: _Parts, most: int) -> int:
    """Everything else that writes, on a disk with 4 kB left; how many commands were tried."""
    reference, place = parts.folder / "reference", parts.folder / "full"
    commands: list[list[Any]] = [
        ["sample", reference, "-n", "400", "--single", "--out", place / "many"],
        ["sample", reference, "-n", "400", "--single", "--out", place / "many.zip"],
        ["sample", reference, "-n", "64", "--out", place / "grid.png"],
        ["sample", reference, "--interpolate-latents", "0,1", "--out", place / "way.webp"],
        ["merge", parts.source, reference, "--out", place / "merged"],
        ["extend", parts.source, reference, "--out", place / "extended"],
        ["study", "new", reference, reference, "--n", "5", "--out", place / "study.html"],
        ["report", place / "copy"],
    ]
    commands = commands[:most]
    for words in commands:
        with disk(place, 4 * parts.kilobytes):
            if words[0] == "report":
                shutil.copytree(reference, place / "copy", ignore=shutil.ignore_patterns("report.html"))
            _fill(place / "ballast")
            code = run(lambda words=words: main([str(word) for word in words]), parts.log)
            _one_sentence(parts.log, code)
            left = sorted(file.name for file in place.iterdir() if file.name != "ballast")
            assert not any(name.startswith(".") for name in left), f"{words[0]} left {left}"
    return len(commands)


def _fill(ballast: Path) -> None:
    """Leave one page of the disk."""
    handle, written = os.open(ballast, os.O_WRONLY | os.O_CREAT), 0
    try:
        while True:
            written += os.write(handle, bytes(4096))
    except OSError:
        os.ftruncate(handle, written - 4096)
    finally:
        os.close(handle)
