"""Actions in forked processes, which may die by SIGKILL at an event of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def start(action: Callable[[], Any]) -> int:
    """The process in which the action runs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child


def end(*children: int) -> list[int]:
    """Their exit codes, negative for the signal that ended one."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def kill_at(event: int) -> Callable[..., None]:
    """Makes this process die at an event, 0: never. Events are calls of what is returned, and
    flushes to the disk and renamings, before and after. No flush waits for the disk: a signal
    leaves what was written, whether or not it is there."""
    count = 0

    def tick(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == event:
            os.kill(os.getpid(), signal.SIGKILL)

    def ticking(function: Callable[..., Any]) -> Callable[..., Any]:
        def ticked(*arguments: Any, **options: Any) -> Any:
            tick()
            done = function(*arguments, **options)
            tick()
            return done

        return ticked

    os.fsync = ticking(lambda file: None)
    Path.replace = ticking(Path.replace)  # type: ignore[method-assign]
    return tick
