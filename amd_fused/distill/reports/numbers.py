"""The numbers of a report, which the pictures draw and report.json holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amd_fused.distill.reports.differences import Comparison, Interval, comparisons
from amd_fused.distill.reports.groups import Group, Setup, Statistic
from amd_fused.distill.reports.runs import Run, finite
from amd_fused.distill.reports.table import COMPARED, METRICS
from amd_fused.distill.reports.variants import variant_texts


@dataclass(frozen=True)
class Curve:
    """A quantity by epoch (from 1): a line a run, and the mean over epochs that all runs have."""

    seeds: list[int]
    epochs: list[list[int]]
    values: list[list[float]]
    mean_epochs: list[int]
    mean: list[float]


@dataclass(frozen=True)
class Reliability:
    """Test images by confidence, those of all seeds together: count, mean confidence, accuracy.

    `edges` are one more than bins; `ece` (percent) is over the seeds, each on its own.
    """

    edges: list[float]
    count: list[int]
    confidence: list[float]
    accuracy: list[float]
    ece: Statistic | None


@dataclass(frozen=True)
class Point:
    """A run in the picture of AMD distance against accuracy (Fig. 6)."""

    seed: int
    amd_distance: float
    top1: float


@dataclass(frozen=True)
class Difference:
    """By metric, what a group's runs differ by from KD's of the same seeds and teachers."""

    to: str
    metrics: dict[str, Interval | None]


@dataclass(frozen=True)
class GroupNumbers:
    """What is drawn of one method with one choice of settings."""

    key: str
    name: str
    label: str
    settings: list[str]
    folders: list[str]
    seeds: list[int]
    metrics: dict[str, Statistic | None]
    differences: list[Difference]
    top1: Curve
    loss: Curve
    parts: dict[str, Curve]
    reliability: Reliability | None
    distances: list[Point]


@dataclass(frozen=True)
class SetupNumbers:
    """A setup; `correlation` is Pearson's, of AMD distance and accuracy over three runs or more."""

    name: str
    data: str
    teacher: str
    student: str
    groups: list[GroupNumbers]
    correlation: float | None


def numbers(setup: Setup) -> SetupNumbers:
    """All that is drawn of a setup."""
    compared = comparisons(setup)
    groups = [_group(group, setup.teacher, compared) for group in setup.groups]
    points = [point for group in groups for point in group.distances]
    return SetupNumbers(
        setup.name, setup.data, setup.teacher, setup.student, groups, _correlation(points)
    )


def _group(group: Group, teacher: str, compared: Sequence[Comparison]) -> GroupNumbers:
    parts = dict.fromkeys(
        part for run in group.runs for line in run.epochs for part in line.get("parts") or {}
    )
    return GroupNumbers(
        key=group.key,
        name=group.name,
        label=group.label,
        settings=variant_texts(group.variant),
        folders=[str(run.path) for run in group.runs],
        seeds=[run.settings.seed for run in group.runs],
        metrics={metric.key: group.statistic(metric.key) for metric in METRICS},
        differences=[
            Difference(
                comparison.reference.name,
                {metric.key: comparison.interval(metric.key) for metric in COMPARED},
            )
            for comparison in compared
            if comparison.group is group
        ],
        top1=_curve(group.runs, "test", "top1"),
        loss=_curve(group.runs, "loss"),
        parts={part: _curve(group.runs, "parts", part) for part in parts},
        reliability=_reliability(group),
        distances=_distances(group, teacher),
    )


def _curve(runs: Sequence[Run], *keys: str) -> Curve:
    """Of what stands in the log's lines under keys within keys."""
    by_run: list[dict[int, float]] = []
    for run in runs:
        values = {line["epoch"]: finite(_at(line, keys)) for line in run.epochs}
        by_run.append({epoch: value for epoch, value in values.items() if value is not None})
    shared = sorted(set.intersection(*map(set, by_run))) if by_run else []
    return Curve(
        seeds=[run.settings.seed for run in runs],
        epochs=[list(values) for values in by_run],
        values=[list(values.values()) for values in by_run],
        mean_epochs=shared,
        mean=[statistics.fmean(values[epoch] for values in by_run) for epoch in shared],
    )


def _at(line: dict[str, Any], keys: Sequence[str]) -> Any:
    value: Any = line
    for key in keys:
        value = (value or {}).get(key)
    return value


def _reliability(group: Group) -> Reliability | None:
    found = [run.result["reliability"] for run in group.runs if run.result.get("reliability")]
    found = [bins for bins in found if bins["edges"] == found[0]["edges"]]
    if not found:
        return None
    count = [sum(column) for column in zip(*(bins["count"] for bins in found), strict=True)]

    def mean(name: str) -> list[float]:
        sums = [sum(bins["count"][i] * bins[name][i] for bins in found) for i in range(len(count))]
        return [total / n if n else 0.0 for total, n in zip(sums, count, strict=True)]

    return Reliability(
        edges=list(found[0]["edges"]),
        count=count,
        confidence=mean("confidence"),
        accuracy=mean("accuracy"),
        ece=group.statistic("ece"),
    )


def _distances(group: Group, teacher: str) -> list[Point]:
    """Of the runs whose distance is one to the setup's teacher."""
    points = []
    for run in group.runs:
        distance, top1 = run.metrics["amd_distance"], run.metrics.get("top1")
        if distance is not None and top1 is not None and run.measured_against == teacher:
            points.append(Point(run.settings.seed, distance, top1))
    return points


def _correlation(points: Sequence[Point]) -> float | None:
    if len(points) < 3:
        return None
    try:
        found = statistics.correlation(
            [point.amd_distance for point in points], [point.top1 for point in points]
        )
    except statistics.StatisticsError:  # all distances or all accuracies are the same
        return None
    return found if math.isfinite(found) else None
