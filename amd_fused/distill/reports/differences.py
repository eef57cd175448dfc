"""Paired differences over seeds, to KD or another setting: what is left of them without chance.

Runs of one seed share their weights' start, the order of the images and the teacher, so their
difference varies less than either of them.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from amd_fused.distill.reports.groups import TEACHER_KEY, Group, Setup, rows
from amd_fused.distill.reports.runs import Run
from amd_fused.distill.reports.variants import Variant

REFERENCE_KEY = "kd"
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean of n paired differences, and the bounds of its 95 % interval by Student's t."""

    n: int
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval | None:
        """None for fewer than two values, which say nothing of how much they vary."""
        if len(values) < 2:
            return None
        mean = statistics.fmean(values)
        error = statistics.stdev(values) / math.sqrt(len(values))
        half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * error
        return cls(len(values), mean, mean - half, mean + half)

    @property
    def distinguishable(self) -> bool:
        """Whether 0, no difference, lies outside."""
        return not self.low <= 0 <= self.high

    def text(self, form: str) -> str:
        """As "+0.35 [-0.10, +0.80]"."""
        mean, low, high = (format(x, f"+{form}") for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True)
class Comparison:
    """A group and what it is compared with, as the KD group of the same row of the table."""

    group: Group
    reference: Group

    def interval(self, metric: str) -> Interval | None:
        """Of the metric's differences, group minus reference, over the seeds that both have.

        Distilled students are pairs where they also had the same teacher.
        """
        own, others = (
            _by_pair(group, metric, with_teacher=self.group.distilled)
            for group in (self.group, self.reference)
        )
        return Interval.of([own[key] - others[key] for key in sorted(own.keys() & others.keys())])


def comparisons(setup: Setup) -> list[Comparison]:
    """Every student's group beside KD's, in the order of the table."""
    found = {}
    for _, groups in rows(setup):
        for reference in (group for group in groups if group.key == REFERENCE_KEY):
            for group in groups:
                if group.key not in (TEACHER_KEY, REFERENCE_KEY):
                    found[group.name, reference.name] = Comparison(group, reference)
    return list(found.values())


def by_setting(setup: Setup, setting: str) -> list[Comparison]:
    """Groups of one method that differ in a setting alone, each beside that of the first value."""
    same: dict[tuple[str, Variant], list[Group]] = {}
    for group in setup.groups:
        if setting in dict(group.variant):
            others = tuple(item for item in group.variant if item[0] != setting)
            same.setdefault((group.key, others), []).append(group)
    return [Comparison(group, first) for first, *rest in same.values() for group in rest]


def names(compared: Sequence[Comparison]) -> list[str]:
    """Of the groups; with KD's where there are several."""
    several = len({comparison.reference.name for comparison in compared}) > 1
    return [
        f"{one.group.name} (to {one.reference.name})" if several else one.group.name
        for one in compared
    ]


def verdict(named: Sequence[tuple[str, Interval | None]]) -> str:
    """Which of the differences in top-1 accuracy could be chance, in one line.

    Args:
        named: the groups' names with their intervals, of which None are left out.
    """
    above, below = "Top-1 above KD", "Top-1 below KD"
    neither = "Top-1 not distinguishable from KD"
    parts: dict[str, list[str]] = {above: [], below: [], neither: []}
    for name, interval in named:
        if interval is not None:
            side = above if interval.mean > 0 else below
            parts[side if interval.distinguishable else neither].append(name)
    lines = [f"{side}: {', '.join(found)}." for side, found in parts.items() if found]
    count = sum(map(len, parts.values()))
    if count > 1:
        lines.append(
            f"Each interval is for itself: of {count} methods equal to KD, "
            f"{count * (1 - LEVEL):.2g} would be taken for different by chance."
        )
    return " ".join(lines)


def _by_pair(group: Group, metric: str, *, with_teacher: bool) -> dict[tuple[int, str], float]:
    """The metric by what makes a pair, where the group has only one run of it."""

    def pair(run: Run) -> tuple[int, str]:
        teacher = run.teacher if with_teacher else None
        return run.settings.seed, "" if teacher is None else str(teacher["weights_sha256"])

    count = Counter(map(pair, group.runs))
    values = {pair(run): run.metrics.get(metric) for run in group.runs if count[pair(run)] == 1}
    return {key: value for key, value in values.items() if value is not None}
