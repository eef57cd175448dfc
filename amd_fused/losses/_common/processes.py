"""Sums, extremes, rows and errors of all processes of torch.distributed, or of the only one."""

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


def gathered(a: Tensor) -> Tensor:
    """The rows of all processes, those of the first process first; each may have another number."""
    if not _several():
        return a
    lengths = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    lengths[dist.get_rank()] = len(a)
    counts = total(lengths).tolist()
    padded = a.new_zeros(max(counts), *a.shape[1:], device=_shared_device())
    padded[: len(a)] = a.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    rows = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return rows.to(a.device)


def _reduce(a: Tensor, operation: str) -> Tensor:
    if not _several():
        return a
    shared = a.to(_shared_device(), copy=True)
    dist.all_reduce(shared, getattr(dist.ReduceOp, operation))
    return shared.to(a.device)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def _shared_device() -> str:
    """NCCL takes CUDA tensors only, other backends CPU tensors."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


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
