"""The LSH loss as a function."""

from __future__ import annotations

from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common import embedding_checks, value_checks
from amd_fused.losses.lsh import checks, operator, reference


def lsh_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str = "bce",
    l2_weight: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """LSH loss: the student falls on the teacher's side of random hyperplanes.

    As, for kind "bce"::

        hash_s, hash_t = F.linear(student, weight, bias), F.linear(teacher, weight, bias)
        loss = F.binary_cross_entropy_with_logits(hash_s, (hash_t > 0).float())
        loss = loss + l2_weight * F.mse_loss(student, teacher)

    and with ``F.mse_loss(hash_s, hash_t)`` for "l2", ``F.l1_loss(hash_s, hash_t)`` for "l1". The
    matrix products are torch's; they run over some rows of the batch at a time, and the gradient is
    computed with the value, so that hash values [B, H] are never held: at most 64 MiB of them (or
    64 rows, if that is more), whatever B and H. What stays for the backward pass is one [B, D]
    gradient in the compute dtype for each side that wants one. Backend "reference" holds them all.

    Args:
        student: embeddings [B, D], of the penultimate layer as a rule. float32, float16, bfloat16
            or float64; any strides. :class:`LSHLoss` has an adapter for students of another width.
        teacher: embeddings [B, D] of the same samples; the dtype may differ.
        weight: hyperplanes [H, D], rows of independent normal numbers. A constant: it must not
            require a gradient. Converted where its dtype is not the computed one, float32 or
            float64: for half precision nothing is gained by halving it.
        bias: [H], added to the hash values, or None. A constant. It cancels in "l2" and "l1".
        kind: "bce", "l2" or "l1".
        l2_weight: weight >= 0 of the mean squared difference of the embeddings themselves.
        backend: "auto", "triton", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Products are in float32 (float64), under autocast and for half precision too: a hash of 10 bits
    would be on the wrong side of its hyperplane more often.
    ``torch.set_float32_matmul_precision("high")`` makes them TF32 on GPUs that have it.

    Returns:
        0-d float32 tensor; float64 when student or teacher is float64. Gradients flow to student
        and teacher, whichever requires one: to the teacher through the squared difference and, for
        "l2" and "l1", its hash values; its side of a hyperplane is a constant. NaN and Inf in an
        embedding give NaN.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Wang, Ge, Wu, "Distilling Knowledge by Mimicking Features", TPAMI 2021
    (arXiv:2011.01424): the LSH loss. The released code is the equivalent above with l2_weight 1 or
    0; its training script weights the whole.
    """
    owner = "lsh_loss"
    checks.lsh_options(owner, kind=kind, l2_weight=l2_weight, backend=backend)
    embedding_checks.embedding_pair(
        owner,
        student,
        teacher,
        "project the student to the teacher's width, as LSHLoss(student_features=...) does",
    )
    embedding_checks.matrix(owner, "weight", weight, "H", "D")
    embedding_checks.of_width(owner, "weight", weight, student)
    if bias is not None:
        checks.hash_bias(owner, bias, weight, student)
    chosen = _backends.choose(owner, backend, student.device.type, KERNELS["lsh"])
    if chosen == "reference":
        return reference.lsh_loss(student, teacher, weight, bias, kind=kind, l2_weight=l2_weight)
    value_checks.no_transforms(owner, chosen, [student, teacher])
    return operator.lsh_fwd(chosen, student, teacher, weight, bias, kind, l2_weight)
