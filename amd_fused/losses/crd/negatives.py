"""Negatives as a function of seed, step and sample, without a state: a resumed training draws the
same, in any number of processes and on any device."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
# Source: Wellons, "Prospecting for Hash Functions", 2018: lowbias32. The second factor is
# 0x846CA68B - 2^32, congruent to it: products stay within int64.
_FACTORS = 0x7FEB352D, 0x846CA68B - (1 << 32)


class OtherClasses:
    """What is drawn from for each sample: all samples of other classes, equally likely.

    Without labels each sample is a class of its own.

    Args:
        labels: [N], of an integer dtype, or None.
        num_samples: N.
    """

    def __init__(self, labels: Tensor | None, num_samples: int) -> None:
        if labels is None:
            self.order = torch.arange(num_samples)
            self.first, self.size = self.order, torch.ones_like(self.order)
            return
        _, classes, sizes = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
        # Samples by class; where each sample's class begins there, and how many it has.
        self.order = torch.argsort(classes, stable=True)
        self.first = (sizes.cumsum(0) - sizes)[classes]
        self.size = sizes[classes]


def draw(
    order: Tensor, first: Tensor, size: Tensor, indices: Tensor, step: Tensor, seed: int, count: int
) -> Tensor:
    """``count`` negatives of each sample, drawn with replacement: [B, count], int64.

    Args:
        order, first, size: [N] of OtherClasses, on the device of indices.
        indices: [B], int64.
        step: 0-d int64.
    """
    low, high = seed & _MASK, (seed >> 32) & _MASK
    key = _mix(_mix(step & _MASK ^ low) ^ high)
    first_key = _mix(key ^ indices & _MASK)
    second_key = _mix(first_key + _GOLDEN & _MASK)
    number = torch.arange(count, device=indices.device)
    words = _mix(number ^ first_key[:, None])
    words = _mix(words + second_key[:, None] & _MASK)
    others = (len(order) - size[indices])[:, None]
    # derived: a word of 32 bits, as a fraction of 2^32, of the number of others
    place = words * others >> 32
    own = first[indices][:, None]
    return order[torch.where(place < own, place, place + size[indices][:, None])]


def _mix(x: Tensor) -> Tensor:
    """A bijection of integers of 32 bits, held in int64."""
    x = (x ^ x >> 16) * _FACTORS[0] & _MASK
    x = (x ^ x >> 15) * _FACTORS[1] & _MASK
    return x ^ x >> 16
