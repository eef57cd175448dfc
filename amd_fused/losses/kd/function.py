"""KD and its spherical form as functions: check, choose the backend, call the operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common import value_checks
from amd_fused.losses.kd import checks, operator, reference


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    target: Tensor | None = None,
    ignore_index: int = -100,
    backend: str = "auto",
) -> Tensor:
    """Knowledge distillation: the divergence of two softened predictions.

    Computes, in one pass over the logits and without storing a matrix of their size besides the
    gradient::

        log_p_s, log_p_t = (F.log_softmax(z / tau, 1) for z in (student_logits, teacher_logits))
        loss = tau**2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)

    Dense logits, as of segmentation, are read where they lie, and positions may be left out::

        kl = F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(1)  # [B, ...]
        loss = tau**2 * kl[target != ignore_index].mean()

    Args:
        student_logits: [B, K] or dense [B, K, ...], as [B, K, H, W], with K >= 2; float32, float16,
            bfloat16 or float64, any strides. Classes are dimension 1, as for F.cross_entropy.
        teacher_logits: of the same shape; the dtype may differ.
        temperature: tau > 0, which softens both sides.
        target: class indices [B] or [B, ...] of an integer dtype, of which only those that are
            ``ignore_index`` mean something: these positions do not count, whatever their logits
            are, NaN too. None: all count.
        ignore_index: an int, the label of positions that do not count.
        backend: "auto", "triton", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when an input is float64: tau^2 KL(teacher || student) in nats,
        summed over classes, averaged over the batch, or over the positions that count; 0 with
        gradients of 0 where none does. Gradients flow to every input that requires one, in its
        memory format. NaN and Inf in an input reach it, but for masked classes: a teacher's logit
        of -Inf has the probability 0 and adds nothing, whether the student masks that class too or
        not; its gradient is 0. A class that the student alone masks makes the loss Inf, as the
        divergence is, and a row of masked classes alone makes it NaN.

    Dense logits cost one pass over them forward and one backward in C++ and Triton. Dimensions
    after the second that no single stride leads through, as those of a cropped map, are copied.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015; AMD paper,
    Eq. 3. RepDistiller's ``DistillKL(T)`` and mdistiller's ``kd_loss`` are the same function.
    """
    checks.kd_options("kd_loss", temperature=temperature, backend=backend)
    checks.logit_pair("kd_loss", student_logits, teacher_logits)
    labels: dict[str, Any] = {"target": target, "ignore_index": ignore_index}
    checks.labels("kd_loss", **labels, z=student_logits)
    chosen = _backends.choose("kd_loss", backend, student_logits.device.type, KERNELS["kd"])
    if chosen == "reference":
        return reference.kd_loss(student_logits, teacher_logits, temperature, **labels)
    value_checks.no_transforms("kd_loss", chosen, (student_logits, teacher_logits))
    return _fused(chosen, student_logits, teacher_logits, temperature, **labels)


def spherical_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    norm: str = "std",
    multiplier: float | None = None,
    target: Tensor | None = None,
    ignore_index: int = -100,
    backend: str = "auto",
) -> Tensor:
    """Spherical knowledge distillation: KD of logits that are brought to one norm first.

    As::

        length = lambda z: z.std(1, keepdim=True)  # norm="l2": z.norm(dim=1, keepdim=True)
        r = length(teacher_logits) if multiplier is None else multiplier
        z_s, z_t = (z / length(z) * r for z in (student_logits, teacher_logits))
        loss = kd_loss(z_s, z_t, temperature, target=target, ignore_index=ignore_index)

    The student's other loss, its cross entropy with the labels, must see the same rescaled logits:
    :meth:`amd_fused.SphericalKDLoss.normalize` gives them.

    Args:
        student_logits: [B, K] or dense [B, K, ...] with K >= 2, float32, float16, bfloat16 or
            float64, any strides. Norms are taken over the classes of each position.
        teacher_logits: of the same shape; the dtype may differ.
        temperature: tau > 0, which softens both sides.
        norm: "std", the unbiased standard deviation over the classes, K >= 3, or "l2", the
            Euclidean norm.
        multiplier: r, a number > 0 for both sides; None takes each sample's own teacher norm, which
            leaves the teacher's logits as they are.
        target, ignore_index: which positions count, as :func:`kd_loss` takes them.
        backend: "auto", "triton", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when an input is float64: tau^2 KL(teacher || student) in nats,
        summed over classes, averaged over the batch, or over the positions that count; 0 where none
        does. Gradients flow to every input that requires one, through the norms too. A norm up to
        1e-12 counts as 0: that side's prediction is then uniform, and its gradient 0. NaN and Inf
        in an input reach the loss; -Inf too, for a row with a masked class has no norm: leave the
        class out of both sides.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Guo, Chen, Hu, Zhu, He, Cai, "Reducing the Teacher-Student Gap via Spherical Knowledge
    Distillation" (first called "Spherical Knowledge Distillation"), 2020, which names the Euclidean
    norm in its text; the standard deviation differs from it by a constant factor where the logits
    of a sample have mean 0.
    """
    owner = "spherical_kd_loss"
    checks.spherical_kd_options(
        owner, temperature=temperature, norm=norm, multiplier=multiplier, backend=backend
    )
    checks.spherical_pair(owner, student_logits, teacher_logits, norm)
    labels: dict[str, Any] = {"target": target, "ignore_index": ignore_index}
    checks.labels(owner, **labels, z=student_logits)
    chosen = _backends.choose(owner, backend, student_logits.device.type, KERNELS["kd"])
    form: dict[str, Any] = {"norm": norm, "multiplier": multiplier}
    if chosen == "reference":
        return reference.spherical_kd_loss(
            student_logits, teacher_logits, temperature, **form, **labels
        )
    value_checks.no_transforms(owner, chosen, (student_logits, teacher_logits))
    return _fused(chosen, student_logits, teacher_logits, temperature, **form, **labels)


def _fused(
    backend: str,
    z_s: Tensor,
    z_t: Tensor,
    temperature: float,
    *,
    norm: str | None = None,
    multiplier: float | None = None,
    target: Tensor | None,
    ignore_index: int,
) -> Tensor:
    if z_s.ndim == 2 and target is None:
        return operator.kd_fwd(backend, z_s, z_t, temperature, norm, multiplier)
    counted = None
    if target is not None:
        counted = (target != ignore_index).reshape(len(target), -1).contiguous()
    if z_s.ndim == 2:
        # One map with a position a sample.
        z_s, z_t = z_s.t().unsqueeze(0), z_t.t().unsqueeze(0)
        counted = None if counted is None else counted.t()
    z_s, z_t = z_s.flatten(2), z_t.flatten(2)
    loss = operator.kd_map_fwd(backend, z_s, z_t, counted, temperature, norm, multiplier)
    if counted is None:
        return loss
    # The operator's is the mean over all positions.
    return loss * (counted.numel() / counted.sum().clamp(min=1).to(loss.dtype))
