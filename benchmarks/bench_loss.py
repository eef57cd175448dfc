"""Microbenchmarks for pytest-benchmark: every variant's forward pass, backward pass, and both.

    python -m pytest benchmarks/bench_loss.py -W default -k "cifar-wrn and float32 and amd_fused"

For a look at one thing while working on it, with pytest-benchmark's own options, storage and
comparison. One variant is timed after the other, so what is quoted comes from `python -m
benchmarks` instead, where they take turns. AMD_FUSED_BENCH_DEVICE chooses the device (cpu or cuda).
On a GPU each call is waited for, and "graph" replays one call on each set of inputs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import count, product
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import amd, environment, graphs, parity, results
from benchmarks.parity import Verdict
from benchmarks.shapes import SHAPES
from benchmarks.subject import Case, Variant

DEVICE = results.device(os.environ.get("AMD_FUSED_BENCH_DEVICE") or str(results.default_device()))
SHAPE_NAMES = ("cifar-wrn", "imagenet-resnet", "tiny")
DTYPES = ("float32", "bfloat16")
STAGES = ("forward", "backward", "both", *(["graph"] if DEVICE.type == "cuda" else []))
# For one benchmark, and the fewest and most rounds.
_SECONDS = 0.2
_ROUNDS = (5, 100)

# What pytest-benchmark's `pedantic` takes: makes a round's arguments, and is timed with them.
Setup = Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
Timed = Callable[..., object]


class Checked:
    """A case whose variants are checked before they are timed, each once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._right = parity.right_answers(case)
        self._verdicts: dict[str, Verdict] = {}
        self._turn = count()

    def variant(self, key: str) -> Variant:
        """A wrong one is not timed: the benchmark fails, or is skipped if the variant is a peer."""
        variant = next(v for v in self.case.variants if v.key == key)
        if key not in self._verdicts:
            right = self._right[variant.oracle]
            self._verdicts[key] = parity.check(variant, self.case, right)
        _refuse(variant, self._verdicts[key])
        return variant

    def stage(self, variant: Variant, name: str) -> tuple[Setup, Timed]:
        """Inputs are taken in turn, so that none is in the cache because it was just read."""
        case = self.case

        def inputs() -> Any:
            return case.inputs[next(self._turn) % len(case.inputs)]

        def forward(chosen: Any) -> Tensor:
            return variant.loss(*chosen.arguments)

        def backward(chosen: Any, value: Tensor) -> None:
            torch.autograd.grad(value, chosen.student, case.upstream_of(value))

        def both(chosen: Any) -> None:
            backward(chosen, forward(chosen))

        def with_value() -> Any:
            chosen = inputs()
            value = forward(chosen)
            _wait()
            return (chosen, value), {}

        if name == "graph":
            verdict, replay = graphs.captured(variant, case, self._right[variant.oracle])
            _refuse(variant, verdict)
            assert replay is not None
            return lambda: ((), {}), _then_wait(replay.graph.replay)
        if name == "backward":
            return with_value, _then_wait(backward)
        return lambda: ((inputs(),), {}), _then_wait(forward if name == "forward" else both)


@lru_cache(maxsize=1)
def case_of(shape: str, layout: str, dtype: str) -> Checked:
    """Kept while its variants are timed: benchmarks of one case are collected one after another."""
    return Checked(amd.case(SHAPES[shape], layout, getattr(torch, dtype), DEVICE))


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    return environment.describe(DEVICE)


def _parameters() -> list[Any]:
    keys = [variant.key for variant in amd.variants(DEVICE)]
    # tiny is for the tests, which need one case.
    cases = [
        case
        for case in product(SHAPE_NAMES, amd.LAYOUTS, DTYPES)
        if case[0] != "tiny" or case[1:] == ("nchw", "float32")
    ]
    return [
        pytest.param(*case, key, stage, id="-".join((*case, key, stage)))
        for case, key, stage in product(cases, keys, STAGES)
    ]


@pytest.mark.parametrize(("shape", "layout", "dtype", "key", "stage"), _parameters())
def test_loss(benchmark: Any, shape: str, layout: str, dtype: str, key: str, stage: str) -> None:
    checked = case_of(shape, layout, dtype)
    variant = checked.variant(key)
    setup, timed = checked.stage(variant, stage)
    benchmark.group = f"{variant.part} of the loss, {shape}, {layout}, {dtype}: {stage}"
    benchmark.extra_info.update(
        variant=variant.title,
        ideal_bytes=checked.case.ideal.total,
        calls=len(checked.case.inputs) if stage == "graph" else 1,
        environment=machine(),
    )
    rounds = _rounds(setup, timed)
    benchmark.pedantic(timed, setup=setup, rounds=rounds, warmup_rounds=1)


def _rounds(setup: Setup, timed: Timed) -> int:
    """As many as fit into the time for one benchmark, by what a round took."""
    arguments, options = setup()
    start = time.perf_counter()
    timed(*arguments, **options)
    fewest, most = _ROUNDS
    fitting = _SECONDS / max(time.perf_counter() - start, 1e-9)
    return int(min(most, max(fewest, fitting)))


def _refuse(variant: Variant, verdict: Verdict) -> None:
    if verdict.status != "ok":
        end = pytest.skip if variant.peer else pytest.fail
        end(f"{variant.title}: {verdict.status}, {verdict.reason}")


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def _then_wait(call: Timed) -> Timed:
    return partial(_call_and_wait, call) if DEVICE.type == "cuda" else call


def _call_and_wait(call: Timed, *arguments: Any, **options: Any) -> None:
    call(*arguments, **options)
    _wait()
