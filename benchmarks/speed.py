"""How much faster than the plain formulation: one table, in one run.

    python benchmarks/speed.py                 # everything, 2 threads, into results/speed: some 20 minutes on 2 cores
    python benchmarks/speed.py --quick         # a trial: small batches, two repetitions, nothing written
    python benchmarks/speed.py --device cuda   # the same code on a GPU; --precision bf16 for autocast

Forms of a row take turns, so that a machine that slows down slows both; a ratio is that of medians, its spread the
least and largest ratio of one turn. Peak memory is the growth of a fresh process's resident memory (GPU: of allocated
memory) over two iterations. Shares are of the product of two 2,048 x 2,048 float32 matrices, timed in the same run.
Equality is checked first, on the same networks: images and logits absolutely, gradients by the norm of the difference.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, whose profile.py would hide the standard library's

import torch  # noqa: E402

from benchmarks.flops import flops  # noqa: E402
from benchmarks.plain import frechet_plain, plain  # noqa: E402
from benchmarks.workloads import WORKS, Work, make_trainer, source  # noqa: E402
from gantransfer.metrics.frechet import frechet_distance_from_features  # noqa: E402
from gantransfer.sampling import generate  # noqa: E402

Run = Callable[[], object]
SHARED_FAKES = {"loss": {"order": "generator"}}  # the critic sees the images of the generator's step
# name -> (workload, what ours does otherwise, wanted ratio on the CPU, on a GPU)
ITERATIONS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "cGANTransfer 32 px": ("cgantransfer 32", {}, 2.0, 5.0),
    "cGANTransfer 32 px, one batch of fakes": ("cgantransfer 32", SHARED_FAKES, 2.3, 5.0),
    "cGANTransfer 128 px": ("cgantransfer 128", {}, 1.9, 5.0),
    "AdaFM 128 px, R1": ("adafm 128", {}, 1.4, 2.5),
    "GP-GAN 128 px, R1": ("gp_gan 128", {}, 1.4, 2.5),
}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def turns(runs: Mapping[str, Run], repeat: int, device: str) -> dict[str, list[float]]:
    """Seconds of every run, `repeat` times in turn after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, run in runs.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def matrix_peak(device: str) -> float:
    """FLOP/s of a large float32 matrix product."""
    a = torch.randn(2048, 2048, device=device)
    times = turns({"mm": lambda: a @ a}, 9, device)["mm"]
    return 2 * 2048**3 / min(times)


# ---- equality --------------------------------------------------------------------------------------------


def differences(work: Work, device: str) -> dict[str, float]:
    """Largest difference of images and logits, and of each phase's gradients by norm, from one batch of 8, between ours
    and plain; and for the gradients that of plain float32 from plain float64, which is how exact they can be."""
    forms = {"ours": make_trainer(work, "ours", device, batch_size=8),
             "plain": make_trainer(work, "plain", device, batch_size=8),
             "exact": make_trainer(work, "plain", device, batch_size=8)}
    found: dict[str, float] = {}
    for part in (forms["exact"].generator, forms["exact"].extras):
        part.double()
    batches = {form: trainer._batch(0, 0, 0, 0) for form, trainer in forms.items()}
    batches["exact"] = batches["exact"]._replace(images=batches["exact"].images.double(), z=batches["exact"].z.double())
    outputs = {}
    for form, trainer in forms.items():
        batch = batches[form]
        labels = batch.y if trainer.generator.num_classes else None
        trainer.generator.eval(), trainer.extras.eval()
        with torch.no_grad():
            outputs[form] = {"images": trainer.generator(batch.z, labels),
                             "logits": trainer.extras["critic"](batch.images, labels)}
        trainer._modes()
        for phase in trainer.plan.phases:
            params = trainer._only(phase.updates)
            again = trainer._batch(0, 0, 0, 0)  # the same draws for every form
            sum(phase.loss(batch._replace(rng=again.rng)).terms.values()).backward()
            outputs[form][f"gradient {phase.name}"] = torch.cat(
                [p.grad.flatten().double() for p in params if p.grad is not None])
            for param in params:
                param.grad = None
    for key, value in outputs["ours"].items():
        other, exact = outputs["plain"][key], outputs["exact"][key]
        if key.startswith("gradient"):
            found[key] = float((value - other).norm() / other.norm())
            found[f"{key}, plain from float64"] = float((exact - other).norm() / exact.norm())
        else:
            found[key] = float((value - other).abs().max())
    return found


# ---- rows ------------------------------------------------------------------------------------------------


def row(name: str, runs: Mapping[str, Run], wanted: float, repeat: int, device: str, peak: float) -> dict[str, Any]:
    times = turns(runs, repeat, device)
    median = {form: statistics.median(t) for form, t in times.items()}
    ratios = [a / b for a, b in zip(times["plain"], times["ours"], strict=True)]
    count = {form: flops(run) for form, run in runs.items()}
    return {
        "name": name, "wanted": wanted, "ratio": median["plain"] / median["ours"], "least": min(ratios),
        "largest": max(ratios), "seconds": median, "tflop": {form: c / 1e12 for form, c in count.items()},
        "share_of_peak": {form: count[form] / median[form] / peak for form in runs},
        "flop_ratio": count["plain"] / max(count["ours"], 1),
    }


def iteration_row(name: str, a: argparse.Namespace, peak: float) -> dict[str, Any]:
    work, changes, cpu, gpu = ITERATIONS[name]
    batch = {"batch_size": a.batch} if a.batch else {}
    ours = make_trainer(WORKS[work], "ours", a.device, a.threads, precision=a.precision, **changes, **batch)
    other = make_trainer(WORKS[work], "plain", a.device, a.threads, **batch)
    equal = {} if changes or a.precision != "fp32" else differences(WORKS[work], a.device)
    wanted = gpu if a.device == "cuda" else cpu
    found = row(name, {"plain": other._iteration, "ours": ours._iteration}, wanted, a.repeat, a.device, peak)
    return {**found, "batch": ours.schedule.batch_size, "equality": equal,
            "memory_mb": {form: memory(name, form, a) for form in ("plain", "ours")}}


def sampling_row(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    """Images from the frozen source generator of the first row."""
    generators = {"plain": plain(source(WORKS["cgantransfer 32"], a.device).generator.to(a.device)),
                  "ours": source(WORKS["cgantransfer 32"], a.device).generator.to(a.device)}
    for generator in generators.values():
        generator.requires_grad_(False)
    n = 64 if a.quick else 1000
    rng = torch.Generator().manual_seed(0)
    z, y = torch.randn(n, 128, generator=rng), torch.randint(90, (n,), generator=rng)
    with torch.no_grad():
        few = [g(z[:16].to(a.device), y[:16].to(a.device)) for g in generators.values()]
    runs = {form: lambda g=g: generate(g, z, y) for form, g in generators.items()}
    found = row(f"sampling {n} images, 32 px", runs, 5.0 if a.device == "cuda" else 1.9, max(2, a.repeat // 2),
                a.device, peak)
    return {**found, "equality": {"images": float((few[0] - few[1]).abs().max())}}


def frechet_row(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    d, n = (256, 2000) if a.quick else (2048, 10_000)
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=rng) / d**0.5
    x, y = (torch.randn(n, d, generator=rng) @ mix + shift for shift in (0.0, 0.1))
    runs = {"plain": lambda: frechet_plain(x.numpy(), y.numpy()), "ours": lambda: frechet_distance_from_features(x, y)}
    difference = abs(runs["ours"]() - runs["plain"]()) / runs["ours"]()
    found = row(f"Fréchet distance, {d} features, {n} vs {n}", runs, 5.0, 1 if a.quick else 3, "cpu", peak)
    return {**found, "tflop": {}, "share_of_peak": {}, "flop_ratio": None, "equality": {"distance": difference}}


def memory(name: str, form: str, a: argparse.Namespace) -> float:
    """MB that a fresh process grows by in two iterations."""
    command = [sys.executable, __file__, "--memory-of", name, "--form", form, "--device", a.device, "--threads",
               str(a.threads), "--batch", str(a.batch), "--precision", a.precision if form == "ours" else "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def resident(name: str) -> float:
    """MB, a line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def print_memory(a: argparse.Namespace) -> None:
    work, changes, *_ = ITERATIONS[a.memory_of]
    changes = {**(changes if a.form == "ours" else {}), **({"batch_size": a.batch} if a.batch else {})}
    trainer = make_trainer(WORKS[work], a.form, a.device, a.threads, precision=a.precision, **changes)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here (getrusage's is inherited)
    before = resident("VmRSS")
    for _ in range(2):
        trainer._iteration()
    if a.device == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(resident("VmHWM") - before)


# ---- output ----------------------------------------------------------------------------------------------


def machine(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {"processor": torch.cuda.get_device_name() if a.device == "cuda" else model, "threads": a.threads,
            "simd": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__, "gflops_matrix": peak / 1e9,
            "precision": a.precision}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| work | times plain (least to largest) | wanted | seconds plain, ours | TFLOP plain, ours | their ratio "
             "| share of the matrix peak plain, ours | peak MB plain, ours | largest difference |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        def pair(key: str, form: str, r: dict[str, Any] = r) -> str:
            values = r.get(key)
            return f"{values['plain']:{form}}, {values['ours']:{form}}" if values else ""

        equal = ", ".join(f"{k} {v:.1e}" for k, v in r["equality"].items())
        bound = f"{r['flop_ratio']:.2f}" if r["flop_ratio"] else ""
        lines.append(f"| {r['name']} | **{r['ratio']:.2f}** ({r['least']:.2f} to {r['largest']:.2f}) | {r['wanted']} | "
                     f"{pair('seconds', '.2f')} | {pair('tflop', '.3f')} | {bound} | {pair('share_of_peak', '.0%')} | "
                     f"{pair('memory_mb', '.0f')} | {equal} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--batch", type=int, default=0, help="instead of each row's own")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "speed")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    parser.add_argument("--form", default="ours", help=argparse.SUPPRESS)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.quick:
        a.repeat, a.batch = 2, a.batch or 4
    if a.memory_of:
        print_memory(a)
        return
    peak = matrix_peak(a.device)
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        **{name: lambda name=name: iteration_row(name, a, peak) for name in ITERATIONS},
        "sampling": lambda: sampling_row(a, peak), "Fréchet distance": lambda: frechet_row(a, peak)}
    rows = []
    for name, make in makers.items():
        if a.rows.lower() in name.lower():
            rows.append(make())
            print(table(rows).splitlines()[-1], flush=True)
    described = machine(a, peak)
    print("\n" + table(rows) + "\n\n" + json.dumps(described))
    if not a.quick and not a.rows:
        a.out.mkdir(parents=True, exist_ok=True)
        stem = a.device if a.precision == "fp32" else f"{a.device}-{a.precision}"
        (a.out / f"{stem}.json").write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n")
        (a.out / f"{stem}.md").write_text(f"{table(rows)}\n\nMachine: `{json.dumps(described)}`\n")


if __name__ == "__main__":
    main()
