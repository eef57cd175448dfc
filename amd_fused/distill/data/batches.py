"""Which images a process sees at which step: functions of the seed and numbers, without a state.

Epochs and the steps within one count from 0.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amd_fused.distill.data.images import Images
from amd_fused.distill.data.seeds import mix_seed
from amd_fused.distill.errors import UsageError

# What a seed of (seed, epoch) is for; negative, so that no step's number is the same.
_ORDER, _CHANGES = -1, -2
# What must not end a worker. Where there is no sigwaitinfo, no SIGTERM says who sent it.
_BLOCKED = (signal.SIGINT, signal.SIGTERM) if hasattr(signal, "sigwaitinfo") else (signal.SIGINT,)


class Batch(NamedTuple):
    """Of one process in one step.

    Args:
        images: `[b, C, H, W]`, float32, normalised.
        labels: `[b]`, int64.
        indices: `[b]`, int64: where each image stands in its split, the same in every epoch.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


def train_steps(images: Images, batch_size: int) -> int:
    """Steps of an epoch: the rest that fills no batch is left out, another one every epoch.

    Raises:
        UsageError: there are fewer images than one batch needs.
    """
    if batch_size > len(images):
        raise UsageError(
            f"--batch-size must be at most the {len(images)} training images, got {batch_size}"
        )
    return len(images) // batch_size


def train_batches(
    images: Images,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
    augment: bool = True,
) -> Iterator[Batch]:
    """One rank's batch of each step, b = batch_size / processes.

    The order depends on (seed, epoch) alone. Step k takes the k-th `batch_size` images of it, and
    rank r the r-th share of those, so that all processes together see what one would see.

    Args:
        first_step: where to start; what comes before is not loaded.
        workers: processes that load; the batches are the same for any number, bit for bit.

    Raises:
        UsageError: `batch_size` is above the number of images or no multiple of `processes`; while
            iterating, an image cannot be read.
    """
    steps = train_steps(images, batch_size)
    if batch_size % processes:
        raise UsageError(
            f"--batch-size must be a multiple of the {processes} processes, got {batch_size}"
        )
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch, _ORDER))
    order = torch.randperm(len(images), generator=generator)[: steps * batch_size]
    shares = order.view(steps, processes, batch_size // processes)[first_step:, rank]
    augment_seed = mix_seed(seed, epoch, _CHANGES) if augment else None
    return _load(_Batches(images, shares.unbind(), augment_seed), workers)


def all_batches(
    images: Images,
    *,
    batch_size: int,
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Images `rank`, `rank + processes` and so on: over all ranks each exactly once.

    Args:
        batch_size: images a step over all processes together; the last batch may be smaller.

    Raises:
        UsageError: while iterating, an image cannot be read.
    """
    share = max(1, batch_size // processes)
    mine = torch.arange(rank, len(images), processes)
    batches = mine.split(share) if len(mine) else ()
    return _load(_Batches(images, batches, None), workers)


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Every image blended with another of its batch: `lam * x + (1 - lam) * x[partner]`.

    Args:
        images: `[b, C, H, W]` on any device.
        labels: `[b]` on the same one.
        alpha: > 0; lam is drawn from Beta(alpha, alpha), once a batch.

    Returns:
        The images, and class probabilities `[b, num_classes]` float32 blended the same way.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018.
    """
    generator = np.random.default_rng(seed)
    lam = generator.beta(alpha, alpha)
    partner = torch.from_numpy(generator.permutation(len(labels))).to(images.device)
    target = torch.nn.functional.one_hot(labels, num_classes).float()
    return torch.lerp(images[partner], images, lam), torch.lerp(target[partner], target, lam)


@dataclass(frozen=True)
class _Batches(Dataset[Batch | UsageError]):
    """Item k is the k-th batch."""

    images: Images
    indices: Sequence[Tensor]
    augment_seed: int | None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, step: int) -> Batch | UsageError:
        chosen = self.indices[step]
        try:
            images = self.images.batch(chosen.tolist(), self.augment_seed)
        except UsageError as error:
            # Raised in a worker it would reach the user with that worker's traceback as its text.
            return error
        return Batch(images, self.images.labels[chosen], chosen)


def _load(batches: _Batches, workers: int) -> Iterator[Batch]:
    loader: DataLoader[Batch | UsageError] = DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        # Copies to a GPU are faster from pinned memory, which takes a thread to pin.
        pin_memory=workers > 0 and torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_trainer,
        # Its own, or each epoch would take a number out of the global one.
        generator=torch.Generator(),
    )
    with _signals_blocked():
        loading = iter(loader)
    try:
        for loaded in loading:
            if isinstance(loaded, UsageError):
                raise loaded
            yield loaded
    finally:
        # Its workers end at once. In a traceback it would be left to the collector of garbage,
        # which takes the queues first by which they are told so.
        del loading


def _as_it_is(batch: Any) -> Any:
    return batch


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Workers that are forked inside have no moment in which a signal could end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach workers too, while the trainer ends its step.

    A worker may hold a lock that the trainer then waits for, so none may end but by the trainer.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    if signal.SIGTERM in _BLOCKED:
        threading.Thread(target=_end_by_the_trainer, daemon=True).start()


def _end_by_the_trainer() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
