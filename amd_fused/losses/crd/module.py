"""Contrastive representation distillation as a module that holds its memory banks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import embedding_checks, layer_checks, processes
from amd_fused.losses._common.buffers import follow
from amd_fused.losses._common.dtypes import compute_dtype, without_autocast
from amd_fused.losses._common.norms import unit
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses._common.value_checks import has_values
from amd_fused.losses.crd import checks, negatives, operator
from amd_fused.losses.crd.function import crd_loss

_OWNER = "CRDLoss"


class CRDLoss(_Loss):
    """Contrastive representation distillation as a module: :func:`crd_loss` with memory banks.

    As::

        e_s = F.normalize(embed_student(student))
        e_t = F.normalize(embed_teacher(teacher))
        samples = torch.cat([indices[:, None], negatives], dim=1)
        loss = crd_loss(e_s, e_t, student_bank, teacher_bank, samples, log_normalizers)
        student_bank[indices] = F.normalize(momentum * student_bank[indices] + (1 - momentum) * e_s)
        teacher_bank[indices] = F.normalize(momentum * teacher_bank[indices] + (1 - momentum) * e_t)

    Args:
        student_features: width D_S of the student's embeddings.
        teacher_features: width D_T of the teacher's.
        num_samples: number N >= 2 of samples in the training data.
        num_negatives: number K of negatives of each sample in each step.
        labels: [N], the class of each sample, of an integer dtype: negatives are then of other
            classes, as in the paper's experiments. Without them they are any other sample.
        embed_features: width E that both are mapped to.
        temperature, eps, backend: as in :func:`crd_loss`.
        momentum: from 0 to 1, the share of a bank's row that stays when its sample is seen.
        seed: of the banks' starting rows and of the negatives.

    Negatives are drawn with replacement, as functions of (seed, ``step``, sample index) alone;
    ``step`` counts the calls in training mode. So they are the same on every device, in any number
    of processes and after resuming from a state_dict.

    ``embed_student`` and ``embed_teacher``, ``nn.Linear``, are trained: give
    ``criterion.parameters()`` to the optimiser. ``student_bank``, ``teacher_bank`` [N, E],
    ``log_normalizers`` [2], infinite until the first call sets them for good, and ``step`` are
    buffers, which state_dict has. All follow the embeddings to their device when called; layers run
    in their own dtype, under autocast too. In evaluation mode nothing changes: neither banks nor
    normalisers nor the step. Under torch.compile the criterion must be on its device.

    Under torch.distributed, when it is initialised, every process must call it as often: the
    samples of all enter each one's banks, which stay the same if seed is. A sample that comes twice
    enters with its last embedding; one whose embedding is not finite does not enter.

    Called with:
        student: embeddings [B, D_S]. teacher: embeddings [B, D_T]. indices: [B], of an integer
        dtype, where each sample stands in the data. A blend of samples (Mixup) has no index, and
        no loss. An index outside 0 to N - 1 is an error on a CPU, and a failed assertion of the
        device on a GPU.

    Returns:
        0-d float32 tensor, float64 when student or teacher is float64.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or an input does (when
            called).

    Source: Tian, Krishnan, Isola, ICLR 2020; defaults are those of RepDistiller's ``CRDLoss``,
    which has a weight of 0.8. It draws the negatives of a sample in the data set, by NumPy's global
    state and without replacement while there are enough; without them in the call it draws from all
    samples, the sample itself among them. Its normaliser carries a graph, so that it cannot be
    copied, and its loss has the shape [1].
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_normalizers: Tensor
    step: Tensor
    _order: Tensor
    _first: Tensor
    _size: Tensor

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        num_samples: int,
        num_negatives: int = 16384,
        *,
        labels: Tensor | None = None,
        embed_features: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        eps: float = 1e-7,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        embedding_checks.count(_OWNER, "student_features", student_features)
        embedding_checks.count(_OWNER, "teacher_features", teacher_features)
        checks.num_samples(_OWNER, num_samples)
        embedding_checks.count(_OWNER, "num_negatives", num_negatives)
        embedding_checks.count(_OWNER, "embed_features", embed_features)
        if labels is not None:
            checks.class_labels(_OWNER, labels, num_samples)
        checks.crd_options(_OWNER, temperature=temperature, eps=eps, backend=backend)
        checks.momentum(_OWNER, momentum)
        checks.seed(_OWNER, seed)
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.momentum = momentum
        self.eps = eps
        self.seed = seed
        self.backend = backend
        self.embed_student = nn.Linear(student_features, embed_features)
        self.embed_teacher = nn.Linear(teacher_features, embed_features)
        # Rows of random directions, of length about 1.
        bound = 1 / math.sqrt(embed_features / 3)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.rand(2, num_samples, embed_features, generator=generator, device="cpu")
        for name, bank in zip(("student_bank", "teacher_bank"), rows, strict=True):
            self.register_buffer(name, (2 * bank - 1) * bound)
        self.register_buffer("log_normalizers", torch.full((2,), torch.inf))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        others = negatives.OtherClasses(labels, num_samples)
        self.register_buffer("_order", others.order, persistent=False)
        self.register_buffer("_first", others.first, persistent=False)
        self.register_buffer("_size", others.size, persistent=False)
        self._has_normalizers = False
        self.register_load_state_dict_post_hook(_normalizers_were_loaded)

    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor) -> Tensor:
        follow(self, student)
        embedding_checks.embedding(_OWNER, "student", student)
        embedding_checks.embedding(_OWNER, "teacher", teacher)
        embedding_checks.same_device(_OWNER, "teacher", teacher, student)
        layer_checks.width(_OWNER, "student", student, self.embed_student.in_features)
        layer_checks.width(_OWNER, "teacher", teacher, self.embed_teacher.in_features)
        checks.indices(_OWNER, indices, student, teacher, len(self.student_bank))
        indices = indices.long()
        dtype = compute_dtype([student, teacher])
        own = self.embed_student.weight.dtype
        with without_autocast(student.device.type):
            e_s = unit(self.embed_student(kept_by_autograd(student.to(own)))).to(dtype)
            e_t = unit(self.embed_teacher(kept_by_autograd(teacher.to(own)))).to(dtype)
        samples = torch.cat([indices[:, None], self._negatives(indices)], dim=1)
        log_normalizers = self.log_normalizers
        if not self._has_normalizers:
            log_normalizers = self._first_normalizers(e_s.detach(), e_t.detach(), samples)
        loss = crd_loss(
            e_s,
            e_t,
            self.student_bank,
            self.teacher_bank,
            samples,
            log_normalizers,
            temperature=self.temperature,
            eps=self.eps,
            backend=self.backend,
        )
        if self.training:
            self._remember(indices, e_s.detach(), e_t.detach())
        return loss

    def _negatives(self, indices: Tensor) -> Tensor:
        of_classes = self._order, self._first, self._size
        return negatives.draw(*of_classes, indices, self.step, self.seed, self.num_negatives)

    def _first_normalizers(self, e_s: Tensor, e_t: Tensor, samples: Tensor) -> Tensor:
        """Of the first batch, that of all processes; kept in training mode."""
        log_z = operator.log_normalizers(
            e_s, e_t, self.student_bank, self.teacher_bank, samples, self.temperature
        )
        # derived: the logarithm of the mean over processes, each as heavy as its batch
        parts = processes.gathered((log_z + math.log(len(samples)))[None])
        count = processes.total(torch.tensor(len(samples), dtype=torch.float64, device="cpu"))
        log_z = (torch.logsumexp(parts, 0) - count.log()).to(self.log_normalizers.dtype)
        if self.training:
            self.log_normalizers.copy_(log_z)
            # A broken first batch sets nothing. (A compiled graph does not look.)
            self._has_normalizers = torch.compiler.is_compiling() or _finite(log_z)
        return log_z

    @torch.no_grad()
    def _remember(self, indices: Tensor, e_s: Tensor, e_t: Tensor) -> None:
        """Moves the rows of the batch towards its embeddings, those of all processes."""
        indices, e_s, e_t = (processes.gathered(a) for a in (indices, e_s, e_t))
        # A sample that comes twice is written twice, with the same row: its last embedding's.
        places = torch.arange(len(indices), device=indices.device)
        last = ((indices[:, None] == indices) * places).amax(1)
        for bank, e in ((self.student_bank, e_s), (self.teacher_bank, e_t)):
            before = bank[indices]
            rows = unit(self.momentum * before + (1 - self.momentum) * e[last].to(bank.dtype))
            bank[indices] = torch.where(rows.isfinite().all(1, keepdim=True), rows, before)
        self.step.add_(1)

    def extra_repr(self) -> str:
        samples, width = self.student_bank.shape
        return (
            f"num_samples={samples}, num_negatives={self.num_negatives!r}, embed_features={width}, "
            f"temperature={self.temperature!r}, momentum={self.momentum!r}, eps={self.eps!r}, "
            f"seed={self.seed!r}, backend={self.backend!r}"
        )


def _finite(a: Tensor) -> bool:
    return not has_values(a) or bool(a.isfinite().all())


def _normalizers_were_loaded(criterion: nn.Module, _incompatible_keys: Any) -> None:
    assert isinstance(criterion, CRDLoss)
    criterion._has_normalizers = _finite(criterion.log_normalizers)
