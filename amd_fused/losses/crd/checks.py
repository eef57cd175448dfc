"""Checks of the options and inputs of CRD."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.embedding_checks import (
    count,
    frozen,
    labels,
    matrix,
    of_width,
    same_device,
)
from amd_fused.losses._common.value_checks import (
    choice,
    has_values,
    kind,
    number,
    positive,
    readable,
)


def crd_options(owner: str, *, temperature: Any, eps: Any, backend: Any) -> None:
    positive(owner, "temperature", temperature)
    positive(owner, "eps", eps)
    choice(owner, "backend", backend, BACKENDS)


def num_samples(owner: str, value: Any) -> None:
    count(owner, "num_samples", value)
    if value < 2:
        raise ValueError(
            f"{owner}: num_samples must be >= 2, for negatives are other samples, got {value}"
        )


def momentum(owner: str, value: Any) -> None:
    if not 0 <= number(owner, "momentum", value) <= 1:
        raise ValueError(f"{owner}: momentum must be between 0 and 1, got {value}")


def seed(owner: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: seed must be an integer, got {kind(value)}")
    if not -(1 << 63) <= int(value) < 1 << 63:
        raise ValueError(f"{owner}: seed must be between -2^63 and 2^63 - 1, got {value}")


def class_labels(owner: str, value: Any, rows: int) -> None:
    """A class index for every sample of the data, of at least two classes."""
    labels(owner, "labels", value, rows)
    if has_values(value) and bool((value == value[0]).all()):
        raise ValueError(
            f"{owner}: labels must be of at least two classes, for negatives are of another class, "
            f"got {int(value[0])} for all"
        )


def indices(owner: str, value: Any, student: Tensor, teacher: Tensor, rows: int) -> None:
    """Where each sample of the batch, which both sides have, stands in the data."""
    if teacher.shape[0] != student.shape[0]:
        raise ValueError(
            f"{owner}: teacher must have the batch size of student ({student.shape[0]}), got "
            f"{teacher.shape[0]}: shape {tuple(teacher.shape)}"
        )
    if isinstance(value, Tensor) and value.is_floating_point():
        raise TypeError(
            f"{owner}: indices must be each sample's index in the data set, got {value.dtype}; a "
            "blend of samples (Mixup) has none"
        )
    labels(owner, "indices", value, student.shape[0])
    same_device(owner, "indices", value, student)
    if readable(value):
        _in_range(owner, "indices", value, rows)


def banks(owner: str, student_bank: Any, teacher_bank: Any, student: Tensor) -> None:
    for name, bank in (("student_bank", student_bank), ("teacher_bank", teacher_bank)):
        matrix(owner, name, bank, "N", "D")
        of_width(owner, name, bank, student)
    if student_bank.shape != teacher_bank.shape:
        raise ValueError(
            f"{owner}: student_bank and teacher_bank must have the same shape, got "
            f"{tuple(student_bank.shape)} and {tuple(teacher_bank.shape)}"
        )


def samples(owner: str, value: Any, rows: int, student: Tensor) -> None:
    """Rows of the banks: each sample's own, then its negatives."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{owner}: samples must be a tensor of indices, got {kind(value)}")
    if value.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{owner}: samples must have dtype int64 or int32, got {value.dtype}")
    if value.ndim != 2 or value.shape[0] != student.shape[0] or value.shape[1] < 2:
        raise ValueError(
            f"{owner}: samples must be [B, 1 + K] with B = {student.shape[0]} and K >= 1, got "
            f"shape {tuple(value.shape)}"
        )
    same_device(owner, "samples", value, student)
    if readable(value):
        _in_range(owner, "samples", value, rows)


def log_normalizers(owner: str, value: Any, student: Tensor) -> None:
    frozen(owner, "log_normalizers", value)
    if value.shape != (2,):
        raise ValueError(
            f"{owner}: log_normalizers must be [2], of the student's and the teacher's scores, got "
            f"shape {tuple(value.shape)}"
        )
    same_device(owner, "log_normalizers", value, student)


def _in_range(owner: str, name: str, value: Tensor, rows: int) -> None:
    """Looks at the values: on a GPU that would be a host sync."""
    low, high = (int(extreme) for extreme in torch.aminmax(value))
    if low < 0 or high >= rows:
        raise ValueError(
            f"{owner}: {name} must be between 0 and {rows - 1}, the rows that the banks "
            f"have, got {low if low < 0 else high}"
        )
