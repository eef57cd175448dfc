"""What a waiting user sees: a bar in a terminal, and a line for each finished run anywhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from amd_fused.distill.config import Config
from amd_fused.distill.experiment import METHODS, TEACHER
from amd_fused.distill.train import Run


class TrainingProgress:
    """Counts epochs over all runs; pass `on_epoch` to the experiment. A context manager."""

    def __init__(self, console: Console, config: Config) -> None:
        self._config = config
        self._labels = {method.key: method.label for method in METHODS}
        students = len(METHODS) - 1
        total = config.seeds * (config.teacher_epochs + students * config.epochs)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            # Into a file or a pipe, a bar would be noise.
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=total)

    def on_epoch(self, run: Run) -> None:
        name = f"seed {run.seed}, {self._labels[run.method]}"
        self._bar.update(self._task, advance=1, description=name)
        is_teacher = run.method == TEACHER.key
        if len(run.epochs) == (self._config.teacher_epochs if is_teacher else self._config.epochs):
            self._bar.console.print(
                f"{name}: {run.test_accuracy:.2f} % after {len(run.epochs)} epochs, "
                f"{run.seconds:.1f} s",
                highlight=False,
            )

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
