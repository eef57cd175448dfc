"""`amd-fused sweep`: teachers and students over methods, seeds and a grid, then table and report.

A sweep that was stopped goes on when it is started again: finished runs stay, half of one resumes.

    <output>/teacher/seed-0/                the teacher of seed 0
    <output>/amd-gl/seed-0/                 its student by the method amd-gl
    <output>/amd-g_gamma-3000/seed-0/       at a point of the grid
    <output>/table.md table.csv report.html report.json gamma.png

`--teacher-cache DIR` has a cache for each teacher and what methods take of it: students whose
losses take the same read what the first of them wrote, DIR/seed-0/logits+attention for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from amd_fused.distill import engine, models, reports
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import Method
from amd_fused.distill.recipe import SIZES_APART, Recipe


@dataclass(frozen=True)
class Point:
    """A run of a student: its folder below the sweep's, and its settings."""

    folder: Path
    settings: Settings


def run(
    recipe: Recipe,
    overrides: Mapping[str, Any],
    out: Path,
    *,
    methods: tuple[Method, ...],
    seeds: int,
    grid: Mapping[str, tuple[float, ...]],
    teacher_epoch: int | None = None,
    show_progress: bool = True,
) -> None:
    """Runs what is missing and writes table, report and, for a grid, its picture into `out`."""
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {seeds}")
    teachers = Settings(
        **{**recipe.settings, **recipe.teacher_settings, **for_teacher(recipe, overrides)},
        recipe=recipe.name,
    )
    students = Settings(**{**recipe.settings, **overrides}, recipe=recipe.name)
    own = {
        method: {name: x for name, x in values.items() if name not in overrides}
        for method, values in recipe.method_settings.items()
    }
    # First what cannot work, not after hours of training.
    chosen = points(students, methods, seeds, grid, own)
    models.canonical(students.student)
    _check_epoch(teacher_epoch, teachers)
    for seed in range(seeds):
        teacher = out / "teacher" / f"seed-{seed}"
        engine.train_teacher(
            teachers.changed(seed=seed),
            teacher,
            resume=True,
            show_progress=show_progress,
        )
        for point in chosen[seed]:
            under = None
            if point.settings.method.distilled:
                under = engine.TeacherChoice(teacher, teacher_epoch)
            engine.distill(
                point.settings,
                out / point.folder,
                under,
                resume=True,
                show_progress=show_progress,
            )
    finish(out, grid)


def points(
    settings: Settings,
    methods: tuple[Method, ...],
    seeds: int,
    grid: Mapping[str, tuple[float, ...]],
    of_methods: Mapping[str, Mapping[str, Any]],
) -> list[list[Point]]:
    """The students of each seed: every method once, those with an AMD loss at every grid point.

    Args:
        of_methods: settings of a method's own, by its key, over `settings`.
    """
    for method in methods:
        method.check(settings)
    if len(set(methods)) < len(methods):
        raise UsageError(f"--methods must differ, got {' '.join(map(str, methods))}")
    for name, values in grid.items():
        if len(set(values)) < len(values):
            raise UsageError(f"--{name} must differ, got {' '.join(f'{v:g}' for v in values)}")
    return [
        [
            Point(
                Path("_".join([method.key, *(f"{k}-{v:g}" for k, v in at.items())]))
                / f"seed-{seed}",
                settings.changed(
                    **{
                        **of_methods.get(method.key, {}),
                        "method": method,
                        "seed": seed,
                        "teacher_cache": cache_of(settings, method, seed),
                        **at,
                    }
                ),
            )
            for method in methods
            for at in (_grid_points(grid) if "amd" in method.losses else [{}])
        ]
        for seed in range(seeds)
    ]


def finish(out: Path, grid: Mapping[str, tuple[float, ...]]) -> None:
    """Table, report and pictures of all finished runs of the sweep."""
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    print(reports.write_table([out], out))
    written = [out / "table.md", out / "table.csv", out / "report.html"]
    reports.write_report([out], out / "report.html")
    written += [reports.write_sweep_picture([out], out / f"{name}.png", name) for name in grid]
    # Not a console's print, which breaks long paths into lines.
    print("\n".join(f"Written: {path}" for path in written))


def for_teacher(recipe: Recipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What the user changed, of what a teacher has; sizes that the recipe sets apart stay apart."""
    apart = set(SIZES_APART) & set(recipe.teacher_settings)
    return {name: value for name, value in overrides.items() if name not in apart}


def _check_epoch(epoch: int | None, teachers: Settings) -> None:
    """Refuses a teacher's epoch whose weights will not be kept for sure, before it is trained."""
    last, every = teachers.epochs, teachers.save_every
    if epoch is None or epoch == last or (every and 0 < epoch < last and epoch % every == 0):
        return
    raise UsageError(
        f"--teacher-epoch must be the last one, {last}, or a multiple of --save-every, {every}, "
        f"below it, got {epoch}"
    )


def cache_of(settings: Settings, method: Method, seed: int) -> str:
    """`--teacher-cache` of a student: in a folder, one a teacher and what a method takes of it."""
    folder = settings.teacher_cache_folder
    if folder is None:
        return settings.teacher_cache
    return str(Path(folder, f"seed-{seed}", "+".join(method.taught_by)))


def _grid_points(grid: Mapping[str, tuple[float, ...]]) -> Iterator[dict[str, float]]:
    return (dict(zip(grid, values, strict=True)) for values in product(*grid.values()))
