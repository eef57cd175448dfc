"""Checks of the losses on logits: pairs [B, K] and the options of KD and its spherical form."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.value_checks import choice, float_tensor, positive


def kd_options(owner: str, *, temperature: Any, backend: Any) -> None:
    """The options of ``kd_loss``."""
    positive(owner, "temperature", temperature)
    choice(owner, "backend", backend, BACKENDS)


def spherical_kd_options(
    owner: str, *, temperature: Any, norm: Any, multiplier: Any, backend: Any
) -> None:
    """The options of ``spherical_kd_loss``."""
    kd_options(owner, temperature=temperature, backend=backend)
    choice(owner, "norm", norm, ("std", "l2"))
    if multiplier is not None:
        positive(owner, "multiplier", multiplier)


def logit_pair(owner: str, student_logits: Any, teacher_logits: Any) -> None:
    """Two floating tensors [B, K] of one shape and device."""
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
            f'{owner}: student_logits must be [B, K] with K >= 3 for norm="std", got shape '
            f"{tuple(student_logits.shape)}: the distance of two logits is lost in their standard "
            'deviation, and nothing would be learned; use norm="l2", or kd_loss'
        )


def logits(owner: str, name: str, z: Tensor) -> None:
    """[B, K] with at least two classes: the softmax of one is 1 whatever its logit, so that every
    loss of it is constant and nothing would be learned."""
    if z.ndim == 2 and z.shape[0] >= 1 and z.shape[1] >= 2:
        return
    remedy = "; bring the classes last and .flatten(0, -2)" if z.ndim > 2 else ""
    if z.ndim == 2 and z.shape[1] == 1:
        remedy = (
            "; of one sigmoid output make two classes: torch.cat([torch.zeros_like(z), z], dim=1)"
        )
    raise ValueError(
        f"{owner}: {name} must be [B, K] with B >= 1 and K >= 2, got shape {tuple(z.shape)}{remedy}"
    )
