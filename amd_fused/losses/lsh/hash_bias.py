"""Biases that split a teacher's embeddings evenly: minus the median or mean of each hash."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused.losses._common import dtypes, processes

# Hash values held at once.
_HASH_BYTES = 64 << 20


class MeanHash:
    """derived: the mean of W t is W times the mean of t, so the embeddings need not be kept."""

    def __init__(self, owner: str, weight: Tensor) -> None:
        self._owner, self._weight = owner, weight
        self._sum = torch.zeros(weight.shape[1], dtype=torch.float64)
        self._count = torch.zeros((), dtype=torch.int64)

    def add(self, features: Tensor) -> None:
        self._sum += features.detach().cpu().double().sum(0)
        self._count += len(features)

    def value(self) -> Tensor:
        mean = processes.total(self._sum) / _samples(self._owner, self._count)
        return (self._weight.cpu().double() @ mean).to(self._weight)


class MedianHash:
    """Keeps the embeddings, [N, D] on the device of the hyperplanes; hash values some at a time."""

    def __init__(self, owner: str, weight: Tensor) -> None:
        self._owner, self._weight = owner, weight.to(dtypes.compute_dtype([weight]))
        self._features: list[Tensor] = []

    def add(self, features: Tensor) -> None:
        # A copy: a loader may reuse its batches' memory.
        self._features.append(features.detach().to(self._weight, copy=True))

    def value(self) -> Tensor:
        weight = self._weight
        features = torch.cat([weight.new_empty(0, weight.shape[1]), *self._features])
        samples = _samples(self._owner, torch.tensor(len(features)))
        if processes.total((~features.isfinite()).sum()) > 0:  # NaN has no place in an order
            return weight.new_full(weight.shape[:1], torch.nan)
        # Every process must come to `total` as often: the one with the most data decides.
        most = int(processes.largest(torch.tensor(len(features))))
        step = max(1, _HASH_BYTES // (weight.element_size() * most))
        medians = [lower_median(F.linear(features, w), samples) for w in weight.split(step)]
        return torch.cat(medians)


def lower_median(values: Tensor, samples: int) -> Tensor:
    """The (samples + 1) // 2 smallest of each column of [N, H], over all processes: [H].

    values: float32 or float64, finite.

    By bisection over floating-point numbers in their order, of which there are 2^32 (2^64): exact,
    the same whichever process has which rows, and with nothing but counts sent around.
    """
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    keys = _ordered(values.view(integer))
    limits = torch.iinfo(integer)
    low = torch.full((values.shape[1],), limits.min, dtype=integer, device=values.device)
    high = torch.full_like(low, limits.max)
    for _ in range(limits.bits):
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, rounded down, without overflow
        count = processes.total((keys <= middle).sum(0))
        enough = count >= (samples + 1) // 2
        high = torch.where(enough, middle, high)
        low = torch.where(enough | (middle == high), low, middle + 1)
    return _ordered(high).view(values.dtype)


def _ordered(bits: Tensor) -> Tensor:
    """Bits of floating-point numbers to integers in the same order, and back."""
    return bits ^ ((bits >> (torch.iinfo(bits.dtype).bits - 1)) & torch.iinfo(bits.dtype).max)


def _samples(owner: str, count: Tensor) -> int:
    samples = int(processes.total(count))
    if samples == 0:
        raise ValueError(f"{owner}: teacher_features must have at least one sample, got none")
    return samples
