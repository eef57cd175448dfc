"""A run's folder before the run: whether it may begin or go on there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amd_fused.distill.config import WITHOUT_EFFECT, Settings
from amd_fused.distill.engine import checkpoints
from amd_fused.distill.engine.checkpoints import Progress
from amd_fused.distill.engine.teachers import TeacherSource, described
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir
from amd_fused.distill.setting import flag


@dataclass(frozen=True)
class RunState:
    """What a folder holds of a run that is resumed: config.json, last checkpoint, result."""

    config: dict[str, Any] | None = None
    checkpoint: tuple[dict[str, Any], Progress] | None = None
    result: dict[str, Any] | None = None


def load_run_state(
    run: RunDir, role: str, settings: Settings, teacher: TeacherSource | None, resume: bool
) -> RunState:
    """The state of the run in a folder; empty, where it begins.

    Raises:
        UsageError: there is a run and not `resume`, or it is another one: with other settings, of
            another role or teacher.
    """
    if not (run.config_file.exists() or run.last_checkpoint.exists()):
        return RunState()
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
        return RunState(config, result=run.result())
    return RunState(config, checkpoint=checkpoints.load_checkpoint(run))


def _check_settings(run: RunDir, settings: Settings) -> None:
    before, now = run.settings().to_json(), settings.to_json()
    for name, given in now.items():
        was = before[name]
        if was != given and name not in WITHOUT_EFFECT:
            raise UsageError(
                f"--resume: {flag(name)} must be {was!r} as in {run.config_file}, got {given!r}"
            )


def _check_teacher(
    run: RunDir, before: dict[str, Any] | None, given: TeacherSource | None, finished: bool
) -> None:
    if before is None or given is None:
        if before is not None or given is not None:
            was = "no teacher" if before is None else f"the teacher {described(before)}"
            got = "none" if given is None else given
            raise UsageError(f"--resume: {run.path} must go on with {was}, got {got}")
        return
    try:
        digest = given.weights_hash()
    except UsageError:
        # A finished student can do without its teacher.
        if finished:
            return
        raise
    if digest != before["weights_sha256"]:
        raise UsageError(
            f"--resume: {run.path} must go on with the teacher {described(before)}, got other "
            f"weights, those of {given}"
        )
