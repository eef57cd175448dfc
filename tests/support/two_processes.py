"""One of two processes that compute over their shards; run by test_losses_distributed.py.

`python two_processes.py RANK FOLDER` writes FOLDER/RANK.pt: what each case gave or raised.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from amd_fused import CRDLoss, LSHLoss, class_means
from amd_fused.losses.lsh import hash_bias

CLASSES, WIDTH, SAMPLES = 5, 7, 41


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(SAMPLES, WIDTH, generator=generator) + 10
    return features, torch.arange(SAMPLES) % CLASSES


def shard(rank: int, sizes: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Batches of 4 of one process's samples: the first sizes[0] are the first's."""
    first, end = (0, sizes[0]) if rank == 0 else (sizes[0], sizes[0] + sizes[1])
    features, labels = (a[first:end] for a in data())
    return list(zip(features.split(4), labels.split(4), strict=True)) if end > first else []


def biases(rank: int, sizes: tuple[int, int], statistic: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    criterion = LSHLoss(WIDTH, 11, bias=statistic, generator=generator)
    criterion.init_bias(shard(rank, sizes))
    return criterion.bias


def biases_in_chunks(rank: int) -> Tensor:
    """Five hyperplanes at a time by the first process's data, three by the second's."""
    before, hash_bias._HASH_BYTES = hash_bias._HASH_BYTES, 4 * 3 * 26
    try:
        return biases(rank, (15, 26), "median")
    finally:
        hash_bias._HASH_BYTES = before


def failing(rank: int) -> Tensor:
    batches = shard(rank, (20, 21))
    return class_means(
        lambda x: x if rank == 0 or len(x) == 4 else None,  # type: ignore[arg-type, return-value]
        batches,
        CLASSES,
    )


def contrasted(first: int, end: int) -> tuple[CRDLoss, Tensor]:
    """CRD after three steps over some of each batch's 8 samples, and the losses."""
    torch.manual_seed(0)
    loss = CRDLoss(WIDTH, WIDTH, SAMPLES, 20, embed_features=4, temperature=0.5)
    values = []
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        # Among them a sample that comes twice.
        indices = torch.randperm(SAMPLES, generator=generator)[[0, 1, 2, 3, 4, 5, 6, 0]]
        batch = torch.randn(2, 8, WIDTH, generator=generator)
        values.append(loss(*batch[:, first:end], indices[first:end]).detach())
    return loss, torch.stack(values)


def contrasted_share(rank: int) -> dict[str, Tensor]:
    """Three samples of each batch are the first process's."""
    loss, values = contrasted(*((0, 3) if rank == 0 else (3, 8)))
    return {**loss.state_dict(), "values": values}


def identity(x: Tensor) -> Tensor:
    return x


CASES: dict[str, Callable[[int], Any]] = {
    "means": lambda rank: class_means(identity, shard(rank, (15, 26)), CLASSES),
    "one has no data": lambda rank: class_means(identity, shard(rank, (41, 0)), CLASSES),
    "neither has data": lambda rank: class_means(identity, shard(rank, (0, 0)), CLASSES),
    "a class is missing": lambda rank: class_means(identity, shard(rank, (15, 26)), CLASSES + 2),
    "one process fails": failing,
    "median": lambda rank: biases(rank, (15, 26), "median"),
    "median in chunks": biases_in_chunks,
    "median, one has no data": lambda rank: biases(rank, (0, 41), "median"),
    "mean": lambda rank: biases(rank, (15, 26), "mean"),
    "contrast": contrasted_share,
}


def main(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
    )
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        try:
            results[name] = case(rank)
        except (TypeError, ValueError, RuntimeError) as error:
            results[name] = f"{type(error).__name__}: {error}"
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
