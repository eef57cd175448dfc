"""What is said of a run while it goes on: log.jsonl, trackers, and the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from amd_fused._files import write_atomically
from amd_fused.distill.data import DataSet
from amd_fused.distill.engine.trackers import Trackers
from amd_fused.distill.run_dir import RunDir

# A teacher below so many times the accuracy of guessing, or half way from it, is worth a doubt.
_NEAR_CHANCE = 2


class Logs:
    """log.jsonl and the trackers of a run, both set back to the lines that it goes on from.

    A line may have been written after the last checkpoint.
    """

    def __init__(
        self,
        run: RunDir,
        accelerator: Accelerator,
        lines: Sequence[Mapping[str, Any]],
        config: Mapping[str, Any],
    ) -> None:
        self._file = run.log_file
        text = "".join(_as_line(line) for line in lines)
        write_atomically(self._file, lambda part: part.write_text(text))
        self._trackers = Trackers(run, accelerator, lines, config)

    def add(self, line: Mapping[str, Any]) -> None:
        """An epoch's line."""
        with self._file.open("a") as file:
            file.write(_as_line(line))
        self._trackers.add(line)

    def close(self) -> None:
        self._trackers.close()


class Display:
    """What a waiting user sees, on stderr: a bar in a terminal, a line an epoch elsewhere.

    Args:
        name: of the run.
        epochs, steps: of the run, and of an epoch.
        done: steps of the run that are done already.
    """

    def __init__(self, name: str, epochs: int, steps: int, done: int, show: bool) -> None:
        self._name, self._epochs, self._steps, self._show = name, epochs, steps, show
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[speed]}, left"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            # Where the terminal is narrow, this one takes two lines.
            TextColumn("{task.fields[losses]}", table_column=Column(no_wrap=False)),
            console=self._console,
            # Into a file or a pipe, a bar would be noise.
            disable=not (show and self._console.is_terminal),
            transient=True,
        )
        self._task: TaskID = self._bar.add_task(
            name, total=epochs * steps, completed=done, speed="", losses=""
        )

    def step(self, done: int, images_per_second: float, losses: Mapping[str, float]) -> None:
        """After `done` steps of the run; `losses` are means over the epoch so far."""
        if self._bar.disable:
            return
        epoch = min(done // self._steps + 1, self._epochs)
        self._bar.update(
            self._task,
            completed=done,
            description=f"{self._name} {epoch}/{self._epochs}",
            speed=f"{images_per_second:,.0f} images/s",
            losses=_shown(losses),
        )

    def epoch(self, line: Mapping[str, Any]) -> None:
        """After an epoch; in a terminal only the last one stays."""
        last = line["epoch"] == self._epochs
        if self._show and (last or self._bar.disable):
            losses = {"loss": line["loss"], **line["parts"]}
            self._console.print(
                f"{self._name} epoch {line['epoch']}/{self._epochs}: test "
                f"{line['test']['top1']:.2f} %, {_shown(losses)}, "
                f"{line['images_per_second']:,.0f} images/s, {line['seconds']:.1f} s"
            )

    def print(self, text: str) -> None:
        """A line, whether or not progress is shown."""
        self._console.print(text, markup=False)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


def announce(text: str) -> None:
    """A line on stderr from within a signal handler, where buffers and locks may be in use."""
    os.write(2, f"\n{text}\n".encode())


def announce_teacher(name: str, top1: float, dataset: DataSet) -> None:
    """A line on stderr: what a teacher reaches that was trained elsewhere."""
    mean, std = (" ".join(f"{x:.4g}" for x in values) for values in (dataset.mean, dataset.std))
    chance = 100 / dataset.num_classes
    low = top1 < min(_NEAR_CHANCE * chance, (chance + 100) / 2)
    doubt = "; that is near chance: was it trained on images normalised so?" if low else ""
    print(
        f"the teacher {name}: top-1 {top1:.2f} % of the test images of {dataset.name}, normalised "
        f"by mean {mean} and std {std}{doubt}",
        file=sys.stderr,
    )


def _shown(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in losses.items())


def _as_line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
