"""The CRD loss without the rows of the banks, [B, 1 + K, D], in two forms.

``amd_fused::crd_fwd`` and ``amd_fused::crd_fwd_<backend>`` return the loss and, for every side that
wants one, the gradient of its embeddings at an upstream gradient of 1. The banks may change before
the backward pass, which does not read them.

products  ``crd_fwd``, torch's operators on any device: scores of a batch with every row of a bank,
          some rows at a time, a candidate's term multiplied by how often it was drawn. Work grows
          with N. Counts are sums of ones, the same in any order.
rows      ``crd_fwd_<backend>``: a kernel reads each candidate's row, for its score and, while the
          row is near, for the gradient. Work grows with K.

On one AVX-512 core a row of 128 numbers takes 52 ns and a score by products 12 ns (B = 64, K =
16384, N = 50000). Hence the rule: rows where N > PRODUCTS_A_ROW (1 + K), and a kernel can run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common.dtypes import compute_dtype, without_autocast
from amd_fused.losses._common.gradients import by_input, scaled
from amd_fused.losses._common.numbers import as_tensor
from amd_fused.losses._common.registration import define
from amd_fused.losses._common.second_order import once_differentiable

PRODUCTS = "products"
# Scores by products in the time of a row.
PRODUCTS_A_ROW = 5
# Scores held at once, one of few such matrices.
SCORE_BYTES = 64 << 20
# Fewer rows of a bank than this would make slow products.
LEAST_ROWS = 1024

_SCHEMA = (
    "(Tensor student, Tensor teacher, Tensor student_bank, Tensor teacher_bank, "
    "Tensor samples, Tensor log_normalizers, Tensor numbers, bool[] needs_grad) "
    "-> (Tensor, Tensor[])"  # numbers: [2] float64 on the CPU, temperature and eps
)
_LIBRARY = torch.library.Library("amd_fused", "FRAGMENT")
_LIBRARY.define(f"crd_fwd{_SCHEMA}")


def candidates(backend: str, student_bank: Tensor, samples: Tensor) -> tuple[str, ...]:
    """The backends that ``backend`` chooses among: "auto" wants none where products are quicker."""
    rows, drawn = student_bank.shape[0], samples.shape[1]
    return () if backend == "auto" and rows <= PRODUCTS_A_ROW * drawn else KERNELS["crd"]


def crd_fwd(
    form: str,
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    samples: Tensor,
    log_normalizers: Tensor,
    temperature: float,
    eps: float,
) -> Tensor:
    """The CRD loss, 0-d, differentiable once. Arguments as :func:`amd_fused.crd_loss`, checked.

    Args:
        form: PRODUCTS, or the backend whose kernel reads rows; banks of float64 only beside
            embeddings of float64 then.
    """
    if form != PRODUCTS:
        log_normalizers = log_normalizers.double()
    needs_grad = [torch.is_grad_enabled() and a.requires_grad for a in (student, teacher)]
    numbers = as_tensor(temperature, eps)
    constants = student_bank, teacher_bank, samples, log_normalizers, numbers, needs_grad
    if not any(needs_grad):
        return _operator(form)(student, teacher, *constants)[0]
    return _CRD.apply(form, student, teacher, *constants)


def _operator(form: str) -> Any:
    name = "crd_fwd" if form == PRODUCTS else f"crd_fwd_{form}"
    return getattr(torch.ops.amd_fused, name).default


class _CRD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: str, student: Tensor, teacher: Tensor, *constants: Any) -> Tensor:
        needs_grad = constants[-1]
        loss, slopes = _operator(form)(student, teacher, *constants)
        wanted = [a for a, needed in zip((student, teacher), needs_grad, strict=True) if needed]
        # The inputs only so that a second derivative by them is noticed.
        ctx.save_for_backward(*slopes, *wanted)
        ctx.needs_grad = needs_grad
        ctx.backend = None if form == PRODUCTS else form
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        grads = once_differentiable("crd_loss", ctx.backend, scaled, grad_loss, *ctx.saved_tensors)
        return None, *by_input(grads, ctx.needs_grad), None, None, None, None, None, None


def log_normalizers(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    samples: Tensor,
    temperature: float,
) -> Tensor:
    """The logarithm of N times the mean of exp(score), over this batch, of either side: [2]."""
    dtype = compute_dtype([student, teacher])
    batch, candidates = samples.shape
    rows = student_bank.shape[0]
    sums = []
    with without_autocast(student.device.type):
        for e, bank in ((student, teacher_bank), (teacher, student_bank)):
            parts = []
            for first, last in _chunks(batch, rows, dtype):
                scores = e.to(dtype) @ bank[first:last].to(dtype).T / temperature
                counts = _counts(samples, first, last, dtype)
                parts.append(torch.logsumexp(scores + counts.log(), dim=(0, 1)))
            sums.append(torch.logsumexp(torch.stack(parts), dim=0))
    return torch.stack(sums) + math.log(rows) - math.log(batch * candidates)


def _crd_fwd(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    samples: Tensor,
    log_normalizers: Tensor,
    numbers: Tensor,
    needs_grad: Sequence[bool],
) -> tuple[Tensor, list[Tensor]]:
    temperature, eps = numbers.tolist()
    dtype = compute_dtype([student, teacher])
    batch, negatives, rows = samples.shape[0], samples.shape[1] - 1, student_bank.shape[0]
    shift, constant = shifts(log_normalizers, negatives / rows, eps, dtype)
    sides = [
        (student.to(dtype), teacher_bank, shift[0], needs_grad[0]),
        (teacher.to(dtype), student_bank, shift[1], needs_grad[1]),
    ]
    found = student.new_zeros(batch, dtype=dtype)
    loss = student.new_full((), negatives * constant, dtype=dtype)
    slopes = [torch.zeros_like(e) for e, *_ in sides]
    # An operator's implementation is still under its caller's autocast.
    with without_autocast(student.device.type):
        for (e, bank, log_h, needed), slope in zip(sides, slopes, strict=True):
            term, of_own = own_terms(e, bank, samples, log_h, temperature)
            loss += term
            if needed:
                slope -= of_own
        for first, last in _chunks(batch, rows, dtype):
            counts = _counts(samples[:, 1:], first, last, dtype)
            found += counts.sum(1)
            for (e, bank, log_h, needed), slope in zip(sides, slopes, strict=True):
                chunk = bank[first:last].to(dtype)
                u = torch.addmm(-log_h, e, chunk.T, alpha=1 / temperature)
                loss += (counts * F.softplus(u)).sum() / batch
                if needed:
                    slope.addmm_(u.sigmoid_().mul_(counts), chunk)
    # A candidate outside of the bank, which is not looked for on a GPU, is in no chunk.
    loss = torch.where((found == negatives).all(), loss, torch.nan)
    scale = 1 / (temperature * batch)
    return loss, [slope * scale for slope, needed in zip(slopes, needs_grad, strict=True) if needed]


def shifts(
    log_normalizers: Tensor, noise: float, eps: float, dtype: torch.dtype
) -> tuple[list[Tensor], float]:
    """log_h of either side, 0-d each, and what each negative adds to the loss of both.

    derived: with u = score / temperature - log_h = log(h / (noise + eps)) the terms are
    softplus(-u) of a sample's own row and softplus(u) + log(1 + eps / noise) of a negative, which
    no score overflows.
    """
    log_h = [log_z.to(dtype) + math.log(noise + eps) for log_z in log_normalizers]
    return log_h, 2 * math.log1p(eps / noise)


def own_terms(
    e: Tensor, bank: Tensor, samples: Tensor, log_h: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Of samples' own rows: the mean of softplus(-u), and sigmoid(-u) times the rows, [B, D]."""
    rows = bank.index_select(0, samples[:, 0].long()).to(e.dtype)
    u = (e * rows).sum(1) / temperature - log_h
    return F.softplus(-u).mean(), torch.sigmoid(-u)[:, None] * rows


def _chunks(batch: int, rows: int, dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """Rows of a bank whose scores are held at once."""
    step = max(LEAST_ROWS, SCORE_BYTES // (batch * dtype.itemsize))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _counts(samples: Tensor, first: int, last: int, dtype: torch.dtype) -> Tensor:
    """How often each row from first to last is among each sample's, [B, last - first]."""
    width = last - first
    inside = (samples >= first) & (samples < last)
    # A last column for the others.
    column = torch.where(inside, samples - first, width).long()
    line = torch.arange(samples.shape[0], device=samples.device)[:, None] * (width + 1)
    counts = torch.zeros(samples.shape[0] * (width + 1), dtype=dtype, device=samples.device)
    ones = torch.ones((), dtype=dtype, device=samples.device).expand(samples.numel())
    # Along one axis, for which deterministic algorithms have an implementation too.
    counts.scatter_add_(0, (line + column).flatten(), ones)
    return counts.view(-1, width + 1)[:, :width]


def _crd_fwd_fake(student: Tensor, teacher: Tensor, *constants: Any) -> tuple[Tensor, list[Tensor]]:
    needs_grad = constants[-1]
    dtype = compute_dtype([student, teacher])
    slopes = [
        a.new_empty(a.shape, dtype=dtype)
        for a, needed in zip((student, teacher), needs_grad, strict=True)
        if needed
    ]
    return student.new_empty((), dtype=dtype), slopes


_LIBRARY.impl("crd_fwd", _crd_fwd, "CompositeExplicitAutograd")
torch.library.register_fake("amd_fused::crd_fwd", _crd_fwd_fake, lib=_LIBRARY)
define(_LIBRARY, "crd_fwd", _SCHEMA, _crd_fwd_fake, KERNELS["crd"], "amd_fused.losses.crd.triton")
