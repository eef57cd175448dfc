"""What a recipe is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amd_fused.distill.methods import BUILT_IN
from amd_fused.distill.paper import Setup
from amd_fused.distill.trials import Trials

# Where a recipe sets these for teachers, what changes them for all leaves them as they are.
SIZES_APART = ("train_size", "epochs")
# Why a method of a table does not run.
UNEQUAL = "AFDS compares channel by channel, and the teacher's layers are wider than the student's"


# By a setting's name, the values that a sweep gives it.
Grid = Mapping[str, tuple[float | str, ...]]


@dataclass(frozen=True)
class Recipe:
    """A named experiment.

    Args:
        title: one line.
        settings: of teachers and students.
        teacher_settings: of teachers, over those.
        methods, seeds, grid: what `amd-fused sweep` runs.
        left_out: methods that cannot run, by their keys, and why.
        method_settings: of students by a method, by its key, over those of all.
        trials, validation_size: what `amd-fused tune` tries, and the training images it holds out.
        reported: what the paper reports of the networks and data, if they are the paper's.
        expected: what it reports of this recipe, in lines, of which the last says most.
        plugins: files and modules that it needs.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    teacher_settings: Mapping[str, Any]
    methods: tuple[str, ...]
    seeds: int = 5
    grid: Grid = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    method_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trials: tuple[Trials, ...] = ()
    validation_size: int = 0
    reported: Setup | None = None
    expected: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


def every(left_out: Mapping[str, str]) -> tuple[str, ...]:
    """All built-in methods but some, and AMD with SP."""
    return (*(term.key for term in BUILT_IN if term.key not in left_out), "amd-gl+sp")
