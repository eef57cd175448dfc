"""Contrastive representation distillation as a function."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_fused import _backends
from amd_fused.losses._common import embedding_checks, value_checks
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses.crd import checks, operator, reference


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    samples: Tensor,
    log_normalizers: Tensor,
    *,
    temperature: float = 0.07,
    eps: float = 1e-7,
    backend: str = "auto",
) -> Tensor:
    """Contrastive representation distillation: a sample's two embeddings against other samples'.

    As, for the student against the teacher's bank, and the same for the teacher against the
    student's::

        h = torch.exp((teacher_bank[samples] @ student[:, :, None]).squeeze(2) / temperature) / Z
        noise = K / N
        loss = -(torch.log(h[:, 0] / (h[:, 0] + noise + eps))
                 + torch.log(noise / (h[:, 1:] + noise + eps)).sum(1)).mean()

    without the rows of the bank, [B, 1 + K, D]: for N up to 5 (1 + K) by products with the whole
    bank, some rows at a time (at most four matrices of 64 MiB, or [B, 1024] if that is more), for
    larger banks by a kernel that reads each row once, for its score and its part of the gradient.
    The gradient is computed with the value, so that the banks may be updated before the backward
    pass. :class:`CRDLoss` keeps the banks, and draws the samples.

    Args:
        student: embeddings [B, D] of length 1. float32, float16, bfloat16 or float64; any strides.
        teacher: embeddings [B, D] of the same samples; the dtype may differ.
        student_bank, teacher_bank: [N, D], an embedding of every sample of the data. Any floating
            dtype (it does not decide the result's). Constants: they must not require a gradient.
        samples: [B, 1 + K], int64 or int32, rows of the banks: the sample itself, then its
            negatives, of which one may come several times.
        log_normalizers: [2], the logarithms of Z for the student's scores and for the teacher's. A
            constant. The released code sets Z = N mean(h) at the first batch and leaves it there.
        temperature: tau > 0.
        eps: added to the noise, > 0.
        backend: "auto", "triton", "cuda", "cpp" or "reference". "auto" is as said above, and
            products where no kernel can run; a named backend runs or raises: "triton", "cuda" and
            "cpp" read rows whatever N is, "reference" holds [B, 1 + K, D] twice over. The
            environment variable AMD_FUSED_BACKEND replaces "auto" where N is above 5 (1 + K).

    Products are in float32 (float64), under autocast and for half precision too.

    Returns:
        0-d float32 tensor; float64 when student or teacher is float64. Gradients flow to student
        and teacher, whichever requires one. NaN and Inf in an embedding give NaN. A sample outside
        0 to N - 1 is an error on a CPU; on a GPU, where looking would stop the host, a negative
        makes the loss NaN, and the sample itself that or a failed assertion of the device.

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked for
            (``backend="reference"``, which is ``amd_fused.reference.crd_loss``, has them).

    Source: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, section 3;
    normalisers and eps are the released code's (RepDistiller's ``CRDLoss``), whose value this is.
    """
    owner = "crd_loss"
    checks.crd_options(owner, temperature=temperature, eps=eps, backend=backend)
    embedding_checks.embedding_pair(
        owner, student, teacher, "map both to one width, as CRDLoss does"
    )
    checks.banks(owner, student_bank, teacher_bank, student)
    checks.samples(owner, samples, student_bank.shape[0], student)
    checks.log_normalizers(owner, log_normalizers, student)
    among = operator.candidates(backend, student_bank, samples)
    form = _backends.choose(owner, backend, student.device.type, among, operator.PRODUCTS)
    constants = student_bank, teacher_bank, samples, log_normalizers
    if form == "reference":
        return reference.crd_loss(student, teacher, *constants, temperature=temperature, eps=eps)
    value_checks.no_transforms(
        owner, None if form == operator.PRODUCTS else form, [student, teacher]
    )
    dtype = compute_dtype([student, teacher])
    if form != operator.PRODUCTS and torch.float64 in (student_bank.dtype, teacher_bank.dtype):
        student, teacher = student.double(), teacher.double()
    return operator.crd_fwd(form, student, teacher, *constants, temperature, eps).to(dtype)
