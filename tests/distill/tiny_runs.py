"""Runs of the trainer that take a fraction of a second, and what two equal ones have in common."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from amd_fused.distill.config import Settings
from amd_fused.distill.data import digits
from amd_fused.distill.methods import parse
from amd_fused.distill.run_dir import RunDir


def tiny(**changes: Any) -> Settings:
    """Two epochs of six steps on 60 digits, tested on an odd number.

    Gamma is such that the AMD loss counts, no more. `method` is given by its key.
    """
    if "method" in changes:
        changes["method"] = parse(changes["method"])
    base = Settings(
        teacher="wrn10-2",
        student="wrn10-1",
        epochs=2,
        batch_size=10,
        train_size=60,
        test_size=101,
        milestones=(1,),
        gamma=100.0,
        sp_weight=10.0,
    )
    return base.changed(**changes)


def import_all() -> None:
    """What a first run imports and reads: for a process that forks others to run."""
    digits.parts()
    importlib.import_module("torch.utils.tensorboard")


class Crash(Exception):
    """As any error in a step."""


def crash() -> None:
    raise Crash


def send(which: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), which)


@contextlib.contextmanager
def in_step(number: int, action: Callable[[], None]) -> Iterator[list[int]]:
    """Calls `action` within the number-th optimizer step from here on, before it changes a weight.

    Gives a list with the steps begun so far.
    """
    begun = [0]

    def hook(*_: Any) -> None:
        begun[0] += 1
        if begun[0] == number:
            action()

    handle = register_optimizer_step_pre_hook(hook)
    try:
        yield begun
    finally:
        handle.remove()


def weights(path: Path, epoch: int = 2) -> dict[str, torch.Tensor]:
    return torch.load(RunDir(path).weights_file(epoch))["state_dict"]


def timeless(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines of log.jsonl and result.json without what a clock says."""

    def without_clock(record: dict[str, Any]) -> dict[str, Any]:
        clock = ("seconds", "images_per_second")
        return {key: value for key, value in record.items() if key not in clock}

    run = RunDir(path)
    return [without_clock(line) for line in run.epochs()], without_clock(run.result())


def assert_same_run(a: Path, b: Path, epoch: int = 2) -> None:
    """The same weights bit for bit, the same lines, the same result."""
    weights_a, weights_b = weights(a, epoch), weights(b, epoch)
    assert weights_a.keys() == weights_b.keys()
    assert all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)
    assert timeless(a) == timeless(b)
    assert RunDir(a).saved_epochs() == RunDir(b).saved_epochs()
