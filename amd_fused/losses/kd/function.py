"""KD and its spherical form as functions: check, choose the backend, call the operator."""

from __future__ import annotations

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
    backend: str = "auto",
) -> Tensor:
    """Knowledge distillation: the divergence of two softened predictions.

    Computes, in one pass over the logits and without storing a matrix of their size besides the
    gradient::

        log_p_s, log_p_t = (F.log_softmax(z / tau, 1) for z in (student_logits, teacher_logits))
        loss = tau**2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)

    Args:
        student_logits: [B, K] with K >= 2, float32, float16, bfloat16 or float64, any strides.
        teacher_logits: [B, K]; the dtype may differ.
        temperature: tau > 0, which softens both sides.
        backend: "auto", "triton", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when an input is float64: tau^2 KL(teacher || student) in nats,
        summed over classes, averaged over the batch. Gradients flow to every input that requires
        one. NaN and Inf in an input reach it, but for masked classes: a teacher's logit of -Inf has
        the probability 0 and adds nothing, whether the student masks that class too or not; its
        gradient is 0. A class that the student alone masks makes the loss Inf, as the divergence
        is, and a row of masked classes alone makes it NaN.

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
    chosen = _backends.choose("kd_loss", backend, student_logits.device.type, KERNELS["kd"])
    if chosen == "reference":
        return reference.kd_loss(student_logits, teacher_logits, temperature)
    value_checks.no_transforms("kd_loss", chosen, (student_logits, teacher_logits))
    return operator.kd_fwd(chosen, student_logits, teacher_logits, temperature)


def spherical_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    *,
    norm: str = "std",
    multiplier: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Spherical knowledge distillation: KD of logits that are brought to one norm first.

    As::

        length = lambda z: z.std(1, keepdim=True)  # norm="l2": z.norm(dim=1, keepdim=True)
        r = length(teacher_logits) if multiplier is None else multiplier
        z_s, z_t = (z / length(z) * r for z in (student_logits, teacher_logits))
        loss = kd_loss(z_s, z_t, temperature)

    The student's other loss, its cross entropy with the labels, must see the same rescaled logits:
    :meth:`amd_fused.SphericalKDLoss.normalize` gives them.

    Args:
        student_logits: [B, K] with K >= 2, float32, float16, bfloat16 or float64, any strides.
        teacher_logits: [B, K]; the dtype may differ.
        temperature: tau > 0, which softens both sides.
        norm: "std", the unbiased standard deviation over the classes, K >= 3, or "l2", the
            Euclidean norm.
        multiplier: r, a number > 0 for both sides; None takes each sample's own teacher norm, which
            leaves the teacher's logits as they are.
        backend: "auto", "triton", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        0-d float32 tensor, float64 when an input is float64: tau^2 KL(teacher || student) in nats,
        summed over classes, averaged over the batch. Gradients flow to every input that requires
        one, through the norms too. A norm up to 1e-12 counts as 0: that side's prediction is then
        uniform, and its gradient 0. NaN and Inf in an input reach the loss; -Inf too, for a row
        with a masked class has no norm: leave the class out of both sides.

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
    chosen = _backends.choose(owner, backend, student_logits.device.type, KERNELS["kd"])
    if chosen == "reference":
        return reference.spherical_kd_loss(
            student_logits, teacher_logits, temperature, norm=norm, multiplier=multiplier
        )
    value_checks.no_transforms(owner, chosen, (student_logits, teacher_logits))
    return operator.kd_fwd(
        chosen,
        student_logits,
        teacher_logits,
        temperature,
        norm,
        multiplier,
    )
