"""Which runs belong together: setups (data set, teacher, student), and in them groups over seeds.

A group is one method with one choice of settings. Settings that differ within a setup tell its
groups apart, where they matter to the method: gamma matters to AMD, and not to KD.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import parse
from amd_fused.distill.reports.runs import Metrics, Run, finite
from amd_fused.distill.reports.variants import (
    Variant,
    compared,
    differing,
    matters,
    variant_order,
    variant_texts,
)
from amd_fused.distill.run_dir import RunDir

TEACHER_KEY, SCRATCH_KEY = "teacher", "scratch"


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1) of n values; `std` is None for one value."""

    n: int
    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Statistic | None:
        """Of those values that are there; None where none is."""
        known = [float(value) for value in values if value is not None]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return cls(len(known), statistics.fmean(known), std)

    def text(self, form: str) -> str:
        """As "86.36 ± 0.10"; "-" where a single value has no deviation."""
        std = "-" if self.std is None else format(self.std, form)
        return f"{self.mean:{form}} ± {std}"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone, by seed.

    `runs` of a teacher are those whose folders could be read and whose last weights were used;
    `metrics` has an entry a run, and a teacher's also where only its accuracy is known.
    """

    key: str
    label: str
    variant: Variant
    runs: tuple[Run, ...]
    metrics: tuple[Metrics, ...]

    @property
    def distilled(self) -> bool:
        return self.key not in (TEACHER_KEY, SCRATCH_KEY)

    @property
    def name(self) -> str:
        """Label and settings: unique within a setup."""
        return ", ".join([self.label, *variant_texts(self.variant)])

    def statistic(self, metric: str) -> Statistic | None:
        return Statistic.of(values.get(metric) for values in self.metrics)


@dataclass(frozen=True)
class Setup:
    """One student network under one teacher on one data set: the groups in the paper's order.

    `teacher` is empty where only students from scratch are known, `student` for teachers alone.
    """

    data: str
    teacher: str
    student: str
    groups: tuple[Group, ...]

    @property
    def networks(self) -> str:
        return " → ".join(name for name in (self.teacher, self.student) if name)

    @property
    def name(self) -> str:
        return f"{self.data}, {self.networks}"


def arrange(runs: Sequence[Run]) -> list[Setup]:
    """Setups in order of their names; students from scratch belong to all of their network.

    Raises:
        UsageError: two runs have the same settings, seed and teacher.
    """
    by_setup: dict[tuple[str, str, str], list[Run]] = {}
    students = [run for run in runs if not run.is_teacher]
    for run in students:
        if run.method.distilled:
            by_setup.setdefault((run.data, run.teacher_label, run.network), []).append(run)
    used_teachers: set[Path] = set()
    scratch: dict[tuple[str, str], list[Run]] = {}
    for run in students:
        if not run.method.distilled:
            scratch.setdefault((run.data, run.network), []).append(run)
    for (data, network), members in scratch.items():
        homes = [key for key in by_setup if key[1] and (key[0], key[2]) == (data, network)]
        for key in homes:
            by_setup[key] += _nearest(members, by_setup[key])
        if not homes:
            by_setup.setdefault((data, "", network), []).extend(members)
    setups = []
    for (data, teacher, student), members in by_setup.items():
        teachers = _teachers_of(members, runs)
        used_teachers.update(run.path.resolve() for run in teachers.runs)
        groups = ([teachers] if teachers.metrics else []) + _groups(members)
        setups.append(Setup(data, teacher, student, tuple(groups)))
    alone: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.is_teacher and run.path.resolve() not in used_teachers:
            alone.setdefault((run.data, run.network), []).append(run)
    for (data, network), members in alone.items():
        setups.append(Setup(data, network, "", tuple(_groups(members))))
    return sorted(setups, key=lambda setup: (setup.data, setup.student, setup.teacher))


def rows(setup: Setup) -> list[tuple[Variant, list[Group]]]:
    """The setup's table rows: a choice of the settings that differ, and a group a method.

    A group whose method does not depend on a setting belongs to every choice of it.
    """
    variants = list(dict.fromkeys(group.variant for group in setup.groups))
    largest = [v for v in variants if not any(set(v) < set(other) for other in variants)]
    return [
        (variant, [group for group in setup.groups if set(group.variant) <= set(variant)])
        for variant in sorted(largest, key=variant_order)
    ]


def order(key: str) -> tuple[int, ...]:
    """Sorts methods as the paper's tables do: teacher, scratch, single methods, then sums."""
    if key == TEACHER_KEY:
        return (0,)
    return parse(key).order


def label(run: Run) -> str:
    """The heading of the run's column: "Student" is the student trained from scratch."""
    if run.is_teacher:
        return "Teacher"
    return run.method.label if run.method.distilled else "Student"


def _groups(runs: Sequence[Run]) -> list[Group]:
    names = differing(runs)
    members: dict[tuple[str, Variant], dict[tuple[int, str], Run]] = {}
    for run in runs:
        key = TEACHER_KEY if run.is_teacher else run.method.key
        variant = tuple(
            (name, getattr(run.settings, name)) for name in names if matters(name, run.method)
        )
        same = members.setdefault((key, variant), {})
        teacher = "" if run.teacher is None else str(run.teacher["weights_sha256"])
        identity = (run.settings.seed, teacher)
        if identity in same:
            raise UsageError(
                f"runs to be compared must differ in a setting, the seed or the teacher, but "
                f"{same[identity].path} and {run.path} are both {key} with seed "
                f"{run.settings.seed}; leave one out"
            )
        same[identity] = run
    groups = []
    for (key, variant), same in members.items():
        ordered = tuple(run for _, run in sorted(same.items(), key=lambda item: item[0]))
        metrics = tuple(run.metrics for run in ordered)
        groups.append(Group(key, label(ordered[0]), variant, ordered, metrics))
    return sorted(groups, key=lambda group: (order(group.key), variant_order(group.variant)))


def _nearest(scratch: Sequence[Run], students: Sequence[Run]) -> list[Run]:
    """Students from scratch without those that were trained again elsewhere.

    Sweeps under several teachers each train them: of those with the same settings and seed, the one
    whose folder is nearest to the distilled students' stays.
    """

    def nearness(run: Run) -> int:
        place = run.path.resolve()
        return max(len(Path(os.path.commonpath([place, s.path.resolve()])).parts) for s in students)

    same: dict[tuple[Any, ...], list[Run]] = {}
    for run in scratch:
        same.setdefault((run.settings.seed, *compared(run)), []).append(run)
    return [
        run for runs in same.values() for run in runs if nearness(run) == max(map(nearness, runs))
    ]


def _teachers_of(students: Sequence[Run], runs: Sequence[Run]) -> Group:
    """The teachers that students had, each once, by the digest of its weights."""
    used: dict[str, dict[str, Any]] = {}
    for run in students:
        if run.teacher is not None:
            used.setdefault(str(run.teacher["weights_sha256"]), run.teacher)
    found, metrics = [], []
    for teacher in used.values():
        own = _teacher_run(teacher, runs)
        if own is not None:
            found.append(own)
        known = own.metrics if own is not None else _logged(teacher)
        metrics.append({**known, "top1": finite(teacher["top1"])})
    found.sort(key=lambda run: run.settings.seed)
    return Group(TEACHER_KEY, "Teacher", (), tuple(found), tuple(metrics))


def _teacher_run(teacher: dict[str, Any], runs: Sequence[Run]) -> Run | None:
    """The teacher's run if its last weights were used and it still is what it was then."""
    if "run" not in teacher or teacher["epoch"] < teacher["epochs"]:
        return None
    path = Path(teacher["run"])

    def is_it(run: Run) -> bool:
        moved = run.is_teacher and run.path.resolve().name == path.resolve().name
        same_place = run.path.resolve() == path.resolve()
        return (same_place or moved) and (
            (run.network, run.metrics.get("top1")) == (teacher["network"], teacher["top1"])
        )

    for run in sorted(runs, key=lambda run: run.path.resolve() != path.resolve()):
        if is_it(run):
            return run
    try:
        found = Run.read(path)
    except UsageError:
        return None
    return found if is_it(found) else None


def _logged(teacher: dict[str, Any]) -> Metrics:
    """Test metrics of the epoch that was used, where the teacher's log can be read."""
    if "run" not in teacher:
        return {}
    for line in RunDir(Path(teacher["run"])).epochs():
        test = line["test"]
        if line["epoch"] == teacher["epoch"] and test["top1"] == teacher["top1"]:
            return {name: finite(value) for name, value in test.items()}
    return {}
