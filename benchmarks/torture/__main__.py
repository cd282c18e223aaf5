"""Run every torture and record the figures: ``python -m torture``, from the folder benchmarks; ``make torture``.

The sizes can be changed, for a short run or a busy machine; what was run is in the record.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gantransfer.runs import environment

RESULTS = Path(__file__).resolve().parents[2] / "results" / "reliability"
SIZES = {  # the longest first, as several run side by side
    "resume": {"share": 1.0, "steps": 20},
    "load": {"samples": 100_000, "measured": 50_000, "entries": 1_000_000},
    "kills": {"kills": 160, "lives": 40},
    "fuzz": {"seconds": 40},
    "disks": {"sizes": 30},
    "files": {"damaged": 20_000},
}
TITLES = {
    "kills": "kill -9 at random moments", "disks": "full and read-only disks", "resume": "exact resume",
    "files": "hostile and broken image files", "fuzz": "fuzzing of the readers", "load": "load",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SIZES), help="parts, with commas: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the record goes: %(default)s")
    parser.add_argument("--note", default="", help="a sentence for the record, such as what else the machine did")
    for name in (f"{part}.{size}" for part, sizes in SIZES.items() for size in sizes):
        part, _, size = name.partition(".")
        parser.add_argument(f"--{name}", type=type(SIZES[part][size]), default=SIZES[part][size], metavar="N")
    parser.add_argument("--jobs", type=int, default=2, help="parts that run side by side: %(default)s")
    given = vars(parser.parse_args())
    out, parts = given["out"], given["only"].split(",")
    out.mkdir(parents=True, exist_ok=True)
    began, took = time.perf_counter(), ""
    if len(parts) == 1:
        failed = _record(parts[0], {size: given[f"{parts[0]}.{size}"] for size in SIZES[parts[0]]}, given["note"], out)
    else:  # each in a process of its own, whose peak of memory is then its own
        with ThreadPoolExecutor(given["jobs"]) as pool:
            words = [sys.executable, "-m", "torture", *sys.argv[1:], "--only"]
            failed = any([code != 0 for code in pool.map(lambda part: subprocess.call([*words, part]), parts)])
        if set(parts) == set(SIZES):
            took = f"All of it in one run, {given['jobs']} parts side by side: {time.perf_counter() - began:.0f} s."
    (out / "README.md").write_text(summary(out, took), encoding="utf-8")
    return int(failed)


def _record(part: str, sizes: dict[str, Any], note: str, out: Path) -> bool:
    """Run a part and write its record; whether it failed."""
    print(f"{TITLES[part]}: {sizes}", flush=True)
    record = _one(part, sizes) | {"part": part, "sizes": sizes, "note": note, "environment": environment()}
    (out / f"{part}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{TITLES[part]}: {record.get('failed') or record.get('skipped') or record}"[:2000], flush=True)
    return "failed" in record


def _one(part: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """The figures of one part, in a folder that is gone afterwards, with the peak of memory of this process and of its
    largest child."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        try:
            record = importlib.import_module(f"torture.{part}").torture(Path(folder) / part, **sizes)
        except Exception as error:
            traceback.print_exc()
            record = {"failed": f"{type(error).__name__}: {error}"[:3000]}
    peaks = {name: round(resource.getrusage(who).ru_maxrss / 1e3)
             for name, who in (("peak_mb", resource.RUSAGE_SELF), ("peak_mb_of_children", resource.RUSAGE_CHILDREN))}
    return {**record, **peaks, "wall_seconds": round(time.perf_counter() - began, 1),
            "load_average": [round(x, 1) for x in os.getloadavg()]}


def summary(out: Path, took: str = "") -> str:
    """The Markdown beside the records: one row for each part that has one, and how long a run of all `took`."""
    files = [file for part in SIZES if (file := out / f"{part}.json").is_file()]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [f"| {TITLES[r['part']]} | {_count(r.get('faults'))} | {_count(r.get('survived'))} | {_what(r)} | "
            f"{r['wall_seconds']:.0f} s | {max(r['peak_mb'], r['peak_mb_of_children']):,} MB |" for r in records]
    machine = records[0]["environment"] if records else {}
    notes = sorted({note for r in records if (note := r["note"])} | {took} - {""})
    return "\n".join([
        "# Reliability", "",
        "What was tried by `make torture` (benchmarks/torture), and what of it survived; the figures are in the JSON "
        "files beside this one.", "",
        f"Machine: {machine.get('cpu', '?')}, {machine.get('cores', '?')} cores, torch {machine.get('torch', '?')}, "
        f"Python {machine.get('python', '?')}, {str(machine.get('date', '?'))[:10]}.", "", *notes, "",
        "| what | tried | survived | in detail | time | peak memory |", "|---|---|---|---|---|---|", *rows, "",
    ])


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _what(record: dict[str, Any]) -> str:
    if "failed" in record or "skipped" in record:
        return f"FAILED: {record['failed'][:200]}" if "failed" in record else f"skipped: {record['skipped']}"
    shown = {k: v for k, v in record.items() if k not in (
        "faults", "survived", "seconds", "wall_seconds", "peak_mb", "peak_mb_of_children", "part", "sizes", "note",
        "environment", "load_average", "loads")}
    parts = [f"{k.replace('_', ' ')} {json.dumps(v, ensure_ascii=False)}" for k, v in shown.items()]
    parts += [f"{name}: {one['count']:,} in {one['seconds']:.0f} s, {one['peak_mb']} MB (a tenth: "
              f"{one['peak_mb_of_a_tenth']} MB)" for name, one in record.get("loads", {}).items()]
    return "; ".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
