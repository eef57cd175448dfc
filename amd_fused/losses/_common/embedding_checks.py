"""Checks of embeddings, [B, D], and of what ND and LSH are given beside them."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

from amd_fused.losses._common.value_checks import float_tensor, kind

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def count(owner: str, name: str, value: Any) -> None:
    """An integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{owner}: {name} must be an integer, got {kind(value)}")
    if value < 1:
        raise ValueError(f"{owner}: {name} must be >= 1, got {value}")


def embedding(owner: str, name: str, a: Any) -> None:
    """A floating tensor [B, D], neither of them 0."""
    float_tensor(owner, name, a)
    if a.ndim != 2:
        remedy = "; pool and flatten feature maps first" if a.ndim == 4 else ""
        raise ValueError(
            f"{owner}: {name} must be 2-D [B, D], got {a.ndim}-D: shape {tuple(a.shape)}{remedy}"
        )
    if a.shape[0] < 1 or a.shape[1] < 1:
        raise ValueError(f"{owner}: {name} must have B, D >= 1, got shape {tuple(a.shape)}")


def embedding_pair(owner: str, student: Any, teacher: Any, remedy: str) -> None:
    """Two embeddings of one shape on one device; the remedy is for unequal widths."""
    embedding(owner, "student", student)
    embedding(owner, "teacher", teacher)
    if student.shape != teacher.shape:
        widths_only = student.shape[0] == teacher.shape[0]
        raise ValueError(
            f"{owner}: student and teacher must have the same shape, got {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}" + (f"; {remedy}" if widths_only else "")
        )
    same_device(owner, "teacher", teacher, student)


def same_device(owner: str, name: str, a: Tensor, student: Tensor) -> None:
    if a.device != student.device:
        raise ValueError(
            f"{owner}: {name} must be on the device of student ({student.device}), got {a.device}; "
            "move it with .to(...)"
        )


def frozen(owner: str, name: str, a: Any) -> None:
    """A floating tensor that wants no gradient."""
    float_tensor(owner, name, a)
    if a.requires_grad:
        raise ValueError(
            f"{owner}: {name} must not require a gradient, for it is a constant of the loss, got "
            f"requires_grad=True; pass {name}.detach()"
        )


def matrix(owner: str, name: str, a: Any, rows: str, columns: str) -> None:
    """A frozen matrix with at least one row and column."""
    frozen(owner, name, a)
    if a.ndim != 2 or a.shape[0] < 1 or a.shape[1] < 1:
        raise ValueError(
            f"{owner}: {name} must be [{rows}, {columns}] with {rows}, {columns} >= 1, got shape "
            f"{tuple(a.shape)}"
        )


def of_width(owner: str, name: str, a: Tensor, student: Tensor) -> None:
    """A matrix whose columns are the embeddings' and which lies beside them."""
    if a.shape[1] != student.shape[1]:
        raise ValueError(
            f"{owner}: {name} must have the embeddings' width {student.shape[1]}, got shape "
            f"{tuple(a.shape)}"
        )
    same_device(owner, name, a, student)


def labels(owner: str, name: str, target: Any, batch: int) -> None:
    """Class indices [B] of an integer dtype."""
    if not isinstance(target, Tensor):
        raise TypeError(f"{owner}: {name} must be a tensor of class indices, got {kind(target)}")
    if target.dtype not in _INTEGERS:
        raise TypeError(f"{owner}: {name} must have an integer dtype, got {target.dtype}")
    if target.shape != (batch,):
        raise ValueError(
            f"{owner}: {name} must be class indices [B] with B = {batch}, got shape "
            f"{tuple(target.shape)}"
        )
