"""Readers of files that anybody may have written, against mutated inputs, and everything that fuzzing ever found.

The same targets are fuzzed at length by ``benchmarks/torture/fuzz.py``.
"""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torture.fuzz import NAMES, mutated
from torture.targets import Targets

SLOWEST = 20  # seconds; far more than any input may take


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return Targets(tmp_path_factory.mktemp("fuzz"))


def test_every_target_is_fuzzed(targets: Targets) -> None:
    assert set(targets.by_name) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_sound_inputs_are_read(targets: Targets, name: str) -> None:
    """Or else mutations of them would try nothing."""
    seeds = targets.seeds(name)
    if name == "image":
        for seed in seeds:
            targets.run(name, seed)
    else:
        for seed in seeds:
            targets.by_name[name](seed)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_mutated_inputs_end_in_our_errors(targets: Targets, name: str, seed: int) -> None:
    began = time.monotonic()
    targets.run(name, mutated(targets.seeds(name), random.Random(seed)))
    assert time.monotonic() - began < SLOWEST


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_any_bytes_end_in_our_errors(targets: Targets, name: str, content: bytes) -> None:
    targets.run(name, content)


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def _arrays(old: bytes, new: bytes) -> bytes:
    """A weights file of NumPy arrays (the first byte says so) in which some bytes are others."""
    out = io.BytesIO()
    np.savez(out, a=np.zeros(2, np.float32))
    assert old in out.getvalue()
    return b"\2" + out.getvalue().replace(old, new)


LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (n, n, *[n - 1] * 9) for n in range(ord("b"), ord("k"))
) + b"steps: *j\n"
DEEP, DIGITS = _nested(100_000), b"9" * 5000
FINDS: dict[str, tuple[str, bytes]] = {
    # By atheris, in the first seconds:
    "a config that is no UTF-8": ("config", b"ste\xf0satch\"\0: 3\nlr_g: 1e-3\n"),
    "a source that is a word": ("config", b"kind: adapt\nsource: arch27\nmethod: {name: bsa}\ndata: {}\n"),
    "a run's sections that are words": ("config", b"format_version: 1\nkind: adapt\ntrain: {}\nmeasure: {}\nloss: {}\n"
                                        b"data: {}\nmethod: bsa\nsource: {name: x}\n"),
    "arrays in a zip of a later version": ("weights", _arrays(b"PK\1\2\x2d\x03\x2d", b"PK\1\2\x2d\x03\xff")),
    # By looking for what is like it, in all readers:
    "a config of 5,000 digits": ("config", b"steps: " + DIGITS),
    "a deeply nested config": ("config", DEEP),
    "aliases that would be printed a billion times": ("config", LAUGHS),
    "deeply nested labels": ("labels", b'{"labels": ' + DEEP + b"}"),
    "labels that no file can hold": (
        "labels", b'{"labels": [["a/00.png", "\\ud800"], ["a/01.png", 1], ["a/02.png", 2]]}'),
    "a deeply nested model": ("model", b'{"arch": ' + DEEP + b"}"),
    "a deeply nested adapter": ("adapter", b'{"fields": ' + DEEP + b"}"),
    "a model of 5,000 digits": ("model", b'{"format_version": ' + DIGITS + b"}"),
    "a model of a format in words": ("model", b'{"format_version": "one"}'),
    "a model of a list for an architecture": ("model", b'{"arch": [1], "network": {}}'),
    "a checkpoint that is a list": ("checkpoint", b"[1, 2]"),
    "a checkpoint without progress": ("checkpoint", b'{"world": 1, "optimizers": {}}'),
    "a checkpoint whose step is a word": ("checkpoint", b'{"progress": {"step": "two"}, "world": 1}'),
    "a checkpoint of an endless number": ("checkpoint", b'{"progress": {"seconds": Infinity}, "world": 1}'),
}


@pytest.mark.parametrize("name", FINDS)
def test_what_was_found(targets: Targets, name: str) -> None:
    began = time.monotonic()
    targets.run(*FINDS[name])
    assert time.monotonic() - began < SLOWEST


def _with(content: bytes, *path: str, value: object) -> bytes:
    meta = json.loads(content)
    place = meta
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(meta).encode()


HUGE = [("z_dim", 10**12), ("num_classes", 10**12), ("resolution", 2**40), ("g_widths", [10**6] * 3), ("z_dim", -1),
        ("z_dim", "many"), ("g_widths", [])]


@pytest.mark.parametrize(("key", "value"), HUGE)
def test_a_model_that_claims_to_be_huge_is_not_built(targets: Targets, key: str, value: object) -> None:
    """A few lines of JSON beside a small file must not take all memory before the two are compared."""
    began = time.monotonic()
    targets.run("model", _with(targets.seeds("model")[0], "network", key, value=value))
    assert time.monotonic() - began < SLOWEST


@pytest.mark.parametrize(("key", "value"), [("resolution", 2**40), ("classes", ["x"] * 10**5), ("channels", 10**9),
                                            ("num_images", "many")])
def test_an_adapter_that_claims_to_be_huge_is_not_built(targets: Targets, key: str, value: object) -> None:
    targets.run("adapter", _with(targets.seeds("adapter")[0], "target", key, value=value))


def test_mutation_changes_inputs_and_repeats(tmp_path: Path) -> None:
    seeds = [b"hello world", b"0123456789"]
    made = [mutated(seeds, random.Random(i)) for i in range(50)]
    assert made == [mutated(seeds, random.Random(i)) for i in range(50)] and len(set(made)) > 40
