"""Runs commands one after the other: what fails or lasts too long stops none of the others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.show import table

ROOT = Path(__file__).parent.parent
BENCHMARKS = (sys.executable, "-m", "benchmarks")
SECONDS = "{seconds}"
# A step is not worth starting in less.
LEAST_SECONDS = 15.0
# From being told to end until being ended.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Step:
    """One command, run in the root of the sources.

    Args:
        name: for the summary.
        command: the program and its arguments; SECONDS in them stands for the time it has, less
            what ending takes.
        seconds: it is stopped after so long, or when the time for all is over.
        missing: why it cannot run here; empty if it can.
        counts: whether its failure is the whole run's.
        reserved: seconds that the steps before it leave to it.
        refused: in its output, this means that the machine does not let it run.
        variables: of its environment, beside those of this process.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    missing: str = ""
    counts: bool = True
    reserved: float = 0.0
    refused: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """``status`` is "ok", "failed", "timed out" or "left out"; ``note`` says more."""

    name: str
    status: str
    note: str = ""
    seconds: float = 0.0
    counts: bool = True

    @property
    def failed(self) -> bool:
        return self.counts and self.status in ("failed", "timed out")


def run_all(
    steps: Sequence[Step],
    seconds: float,
    prefix: Path,
    keep: Callable[[list[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """One after the other, in so many seconds together; their output also goes to <prefix>.log.

    ``keep`` gets all outcomes so far after every step.
    """
    end = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with prefix.with_name(f"{prefix.name}.log").open("w", buffering=1) as log:
        for i, step in enumerate(steps):
            later = sum(other.reserved for other in steps[i + 1 :] if not other.missing)
            outcomes.append(run(step, end - time.monotonic() - later, log))
            keep(outcomes)
    return outcomes


def render(outcomes: Sequence[Outcome]) -> list[str]:
    """A line a step."""
    rows = [(o.name, o.status, f"{o.seconds:.0f}", o.note) for o in outcomes]
    return table.lines(("step", "status", "seconds", "note"), rows)


def status(outcomes: Sequence[Outcome]) -> int:
    """1 if a step failed, else 0."""
    return int(any(outcome.failed for outcome in outcomes))


def run(step: Step, seconds_left: float, log: IO[str]) -> Outcome:
    """Runs a step until it ends or its time has, its output to the terminal and the log."""
    if step.missing:
        return Outcome(step.name, "left out", step.missing)
    limit = min(step.seconds, seconds_left)
    if limit < min(LEAST_SECONDS, step.seconds):
        return Outcome(step.name, "left out", "no time left")
    seconds = f"{max(0.0, limit - GRACE_SECONDS):.0f}"
    command = [part.replace(SECONDS, seconds) for part in step.command]
    _say(f"\n=== {step.name}: {' '.join(command)}\n", log)
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=_environment(step),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    refused = False
    with process, _limited(process, limit):
        assert process.stdout is not None
        for line in process.stdout:
            _say(line, log)
            refused |= bool(step.refused) and step.refused in line
        exit_status = process.wait()
    took = time.monotonic() - start
    if refused:
        return Outcome(step.name, "left out", step.refused, took)
    if exit_status == 0:
        return Outcome(step.name, "ok", "", took)
    if took >= limit:
        return Outcome(step.name, "timed out", f"after {limit:.0f} s", took, step.counts)
    return Outcome(step.name, "failed", f"exit status {exit_status}", took, step.counts)


@contextlib.contextmanager
def _limited(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Ends the process and its children if they are still there then.

    An interrupt first, on which pytest writes its report.
    """

    def send(number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    timers = [
        threading.Timer(seconds, send, [signal.SIGINT]),
        threading.Timer(seconds + GRACE_SECONDS, send, [signal.SIGKILL]),
    ]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _environment(step: Step) -> dict[str, str]:
    """With the sources importable, and output line by line."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **step.variables}


def _say(text: str, log: IO[str]) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
    log.write(text)
