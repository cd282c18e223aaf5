"""Fuzzing the readers of files: atheris, which follows the branches it has covered, where it is installed; plain
mutation of sound inputs elsewhere. ``python -m torture.fuzz TARGET SECONDS FOLDER`` is one target in one process.

An input counts as a find if it ends in an error that is not ours, takes longer than `SLOWEST` seconds, or more memory
than `LARGEST` MB; it is left in FOLDER as ``crash-*``, ``timeout-*`` or ``oom-*``. Finds become tests in
``tests/test_fuzz.py``.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("weights", "checkpoint", "adapter", "model", "zip", "labels", "config", "image")
SLOWEST, LARGEST = 20, 4096


def torture(folder: Path, seconds: int = 40) -> dict[str, Any]:
    """Figures of all targets, `seconds` each."""
    began, found = time.perf_counter(), {}
    engine = "atheris" if importlib.util.find_spec("atheris") else "mutation (atheris is not installed)"
    for name in NAMES:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([sys.executable, "-m", "torture.fuzz", name, str(seconds), str(place)], text=True,
                              capture_output=True, timeout=20 * seconds + 600,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        finds = [p.name for p in place.iterdir() if p.name.startswith(("crash-", "timeout-", "oom-"))]
        tried = re.search(r"number_of_executed_units: (\d+)", done.stdout + done.stderr)
        first = base64.b64encode((place / finds[0]).read_bytes()[:2000]) if finds else b""
        assert done.returncode == 0 and not finds and tried, (name, finds, first, (done.stdout + done.stderr)[-3000:])
        found[name] = int(tried[1])
    return {"faults": sum(found.values()), "survived": sum(found.values()), "engine": engine, "inputs": found,
            "seconds_each": seconds, "seconds": round(time.perf_counter() - began, 1)}


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """One of `seeds` with some bytes changed, taken out, doubled, or exchanged for another's."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not content:
            break
        place, length = rng.randrange(len(content)), rng.choice((1, 1, 2, 4, 30))
        kind = rng.randrange(6)
        if kind == 0:
            content[place] = rng.randrange(256)
        elif kind == 1:
            del content[place : place + length]
        elif kind == 2:
            content[place:place] = content[place : place + length] * rng.choice((1, 3))
        elif kind == 3:
            content[place : place + length] = rng.choice((b"\0", b"\xff", b"9", b"-", b"[", b'"', b"null", b"1e999"))
        elif kind == 4:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            content[place : place + length] = other[start : start + length]
        else:
            content[place] ^= 1 << rng.randrange(8)
    return bytes(content)


def main(name: str, seconds: int, folder: Path) -> None:
    try:
        import atheris
    except ImportError:
        _mutate(name, seconds, folder)
        return
    with atheris.instrument_imports(include=["gantransfer"]):
        import torch

        from torture.targets import Targets
    torch.set_num_threads(1)
    targets, corpus = Targets(folder / "work"), folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(targets.seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(content: bytes) -> None:
        targets.run(name, content)

    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-timeout={SLOWEST}", "-max_len=40000",
                   f"-rss_limit_mb={LARGEST}", f"-artifact_prefix={folder}/", "-print_final_stats=1"], one)
    atheris.Fuzz()


def _mutate(name: str, seconds: int, folder: Path) -> None:
    from torture.targets import Targets

    targets, rng, tried = Targets(folder / "work"), random.Random(0), 0
    seeds, end = targets.seeds(name), time.monotonic() + seconds
    while time.monotonic() < end:
        content, began = mutated(seeds, rng), time.monotonic()
        (folder / "last").write_bytes(content)  # what it died of, if it dies
        try:
            targets.run(name, content)
        except Exception:
            (folder / "last").rename(folder / f"crash-{tried}")
            raise
        assert time.monotonic() - began < SLOWEST, f"slow: {folder / 'last'}"
        tried += 1
    (folder / "last").unlink(missing_ok=True)
    print(f"stat::number_of_executed_units: {tried}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
