"""Finished runs, as tables and pictures see them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import SCRATCH, Method
from amd_fused.distill.run_dir import TEACHER, RunDir, find_runs

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """A finished run; `config` and `result` are the contents of its files."""

    path: Path
    config: dict[str, Any]
    result: dict[str, Any]
    settings: Settings

    @classmethod
    def read(cls, path: Path) -> Run:
        """The run in a folder.

        Raises:
            UsageError: it has not come to its end, or its files are of another version.
        """
        run = RunDir(path)
        config = run.config()
        return cls(path, config, run.result(), Settings.from_json(config["settings"]))

    @property
    def is_teacher(self) -> bool:
        return bool(self.config["role"] == TEACHER)

    @property
    def method(self) -> Method:
        """A teacher learns from the labels alone, as a student from scratch does."""
        return SCRATCH if self.is_teacher else self.settings.method

    @property
    def network(self) -> str:
        return str(self.config["network"])

    @property
    def data(self) -> str:
        """Name of the data set; image folders go by their path."""
        name = self.settings.data
        return name if name != "folder" else f"folder {self.settings.data_dir}"

    @property
    def teacher(self) -> dict[str, Any] | None:
        """What `config.json` says of the teacher; None for teachers and students from scratch."""
        return self.config.get("teacher") if self.method.distilled else None

    @property
    def teacher_label(self) -> str:
        """Network of the teacher, and the epoch where it was stopped early; else empty."""
        return _label(self.teacher)

    @property
    def measured_against(self) -> str:
        """The same of the teacher that `amd_distance` was measured to."""
        return _label(self.config.get("teacher"))

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        return RunDir(self.path).epochs()

    @cached_property
    def metrics(self) -> Metrics:
        """After the last epoch; None where the run has no such number."""
        values = dict(self.result.get("test") or {})
        best = self.result.get("best") or {}
        values |= {"best_epoch": best.get("epoch"), "best_top1": best.get("top1")}
        for name in ("amd_distance", "seconds", "images_per_second", "parameters"):
            values[name] = self.result.get(name)
        return {name: finite(value) for name, value in values.items()}


def gather(folders: Sequence[Path]) -> list[Run]:
    """The finished runs at or below folders, each once, also where the folders overlap.

    Raises:
        UsageError: there is none, or one cannot be read.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        for run in find_runs(folder):
            place = run.path.resolve()
            if place not in found:
                found[place] = Run.read(run.path)
    if not found:
        raise UsageError(
            f"{', '.join(map(str, folders)) or 'the list of folders'} must hold a finished run, "
            "a folder with config.json and result.json, at or below it; found none"
        )
    return list(found.values())


def tested_on(runs: Sequence[Run]) -> str:
    """Which images the runs' accuracies are of, as a heading says it."""
    settings = [run.settings for run in runs]
    if any(one.validation_size for one in settings):
        held_out = all(one.validation_size for one in settings)
        return "held-out training images" if held_out else "test or held-out training images"
    sizes = {one.test_size for one in settings}
    if sizes == {0} or not sizes:
        return "all test images"
    return f"{sizes.pop():,} of the test images" if len(sizes) == 1 else "test images"


def unfinished(folders: Sequence[Path]) -> list[Path]:
    """Folders at or below `folders` that hold a run without a result."""
    found = {
        file.parent.resolve(): file.parent
        for folder in folders
        for file in sorted(folder.rglob("config.json"))
        if not (file.parent / "result.json").exists()
    }
    return list(found.values())


def _label(teacher: dict[str, Any] | None) -> str:
    if teacher is None:
        return ""
    stopped = "run" in teacher and teacher["epoch"] < teacher["epochs"]
    epoch = f" (epoch {teacher['epoch']} of {teacher['epochs']})" if stopped else ""
    return f"{teacher['network']}{epoch}"


def finite(value: Any) -> float | None:
    """A number as it is, None for what is no finite number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
