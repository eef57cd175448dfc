"""Sums, extremes and errors over all processes of torch.distributed, or of the only one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


@contextlib.contextmanager
def shared_errors(owner: str) -> Iterator[None]:
    """An error in one process raises in all: otherwise the rest would wait for it forever."""
    try:
        yield
    except Exception:
        total(torch.ones(()))
        raise
    if total(torch.zeros(())) > 0:
        raise RuntimeError(f"{owner}: it failed in another process, whose message says why")


def total(a: Tensor) -> Tensor:
    """The sum over all processes of torch.distributed, on the tensor's own device."""
    return _reduce(a, "SUM")


def largest(a: Tensor) -> Tensor:
    """The maximum over all processes of torch.distributed, on the tensor's own device."""
    return _reduce(a, "MAX")


def _reduce(a: Tensor, operation: str) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return a
    # NCCL takes CUDA tensors only, other backends CPU tensors.
    shared = a.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    dist.all_reduce(shared, getattr(dist.ReduceOp, operation))
    return shared.to(a.device)


def common_width(owner: str, width: int | None) -> int:
    """The embeddings' width, of which a process without data has no notion."""
    widest = int(largest(torch.tensor(width or 0)))
    if widest == 0:
        raise ValueError(f"{owner}: loader must give at least one batch, got none")
    narrowest = -int(largest(torch.tensor(-(width or widest))))
    if narrowest != widest:
        raise ValueError(
            f"{owner}: embeddings must have one width in all processes, got {narrowest} and "
            f"{widest}"
        )
    return widest
