"""What `amd-fused distill` learns from, by its options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amd_fused.distill.config import Settings
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir

if TYPE_CHECKING:
    from amd_fused.distill.engine import TeacherSource


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where a teacher comes from; its network is the setting --teacher."""
    parser.add_argument(
        "--teacher-run", type=Path, metavar="DIR", help="folder of the teacher's run"
    )
    parser.add_argument(
        "--teacher-epoch",
        type=int,
        metavar="N",
        help="take the teacher as it was after this epoch (early-stopped KD); default: the last",
    )
    parser.add_argument(
        "--teacher-weights",
        type=Path,
        metavar="FILE",
        help="weights of the network --teacher, a safetensors or torch file, in place of a run",
    )


def teacher_of(
    given: argparse.Namespace, settings: Settings, known: Mapping[str, Any] | None
) -> tuple[Settings, TeacherSource | None]:
    """The settings with the teacher's network, and the teacher; None for students from scratch.

    Args:
        known: what the config.json of a run that is resumed says of its teacher.

    Raises:
        UsageError: it is missing, or said twice.
    """
    run, file, epoch = given.teacher_run, given.teacher_weights, given.teacher_epoch
    if run is not None and file is not None:
        raise UsageError(
            f"--teacher-run and --teacher-weights must not be given together, got {run} and {file}"
        )
    if run is not None and hasattr(given, "teacher"):
        raise UsageError(
            "--teacher must not be given with --teacher-run, which says what network it is, got "
            f"{given.teacher!r}"
        )
    if run is None and file is None and known is not None:
        run, file = (Path(known[key]) if key in known else None for key in ("run", "file"))
        epoch = known.get("epoch") if epoch is None else epoch
    if epoch is not None and run is None:
        raise UsageError("--teacher-epoch needs --teacher-run, whose epochs it chooses from")
    if run is None and file is None and settings.method.distilled:
        raise UsageError(
            f"--teacher-run or --teacher-weights must be given for --method {settings.method}; "
            "`amd-fused train-teacher` makes a run"
        )
    if run is not None:
        if not run.is_dir():
            raise UsageError(f"--teacher-run must be the folder of a teacher, got {run}")
        settings = settings.changed(teacher=RunDir(run).settings().teacher)
    from amd_fused.distill import engine

    if run is not None:
        return settings, engine.TeacherChoice(run, epoch)
    return settings, None if file is None else engine.TeacherWeights(file, settings.teacher)
