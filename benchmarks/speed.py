"""How much faster than the plain formulation: one table, in one run.

    python benchmarks/speed.py                 # everything, 2 threads, into results/speed: some 20 minutes on 2 cores
    python benchmarks/speed.py --quick         # a trial: small batches, two repetitions, nothing written
    python benchmarks/speed.py --device cuda   # the same code on a GPU; --precision bf16 for autocast

Forms of a row take turns, each in a process of its own, so that a machine that slows down slows all; a ratio is that of
medians, its spread the least and largest ratio of one turn. Ours keeps freed memory as the library does
(`gantransfer.kept_memory`: from iteration to iteration, otherwise within a call); plain has PyTorch's default, and
stands a second time with its memory kept likewise, which leaves the algebra and the layout. Peak memory is the growth
of the process's resident memory (GPU: of allocated memory) over the first two runs. Shares are of the product of two
2,048 x 2,048 float32 matrices, timed in the same run. Equality is checked first, on the same networks: images and
logits absolutely, gradients by the norm of the difference. `--rows` replaces only those rows of the record.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, whose profile.py would hide the standard library's

import torch  # noqa: E402

from benchmarks.forms import Run, measured  # noqa: E402
from benchmarks.plain import MEANS, frechet_plain, plain  # noqa: E402
from benchmarks.workloads import WORKS, Work, make_trainer, source  # noqa: E402
from gantransfer.kept_memory import kept_memory  # noqa: E402
from gantransfer.metrics.frechet import frechet_distance_from_features  # noqa: E402
from gantransfer.sampling import generate  # noqa: E402

PLAIN, PLAIN_KEPT, OURS = "plain", "plain, memory kept", "ours"
SHARED_FAKES = {"loss": {"order": "generator"}}  # the critic sees the images of the generator's step
# name -> (workload, what ours does otherwise, wanted ratio on the CPU, on a GPU)
ITERATIONS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "cGANTransfer 32 px": ("cgantransfer 32", {}, 2.0, 5.0),
    "cGANTransfer 32 px, one batch of fakes": ("cgantransfer 32", SHARED_FAKES, 2.3, 5.0),
    "cGANTransfer 128 px": ("cgantransfer 128", {}, 1.9, 5.0),
    "AdaFM 128 px, R1": ("adafm 128", {}, 1.4, 2.5),
    "GP-GAN 128 px, R1": ("gp_gan 128", {}, 1.4, 2.5),
}


def matrix_peak(device: str) -> float:
    """FLOP/s of a large float32 matrix product."""
    a = torch.randn(2048, 2048, device=device)
    out, times = torch.empty_like(a), []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, a, out=out)[0, 0].item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


# ---- equality --------------------------------------------------------------------------------------------


def differences(work: Work, device: str) -> dict[str, float]:
    """Largest difference of images and logits, and of each phase's gradients by norm, from one batch of 8, between ours
    and plain. For the gradients also those of plain float32 from plain float64 and from itself with channels_last,
    which say how well float32 determines them (a ReLU near zero falls to either side)."""
    relaid = [means for means in MEANS if means != "channels_last"]
    forms = {form: make_trainer(work, without, device, batch_size=8)
             for form, without in {"ours": (), "plain": MEANS, "exact": MEANS, "relaid": relaid}.items()}
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
            found[f"{key}, plain with channels_last"] = float((outputs["relaid"][key] - other).norm() / other.norm())
        else:
            found[key] = float((value - other).abs().max())
    return found


# ---- rows ------------------------------------------------------------------------------------------------


def row(name: str, make: Callable[[frozenset[str]], Run], wanted: float, repeat: int, a: argparse.Namespace,
        peak: float, held: bool = True) -> dict[str, Any]:
    forms = (PLAIN, PLAIN_KEPT, OURS) if a.device == "cpu" else (PLAIN, OURS)
    found = measured(make, forms, repeat, a.device, a.threads, held)
    times = {form: values["seconds"] for form, values in found.items()}
    median = {form: statistics.median(t) for form, t in times.items()}
    ratios = [x / y for x, y in zip(times[PLAIN], times[OURS], strict=True)]
    count = {form: found[form]["flops"] for form in (PLAIN, OURS)}
    return {
        "name": name, "wanted": wanted, "ratio": median[PLAIN] / median[OURS], "least": min(ratios),
        "largest": max(ratios), "seconds": median, "tflop": {form: c / 1e12 for form, c in count.items()},
        "share_of_peak": {form: c / median[form] / peak for form, c in count.items()},
        "flop_ratio": count[PLAIN] / max(count[OURS], 1), "memory_mb": {form: found[form]["growth"] for form in forms},
    }


def iteration(without: frozenset[str], work: str, changes: dict[str, Any], precision: str, batch: int, device: str,
              threads: int) -> Run:
    """An iteration of `work`; what is not plain has the `changes` and the `precision`."""
    settings = {**({} if without else {**changes, "precision": precision}), **({"batch_size": batch} if batch else {})}
    return make_trainer(WORKS[work], without, device, threads, **settings)._iteration


def iteration_row(name: str, a: argparse.Namespace, peak: float) -> dict[str, Any]:
    work, changes, cpu, gpu = ITERATIONS[name]
    make = partial(iteration, work=work, changes=changes, precision=a.precision, batch=a.batch, device=a.device,
                   threads=a.threads)
    equal = {} if changes or a.precision != "fp32" else differences(WORKS[work], a.device)
    found = row(name, make, gpu if a.device == "cuda" else cpu, a.repeat, a, peak)
    return {**found, "equality": equal}


def frozen_generator(without: frozenset[str], device: str) -> torch.nn.Module:
    """The frozen source generator of the first row."""
    generator = source(WORKS["cgantransfer 32"], device).generator.to(device)
    return plain(generator, without).requires_grad_(False)


def draws(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 128, generator=rng), torch.randint(90, (n,), generator=rng)


def sampling(without: frozenset[str], n: int, device: str) -> Run:
    return partial(generate, frozen_generator(without, device), *draws(n))


def sampling_row(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    n = 64 if a.quick else 1000
    z, y = (t.to(a.device) for t in draws(16))
    with torch.no_grad():
        few = [frozen_generator(frozenset(means), a.device).eval()(z, y) for means in (MEANS, ())]
    found = row(f"sampling {n} images, 32 px", partial(sampling, n=n, device=a.device),
                5.0 if a.device == "cuda" else 1.9, max(2, a.repeat // 2), a, peak, held=False)
    return {**found, "equality": {"images": float((few[0] - few[1]).abs().max())}}


def frechet(without: frozenset[str], d: int, n: int) -> Run:
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=rng) / d**0.5
    x, y = (torch.randn(n, d, generator=rng) @ mix + shift for shift in (0.0, 0.1))
    if without:
        return kept_memory()(partial(frechet_plain, x.numpy(), y.numpy()))
    return partial(frechet_distance_from_features, x, y)


def frechet_row(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    d, n = (256, 2000) if a.quick else (2048, 10_000)
    make = partial(frechet, d=d, n=n)
    ours, other = make(frozenset())(), make(frozenset(MEANS))()
    on_cpu = argparse.Namespace(**{**vars(a), "device": "cpu"})
    found = row(f"Fréchet distance, {d} features, {n} vs {n}", make, 5.0, 1 if a.quick else 7, on_cpu, peak, held=False)
    return {**found, "tflop": {}, "share_of_peak": {}, "flop_ratio": None,
            "equality": {"distance": abs(ours - other) / ours}}


# ---- output ----------------------------------------------------------------------------------------------


def machine(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {"processor": torch.cuda.get_device_name() if a.device == "cuda" else model, "threads": a.threads,
            "simd": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__, "gflops_matrix": peak / 1e9,
            "precision": a.precision}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| work | times plain (least to largest) | wanted | times plain, its memory kept | seconds plain, ours "
             "| TFLOP plain, ours | their ratio | share of the matrix peak plain, ours | peak MB plain, ours "
             "| largest difference |", "|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        def pair(key: str, form: str, r: dict[str, Any] = r) -> str:
            values = r.get(key)
            return f"{values[PLAIN]:{form}}, {values[OURS]:{form}}" if values else ""

        equal = ", ".join(f"{k} {v:.1e}" for k, v in r["equality"].items())
        bound = f"{r['flop_ratio']:.2f}" if r["flop_ratio"] else ""
        kept = f"{r['seconds'][PLAIN_KEPT] / r['seconds'][OURS]:.2f}" if PLAIN_KEPT in r["seconds"] else ""
        lines.append(f"| {r['name']} | **{r['ratio']:.2f}** ({r['least']:.2f} to {r['largest']:.2f}) | {r['wanted']} | "
                     f"{kept} | {pair('seconds', '.2f')} | {pair('tflop', '.3f')} | {bound} | "
                     f"{pair('share_of_peak', '.0%')} | {pair('memory_mb', '.0f')} | {equal} |")
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
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if a.quick:
        a.repeat, a.batch = 2, a.batch or 4
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
    if not a.quick:
        a.out.mkdir(parents=True, exist_ok=True)
        stem = a.device if a.precision == "fp32" else f"{a.device}-{a.precision}"
        record = a.out / f"{stem}.json"
        if a.rows and record.exists():
            anew = {r["name"]: r for r in rows}
            recorded = json.loads(record.read_text())
            described, rows = recorded["machine"], [anew.get(r["name"], r) for r in recorded["rows"]]
        record.write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n")
        (a.out / f"{stem}.md").write_text(f"{table(rows)}\n\nMachine: `{json.dumps(described)}`\n")


if __name__ == "__main__":
    main()
