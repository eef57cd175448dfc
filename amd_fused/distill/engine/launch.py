"""Devices and processes: one machine or several, as Accelerate finds them."""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from amd_fused.distill.config import Settings
from amd_fused.distill.engine.trackers import usable
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import RunDir

_T = TypeVar("_T")


def start(settings: Settings, run: RunDir | None = None) -> Accelerator:
    """The Accelerator of a run; the process group is joined by the first run of a process.

    Args:
        run: whose lines go to trackers, into its folder where they keep files; None: nothing does.

    Raises:
        UsageError: the device cannot do --mixed-precision, several processes were started but have
            no way to talk, or a tracker's package is not installed.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", settings.mixed_precision):
        raise UsageError(
            f"--mixed-precision must be what accelerate launch was told, {launched}, got "
            f"{settings.mixed_precision}"
        )
    # One process may do many runs, but Accelerate keeps the first one's precision.
    AcceleratorState._reset_state()
    # Told so, it lets processes without a GPU talk through gloo.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=settings.mixed_precision,
        log_with=(usable(settings.log_with, run) or None) if run else None,
        project_dir=run.tracker_files if run else None,
    )
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("--mixed-precision fp16 needs a GPU, got cpu; use bf16")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise UsageError(
            f"WORLD_SIZE is {started}, but {accelerator.num_processes} of these processes found "
            "each other; start them by torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    if dist.is_available() and dist.is_initialized():
        _leave_at_exit()
    return accelerator


def on_main_process(accelerator: Accelerator, function: Callable[[], _T]) -> _T:
    """What `function` returns in the main process, or raises there, in all of them.

    It is called in the main process alone; its result must pickle.
    """
    if accelerator.num_processes == 1:
        return function()
    answer: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = function()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[1], Exception):
        raise answer[1]
    return answer[0]  # type: ignore[return-value]


def share_buffers(accelerator: Accelerator, network: torch.nn.Module) -> None:
    """The main process's running statistics for all, where each process has kept its own."""
    if accelerator.num_processes > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


@functools.cache
def _leave_at_exit() -> None:
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
