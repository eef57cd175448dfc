"""Shapes on which a loss does not change with the student: said once, for nobody learns anything
from it and nothing fails."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from amd_fused._compiler import constant_result


def warn_of_constant_maps(
    owner: str, students: Sequence[Tensor], teachers: Sequence[Tensor], local_weight: float
) -> None:
    """A map or quadrant of one position is 1 once it is normalised."""
    if torch.compiler.is_exporting():  # comparing sizes would narrow what the program takes
        return
    sizes = [
        (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
        for a, b in zip(students, teachers, strict=True)
    ]
    if all(h == 1 and w == 1 for h, w in sizes):
        _warn(owner, "every map has one position, and that is 1 once the map is normalised; take "
              "layers before the pooling, or a loss on embeddings")  # fmt: skip
    elif all(h == 2 and w == 2 for h, w in sizes) and local_weight == 1:
        _warn(owner, "every quadrant has one position, and that is 1 once it is normalised; take "
              "larger maps, or local_weight < 1")  # fmt: skip


def warn_of_constant_relations(owner: str, students: Sequence[Tensor], batch: int) -> None:
    """Relations of ``batch`` samples, which cancel with their own mean or norm."""
    if torch.compiler.is_exporting() or students[0].shape[0] != batch:
        return
    reason = {
        1: "one sample is similar to itself alone",
        2: "two samples have one distance, which is its own mean, and no angle",
    }[batch]
    _warn(owner, f"the batch has B = {batch}, and {reason}; take larger batches (drop_last=True in "
          "the DataLoader)")  # fmt: skip


@constant_result
def _warn(owner: str, reason: str) -> None:
    _once(f"{owner}: the gradient is 0 whatever the student does: {reason}")


@cache
def _once(message: str) -> None:
    warnings.warn(message, stacklevel=5)  # the caller of the loss
