"""Processes that are killed while they fill, and several that fill at once."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from distill.processes import said
from forks import Forks

from teacher_cache.cache_filler import EVENTS
from teacher_cache.cached_teachers import SAMPLES, by_name, cache, dataset, expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def found(folder: Path, with_torch: Forks) -> dict[str, Any]:
    """What cache_filler.py printed."""
    program = "import sys, pathlib; from teacher_cache import cache_filler\n"
    program += "cache_filler.main(pathlib.Path(sys.argv[1]))"
    return json.loads(said(with_torch, program, str(folder)))


def rightly_there(folder: Path) -> int:
    """How many samples a cache has, all of them right."""
    kept, wanted = cache(folder), expected(dataset().tensors[0])
    there = [index for index in range(SAMPLES) if kept.get([index]) is not None]
    assert len(there) == SAMPLES - kept.missing
    if there:
        for name, a in by_name(kept.get(there)).items():
            torch.testing.assert_close(a.double(), wanted[name][there], rtol=1e-5, atol=1e-6)
    return len(there)


@pytest.mark.parametrize("event", EVENTS)
def test_a_killed_process_leaves_what_is_right_and_the_next_goes_on(
    folder: Path, found: dict[str, Any], event: int
) -> None:
    gave = found[str(event)]
    assert gave["codes"] == [-signal.SIGKILL, 0]
    left = rightly_there(folder / f"{event}.left")
    assert left % 8 == 0
    assert left < SAMPLES
    # In the same order, so that whole batches are there or not.
    assert gave["passes"] == 7 - left // 8
    assert rightly_there(folder / str(event)) == SAMPLES


def test_some_were_killed_before_and_some_while_they_filled(
    folder: Path, found: dict[str, Any]
) -> None:
    left = [rightly_there(folder / f"{event}.left") for event in EVENTS]
    assert left == sorted(left)
    assert left[0] == 0
    assert left[-1] >= 16


def test_two_processes_fill_one_folder(folder: Path, found: dict[str, Any]) -> None:
    assert found["two"]["codes"] == [0, 0, 0]
    first, second, late = found["two"]["passes"]
    assert max(first, second) <= 7
    assert first + second >= 7
    assert late == 0
    assert rightly_there(folder / "two") == SAMPLES


def test_two_processes_go_on_where_one_was_killed(folder: Path, found: dict[str, Any]) -> None:
    assert 0 < found["half"]["missing"] < SAMPLES
    assert found["half"]["codes"] == [0, 0, 0]
    assert found["half"]["passes"][2] == 0
    assert rightly_there(folder / "half") == SAMPLES
