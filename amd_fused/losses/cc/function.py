"""Correlation congruence as a function."""

from __future__ import annotations

from torch import Tensor

from amd_fused.losses.cc import checks, reference


def cc_loss(
    student: Tensor,
    teacher: Tensor,
    formula: str = "released",
    *,
    gamma: float = 0.4,
    order: int = 2,
) -> Tensor:
    """Correlation congruence: relations between the samples of a batch. Two losses have this name.

    As, for formula "released"::

        difference = (student - teacher).abs()
        loss = (difference[:-1] * difference[1:]).sum(1).mean()

    and for "paper"::

        x = F.normalize(a)
        kernel = exp(-2 * gamma) * sum((2 * gamma) ** p / factorial(p) * (x @ x.T) ** p
                                       for p in range(order + 1))
        loss = (kernel_student - kernel_teacher).square().mean()

    Args:
        student: embeddings [B, D], B >= 2. float32, float16, bfloat16 or float64; any strides.
            :class:`CCLoss` has the trained maps to one width.
        teacher: embeddings [B, D] of the same samples; for "paper" the width may differ.
        formula: "released": what the authors gave RepDistiller, and every table since has; it
            depends on the order of the samples in the batch. "paper": the distance of the
            correlation matrices, Gaussian kernels by their Taylor series.
        gamma: of the Gaussian kernel exp(-gamma |x - y|^2), > 0; for "paper" alone.
        order: the last power of its series, from 1 to 100; for "paper" alone.

    Returns:
        0-d float32 tensor, float64 when an input is float64. Gradients of any order flow to every
        input that requires one; for "paper" an all-zero sample, which has no direction, gets none.
        NaN and Inf in an input reach the loss.

    Raises:
        TypeError, ValueError: an argument breaks its rule, B = 1 for one; the message names
            argument, rule and value.

    Source: Peng, Jin, Liu et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019,
    section 3, with the paper's gamma = 0.4 and order 2; "released" is RepDistiller's
    ``Correlation``. torchdistill's ``CCKDLoss`` leaves out the normalisation, so that the series is
    that of no Gaussian kernel, and the square.
    """
    owner = "cc_loss"
    checks.cc_options(owner, formula=formula, gamma=gamma, order=order)
    checks.pair(owner, student, teacher)
    if formula == "released" and student.shape != teacher.shape:
        raise ValueError(
            f"{owner}: student and teacher must have the same shape, got {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}; map both to one width, as CCLoss does"
        )
    return reference.cc_loss(student, teacher, formula=formula, gamma=gamma, order=order)
