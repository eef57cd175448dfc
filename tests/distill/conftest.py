"""Settings of the trainer's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
collect_ignore = [] if _FASHION_MNIST.is_dir() else ["test_data_fashion_installed.py"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread_for_training(one_thread: None) -> None:
    """Networks this small train slower on several."""


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Files take longer to the disk than such networks to train, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports hold pictures that nobody drew, which takes most of their time: for tests of the
    rest. test_report.py and test_sweep.py have them drawn."""
    for module in ("report", "sweep_picture"):
        monkeypatch.setattr(f"amd_fused.distill.reports.{module}.png", lambda figure: b"")
