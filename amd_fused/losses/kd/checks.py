"""Checks of the losses on logits: pairs [B, K, ...], labels, the options of KD and its spherical
form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.value_checks import choice, float_tensor, positive


def kd_options(owner: str, *, temperature: Any, backend: Any, ignore_index: Any = -100) -> None:
    """The options of ``kd_loss``."""
    positive(owner, "temperature", temperature)
    whole(owner, "ignore_index", ignore_index)
    choice(owner, "backend", backend, BACKENDS)


def spherical_kd_options(
    owner: str,
    *,
    temperature: Any,
    norm: Any,
    multiplier: Any,
    backend: Any,
    ignore_index: Any = -100,
) -> None:
    """The options of ``spherical_kd_loss``."""
    kd_options(owner, temperature=temperature, backend=backend, ignore_index=ignore_index)
    choice(owner, "norm", norm, ("std", "l2"))
    if multiplier is not None:
        positive(owner, "multiplier", multiplier)


def whole(owner: str, name: str, value: Any) -> None:
    """A whole number."""
    if not isinstance(value, int | torch.SymInt) or isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be an int, got {type(value).__name__}")


def logit_pair(owner: str, student_logits: Any, teacher_logits: Any) -> None:
    """Two floating tensors [B, K, ...] of one shape and device."""
    for name, z in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        float_tensor(owner, name, z)
        logits(owner, name, z)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"{owner}: student_logits and teacher_logits must have the same shape, "
            f"got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    if student_logits.device != teacher_logits.device:
        raise ValueError(
            f"{owner}: teacher_logits must be on the device of student_logits "
            f"({student_logits.device}), got {teacher_logits.device}; move it with .to(...)"
        )


def spherical_pair(owner: str, student_logits: Any, teacher_logits: Any, norm: str) -> None:
    """Logits whose directions on the sphere differ: two numbers that are divided by their standard
    deviation are 1 apart in units of it, whatever they were."""
    logit_pair(owner, student_logits, teacher_logits)
    if norm == "std" and student_logits.shape[1] == 2:
        raise ValueError(
            f'{owner}: student_logits must be [B, K, ...] with K >= 3 for norm="std", got shape '
            f"{tuple(student_logits.shape)}: the distance of two logits is lost in their standard "
            'deviation, and nothing would be learned; use norm="l2", or kd_loss'
        )


def logits(owner: str, name: str, z: Tensor) -> None:
    """[B, K, ...] with at least two classes: the softmax of one is 1 whatever its logit, so that
    every loss of it is constant and nothing would be learned."""
    if z.ndim >= 2 and z.shape[1] >= 2 and 0 not in z.shape:
        return
    remedy = ""
    if z.ndim >= 2 and z.shape[1] == 1:
        remedy = (
            "; of one sigmoid output make two classes: torch.cat([torch.zeros_like(z), z], dim=1)"
        )
    raise ValueError(
        f"{owner}: {name} must be [B, K] or [B, K, ...], no size 0, with B >= 1 and K >= 2, got "
        f"shape {tuple(z.shape)}{remedy}"
    )


def labels(owner: str, target: Any, ignore_index: Any, z: Tensor) -> None:
    """Class indices of each position of logits z [B, K, ...], or None; and the index of those that
    do not count."""
    whole(owner, "ignore_index", ignore_index)
    if target is None:
        return
    if not isinstance(target, Tensor):
        raise TypeError(f"{owner}: target must be a tensor or None, got {type(target).__name__}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(
            f"{owner}: target must be class indices of an integer dtype, got {target.dtype}"
        )
    expected = (z.shape[0], *z.shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"{owner}: target must have shape {expected}, a class index for each position of "
            f"student_logits of shape {tuple(z.shape)}, got shape {tuple(target.shape)}"
        )
    if target.device != z.device:
        raise ValueError(
            f"{owner}: target must be on the device of student_logits ({z.device}), got "
            f"{target.device}; move it with .to(...)"
        )
