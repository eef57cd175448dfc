"""Variational information distillation as a function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common import layer_checks, pair_checks, value_checks
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses._common.sides import as_list
from amd_fused.losses.afds import operator
from amd_fused.losses.vid import checks, reference


def vid_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    rho: Tensor | Sequence[Tensor],
    *,
    eps: float = 1e-5,
    layer_weights: Sequence[float] | None = None,
    backend: str = "auto",
) -> Tensor:
    """Variational information distillation: -log q(teacher | student) of a Gaussian.

    As::

        variance = F.softplus(rho) + eps  # one a channel
        loss = 0.5 * ((student - teacher).square() / variance[:, None, None]).mean()
        loss = loss + 0.5 * variance.log().mean()

    for each layer pair, and adds the layers up, in one read of both forward and one backward.
    :class:`VIDLoss` has what is trained with the student: the regressors that make ``student`` of
    its features, and ``rho``.

    Args:
        student: what a regressor predicts of the teacher's features, [B, C, H, W] of one layer, or
            a sequence of such tensors, one a layer. float32, float16, bfloat16 or float64, any
            strides.
        teacher: the teacher's features, of the same shapes.
        rho: [C], the raw variance of each channel; a sequence of them where student is one. Any
            floating dtype (it does not decide the result's).
        eps: the least variance > 0.
        layer_weights: one weight >= 0 a layer pair; default 1 each. The layers are added up, not
            averaged.
        backend: "auto", "triton", "cuda", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when student or teacher is float64. It may be negative, for the
        constant log(2 pi) / 2 is left out, as in the released code. Gradients flow to every
        input that requires one. NaN and Inf in an input reach the loss.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge
    Transfer", CVPR 2019, section 2. RepDistiller's ``VIDLoss`` computes the same of one layer,
    with the mean over batch, channels and positions where the paper adds up the latter two.
    """
    owner = "vid_loss"
    checks.vid_options(owner, eps=eps, layer_weights=layer_weights, backend=backend)
    students, teachers = pair_checks.equal_pairs(
        owner,
        student,
        teacher,
        layer_weights=layer_weights,
        remedy="a regressor makes the teacher's of the student's features, as VIDLoss has them",
    )
    layer_checks.beside_layers(owner, "rho", rho, "C", student, teachers)
    chosen = _backends.choose(owner, backend, students[0].device.type, KERNELS["vid"])
    if chosen == "reference":
        return reference.vid_loss(student, teacher, rho, eps=eps, layer_weights=layer_weights)
    rhos = as_list(rho)
    value_checks.no_transforms(owner, chosen, [*students, *teachers, *rhos])
    dtype = compute_dtype(students + teachers)
    weights = [1.0] * len(students) if layer_weights is None else layer_weights
    total = torch.zeros((), dtype=dtype, device=students[0].device)
    for weight, mean, a_t, raw in zip(weights, students, teachers, rhos, strict=True):
        variance = F.softplus(kept_by_autograd(raw.to(dtype))) + eps
        squared = operator.afds_fwd(chosen, mean, a_t, None, owner).to(dtype)
        # derived: the mean over positions and samples comes first, for a channel has one variance
        total = total + weight * 0.5 * (squared.mean(0) / variance + variance.log()).mean()
    return total
