"""A run's folder before the run: whether it may begin or go on there."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from amd_fused.distill.config import WITHOUT_EFFECT, Settings, flag
from amd_fused.distill.engine import checkpoints
from amd_fused.distill.engine.checkpoints import Progress
from amd_fused.distill.engine.networks import TeacherChoice
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir


@dataclass(frozen=True)
class Found:
    """What a folder holds of a run that goes on: its config.json, what was saved, its result."""

    config: dict[str, Any] | None = None
    saved: tuple[dict[str, Any], Progress] | None = None
    result: dict[str, Any] | None = None


def open_run(
    run: RunDir, role: str, settings: Settings, teacher: TeacherChoice | None, resume: bool
) -> Found:
    """What a run finds in its folder; nothing, where it begins.

    Raises:
        UsageError: there is a run and not `resume`, or it is another one: with other settings, of
            another role or teacher.
    """
    if not (run.config_file.exists() or run.last_checkpoint.exists()):
        return Found()
    if not resume:
        raise UsageError(
            f"--output-dir must be a folder without a run, got {run.path}; --resume goes on with it"
        )
    config = run.config()
    if config["role"] != role:
        raise UsageError(f"--resume: {run.path} must be a {role}'s run, got a {config['role']}'s")
    _check_settings(run, settings)
    finished = run.result_file.exists()
    _check_teacher(run, config["teacher"], teacher, finished)
    if finished:
        return Found(config, result=run.result())
    return Found(config, saved=checkpoints.load_resumable(run))


def _check_settings(run: RunDir, settings: Settings) -> None:
    before = run.settings()
    for option in fields(Settings):
        was, given = getattr(before, option.name), getattr(settings, option.name)
        if was != given and option.name not in WITHOUT_EFFECT:
            raise UsageError(
                f"--resume: {flag(option.name)} must be {was!r} as in {run.config_file}, got "
                f"{given!r}"
            )


def _check_teacher(
    run: RunDir, before: dict[str, Any] | None, given: TeacherChoice | None, finished: bool
) -> None:
    if before is None or given is None:
        if before is not None or given is not None:
            was = "no teacher" if before is None else f"the teacher {before['run']}"
            got = "none" if given is None else given.run
            raise UsageError(f"--resume: {run.path} must go on with {was}, got {got}")
        return
    try:
        file = checkpoints.weights_file(RunDir(given.run), given.epoch)
    except UsageError:
        # A finished student can do without its teacher.
        if finished:
            return
        raise
    if checkpoints.weights_hash(file) != before["weights_sha256"]:
        raise UsageError(
            f"--resume: {run.path} must go on with the teacher {before['run']} as it was after "
            f"epoch {before['epoch']}, got other weights, {file}"
        )
