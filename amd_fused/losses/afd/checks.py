"""Checks of what AFD is given beside the features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.value_checks import choice, float_tensor


def backend(owner: str, value: Any) -> None:
    choice(owner, "backend", value, BACKENDS)


def attention(owner: str, a: Any, students: list[Tensor], teachers: list[Tensor]) -> None:
    """A weight of every pair of layers for every sample, beside the features."""
    float_tensor(owner, "attention", a)
    expected = (students[0].shape[0], len(teachers), len(students))
    if a.shape != expected:
        raise ValueError(
            f"{owner}: attention must be [B, T, S] = {tuple(expected)} for {len(teachers)} feature "
            f"maps of teacher and {len(students)} of student, got shape {tuple(a.shape)}"
        )
    if a.device != students[0].device:
        raise ValueError(
            f"{owner}: attention must be on the device of student ({students[0].device}), got "
            f"{a.device}; move it with .to(...)"
        )


def batch_for_batch_norm(owner: str, students: list[Tensor], training: bool) -> None:
    if training and students[0].shape[0] < 2:
        raise ValueError(
            f"{owner}: the batch must have at least 2 samples, for BatchNorm in training mode, got "
            "B = 1; leave such a batch out (drop_last=True in the DataLoader)"
        )
