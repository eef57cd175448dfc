"""Operators of KD and its spherical form: schemas, fake kernels and autograd.

``amd_fused::kd_fwd_<backend>`` returns the loss and eleven numbers a row, from which
``amd_fused::kd_bwd_<backend>`` makes the gradients in one pass over the logits; their layout is the
backend's own. ``numbers`` is [2] float64 on the CPU: temperature, and the radius of the spherical
form if it has a fixed one. Imports neither Triton nor the extension.

``amd_fused::kd_map_fwd_<backend>`` and ``kd_map_bwd_<backend>`` are the same for dense logits
[B, K, N] of any strides: ``counted`` [B, N] says which positions add to the loss, which is divided
by B N all the same, and ``rows`` is [B, 5, N], for the spherical form [B, 11, N].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.numbers import as_tensor
from amd_fused.losses._common.registration import define
from amd_fused.losses._common.saving import save, saved
from amd_fused.losses._common.second_order import once_differentiable, one_upstream_gradient

# csrc/cpu/rows/kd_rows.h and kd/triton/launcher.py have the same numbers.
NORMS = {None: 0, "std": 1, "l2": 2}
ROW_NUMBERS = 11
# Of KD itself, of a position of a map.
MAP_NUMBERS = 5

_FWD_SCHEMA = (
    "(Tensor student, Tensor teacher, Tensor numbers, int norm, bool fixed_radius)"
    " -> (Tensor, Tensor)"
)
_MAP_FWD_SCHEMA = (
    "(Tensor student, Tensor teacher, Tensor? counted, Tensor numbers, int norm, "
    "bool fixed_radius) -> (Tensor, Tensor)"
)
_BWD_SCHEMA = (
    "(Tensor grad_loss, Tensor student, Tensor teacher, Tensor rows, Tensor numbers, "
    "bool student_grad, bool teacher_grad) -> Tensor[]"
)

_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")


def kd_fwd(
    backend: str,
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    norm: str | None = None,
    multiplier: float | None = None,
) -> Tensor:
    """KD loss by one backend's operators, differentiable once.

    Args:
        backend: one of KERNELS["kd"].
        student, teacher: logits [B, K].
        temperature: tau.
        norm: None for KD; "std" or "l2" for its spherical form.
        multiplier: the radius of the spherical form, None for the sample's teacher norm.

    Returns:
        0-d, in the compute dtype: float64 if an input is float64, else float32.
    """
    return _call("kd", backend, (student, teacher), (), temperature, norm, multiplier)


def kd_map_fwd(
    backend: str,
    student: Tensor,
    teacher: Tensor,
    counted: Tensor | None,
    temperature: float,
    norm: str | None = None,
    multiplier: float | None = None,
) -> Tensor:
    """The same for logits [B, K, N], where positions that are not ``counted``, [B, N] bool and
    contiguous, or None, add nothing; divided by B N."""
    return _call("kd_map", backend, (student, teacher), (counted,), temperature, norm, multiplier)


def _call(
    loss: str,
    backend: str,
    logits: tuple[Tensor, Tensor],
    counted: tuple[Tensor | None, ...],
    temperature: float,
    norm: str | None,
    multiplier: float | None,
) -> Tensor:
    grad_enabled = torch.is_grad_enabled()
    needs_grad = tuple(grad_enabled and z.requires_grad for z in logits)
    fixed_radius = multiplier is not None
    numbers = as_tensor(temperature, multiplier if multiplier is not None else 0.0)
    options = (NORMS[norm], fixed_radius)
    if not any(needs_grad):
        return _operator(loss, "fwd", backend)(*logits, *counted, numbers, *options)[0]
    return _KD.apply((loss, backend), (*options, *needs_grad), *logits, numbers, *counted)


class _KD(torch.autograd.Function):
    """Autograd around the operators, cheaper than registered autograd as amd/operator.py says."""

    @staticmethod
    def forward(
        ctx: Any,
        operators: tuple[str, str],
        options: tuple[Any, ...],
        student: Tensor,
        teacher: Tensor,
        numbers: Tensor,
        *counted: Tensor | None,
    ) -> Tensor:
        name, backend = operators
        forward = _operator(name, "fwd", backend)
        loss, rows = forward(student, teacher, *counted, numbers, *options[:2])
        save(ctx, student, teacher, rows, numbers)
        ctx.operators, ctx.options = operators, options
        ctx.nothing = (None,) * (1 + len(counted))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        (name, backend), (norm, _, student_grad, teacher_grad) = ctx.operators, ctx.options

        def gradients(*tensors: Tensor) -> list[Tensor]:
            return _operator(name, "bwd", backend)(*tensors, student_grad, teacher_grad)

        owner = "spherical_kd_loss" if norm else "kd_loss"
        one_upstream_gradient(owner, backend, grad_loss)
        found = once_differentiable(owner, backend, gradients, grad_loss, *saved(ctx))
        d_z_s, d_z_t = found[0] if student_grad else None, found[-1] if teacher_grad else None
        return None, None, d_z_s, d_z_t, *ctx.nothing


def _operator(loss: str, step: str, backend: str) -> Any:
    return getattr(torch.ops.amd_fused, f"{loss}_{step}_{backend}").default


def _kd_fwd_fake(student: Tensor, teacher: Tensor, *_options: Any) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype([student, teacher])
    rows = student.new_empty(student.shape[0], ROW_NUMBERS, dtype=dtype)
    return student.new_empty((), dtype=dtype), rows


def _kd_map_fwd_fake(
    student: Tensor, teacher: Tensor, counted: Tensor | None, numbers: Tensor, norm: int, *_: Any
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype([student, teacher])
    each = ROW_NUMBERS if norm else MAP_NUMBERS
    rows = student.new_empty(student.shape[0], each, student.shape[2], dtype=dtype)
    return student.new_empty((), dtype=dtype), rows


def _kd_bwd_fake(
    grad_loss: Tensor,
    student: Tensor,
    teacher: Tensor,
    rows: Tensor,
    numbers: Tensor,
    student_grad: bool,
    teacher_grad: bool,
) -> list[Tensor]:
    wanted = ((student, student_grad), (teacher, teacher_grad))
    return [torch.empty_like(z) for z, needed in wanted if needed]


for _name, _schema, _fake in (
    ("kd_fwd", _FWD_SCHEMA, _kd_fwd_fake),
    ("kd_bwd", _BWD_SCHEMA, _kd_bwd_fake),
    ("kd_map_fwd", _MAP_FWD_SCHEMA, _kd_map_fwd_fake),
    ("kd_map_bwd", _BWD_SCHEMA, _kd_bwd_fake),
):
    define(_LIBRARY, _name, _schema, _fake, KERNELS["kd"], "amd_fused.losses.kd.triton.launcher")
