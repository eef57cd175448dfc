"""`amd-fused tune`: chooses each method's settings on images held out of the training part.

A teacher and all trials have one seed, which no sweep has; the test images are not looked at. As a
sweep, it goes on where it was stopped.

    <output>/teacher/                 trained without the held-out images
    <output>/<method>/trial-0/        a run of each trial
    <output>/<recipe>.json            what was tried, what came of it, what was chosen
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amd_fused.distill import engine
from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import parse
from amd_fused.distill.recipes import Recipe
from amd_fused.distill.run_dir import RunDir, write_json
from amd_fused.distill.setting import flag
from amd_fused.distill.sweep import cache_of, for_teacher
from amd_fused.distill.trials import RULE, best

SEED = 1000
# Raised when keys of the file change.
TUNING_SCHEMA = 1


def run(
    recipe: Recipe, overrides: Mapping[str, Any], out: Path, *, show_progress: bool = True
) -> dict[str, Any]:
    """Runs what is missing; writes and returns what was tried and chosen.

    Raises:
        UsageError: the recipe has nothing to try, or as :func:`engine.distill`.
    """
    if not recipe.trials:
        raise UsageError(f"--recipe must be one with trials, got {recipe.name!r}")
    for name in dict.fromkeys(x for t in recipe.trials for tried in t.tried for x in tried):
        if name in overrides:
            raise UsageError(
                f"{flag(name)} must not be given, for it is to be chosen, got {overrides[name]}"
            )
    # Tested on all that is held out.
    held_out = {"validation_size": recipe.validation_size, "test_size": 0, **overrides}
    common = {**recipe.settings, **held_out}
    teachers = Settings(
        **{**recipe.settings, **recipe.teacher_settings, **for_teacher(recipe, held_out)},
        recipe=recipe.name,
    ).changed(seed=SEED)
    if not teachers.validation_size:
        raise UsageError("--validation-size must be at least 1, got 0")
    teacher = out / "teacher"
    engine.train_teacher(teachers, teacher, resume=True, show_progress=show_progress)
    chosen: dict[str, dict[str, Any]] = {}
    outcomes: list[dict[str, Any]] = []
    for trials in recipe.trials:
        base = chosen[trials.after] if trials.after else {}
        mine = []
        for number, tried in enumerate(trials.tried):
            settings = Settings(
                **{**common, **base, **tried, "method": parse(trials.method), "seed": SEED},
                recipe=recipe.name,
            )
            settings = settings.changed(teacher_cache=cache_of(settings, settings.method, SEED))
            path = out / trials.method / f"trial-{number}"
            under = engine.TeacherChoice(teacher) if settings.method.distilled else None
            result = engine.distill(settings, path, under, resume=True, show_progress=show_progress)
            test = result["test"]
            mine.append({"settings": dict(tried), "top1": test["top1"], "nll": test["nll"]})
        outcomes.append({"method": trials.method, "after": trials.after, "trials": mine})
        chosen[trials.method] = {**base, **trials.tried[best(mine)]}
    content = _described(recipe, teachers, teacher, outcomes, chosen)
    write_json(out / f"{recipe.name}.json", content)
    return content


def _described(
    recipe: Recipe,
    teachers: Settings,
    teacher: Path,
    outcomes: list[dict[str, Any]],
    chosen: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    config = RunDir(teacher).config()
    return {
        "schema": TUNING_SCHEMA,
        "recipe": recipe.name,
        "rule": RULE,
        "validation_size": teachers.validation_size,
        "seed": SEED,
        **{name: config[name] for name in ("commit", "versions", "device", "started")},
        "teacher_top1": RunDir(teacher).result()["test"]["top1"],
        "trials": outcomes,
        "chosen": chosen,
    }
