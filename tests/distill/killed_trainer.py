"""Trains a student undisturbed, and again with SIGKILL at random points; run by a test.

The program KILLED with arguments FOLDER and KILLS writes FOLDER/whole and FOLDER/killed, and prints
how many of the KILLS came before the second had ended. With `cache` behind them the second keeps
its teacher's outputs in FOLDER/cache, flushed after every step, and the first does not. Each
training is a process of its own.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from killing import end, kill_at, start
from torch.optim.optimizer import register_optimizer_step_pre_hook

from amd_fused.distill import engine
from amd_fused.distill.config import Settings
from amd_fused.teacher_cache import files
from distill.tiny_runs import import_all, tiny

KILLED = """
import sys
from pathlib import Path
from distill import killed_trainer
killed_trainer.main(Path(sys.argv[1]), int(sys.argv[2]), cached=sys.argv[3:] == ["cache"])
"""
SETTINGS = tiny(method="amd-gl", mixup=0.2, checkpoint_steps=2, epochs=3)


def in_child(action: Callable[[], Any]) -> int:
    """Runs it in a child; the signal that ended it, 0 for none."""
    (code,) = end(start(action))
    if code > 0:
        sys.exit("a training failed")
    return -code


def train(folder: Path, name: str, settings: Settings, resume: bool) -> None:
    teacher = engine.TeacherChoice(folder / "teacher")
    quiet: dict[str, Any] = {"show_progress": False}
    engine.distill(settings, folder / name, teacher, resume=resume, **quiet)


def killed_at(event: int, action: Callable[[], None]) -> Callable[[], None]:
    """The action in a process that dies at its event-th step, flush to disk or renaming."""

    def run() -> None:
        register_optimizer_step_pre_hook(kill_at(event))
        action()

    return run


def main(folder: Path, kills: int, cached: bool) -> None:
    whole = killed = SETTINGS
    if cached:
        files.FLUSH_BYTES = 1
        whole = SETTINGS.changed(mixup=0.0, teacher_cache="off")
        killed = whole.changed(teacher_cache=str(folder / "cache"))
    import_all()
    in_child(lambda: engine.train_teacher(tiny(), folder / "teacher", show_progress=False))
    in_child(lambda: train(folder, "whole", whole, resume=False))
    chance = random.Random(0)
    killed_early = 0
    for _ in range(kills):
        event = chance.randrange(2, 40)
        ended = in_child(killed_at(event, lambda: train(folder, "killed", killed, resume=True)))
        killed_early += ended == signal.SIGKILL
    in_child(lambda: train(folder, "killed", killed, resume=True))
    print(killed_early)
