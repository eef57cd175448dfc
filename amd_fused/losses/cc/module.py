"""Correlation congruence as a module that holds the maps of both sides to one width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import embedding_checks, layer_checks
from amd_fused.losses._common.buffers import follow
from amd_fused.losses._common.dtypes import compute_dtype, without_autocast
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses.cc import checks
from amd_fused.losses.cc.function import cc_loss

_OWNER = "CCLoss"


class CCLoss(_Loss):
    """Correlation congruence as a module: :func:`cc_loss` of two trained linear maps.

    ``loss = cc_loss(embed_student(student), embed_teacher(teacher))``

    Args:
        student_features: width D_S of the student's embeddings.
        teacher_features: width D_T of the teacher's.
        embed_features: width that both are mapped to.
        formula, gamma, order: as in :func:`cc_loss`.

    ``embed_student`` and ``embed_teacher`` are ``nn.Linear`` and both trained: give
    ``criterion.parameters()`` to the optimiser. (The teacher's too: as the released code has it, a
    constant of both would be a minimum, which a small weight, 0.02 there, keeps away.) They follow
    the embeddings to their device when called, and run in their own dtype, under autocast too;
    under torch.compile they must be there already.

    Called with:
        student: embeddings [B, D_S], B >= 2. teacher: embeddings [B, D_T]. :func:`cc_loss` says
        more.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the embeddings do
            (when called).

    Source: as :func:`cc_loss`; widths and layers are RepDistiller's.
    """

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        formula: str = "released",
        *,
        embed_features: int = 128,
        gamma: float = 0.4,
        order: int = 2,
    ) -> None:
        super().__init__()
        embedding_checks.count(_OWNER, "student_features", student_features)
        embedding_checks.count(_OWNER, "teacher_features", teacher_features)
        embedding_checks.count(_OWNER, "embed_features", embed_features)
        checks.cc_options(_OWNER, formula=formula, gamma=gamma, order=order)
        self.formula = formula
        self.gamma = gamma
        self.order = order
        self.embed_student = nn.Linear(student_features, embed_features)
        self.embed_teacher = nn.Linear(teacher_features, embed_features)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        follow(self, student)
        checks.pair(_OWNER, student, teacher)
        layer_checks.width(_OWNER, "student", student, self.embed_student.in_features)
        layer_checks.width(_OWNER, "teacher", teacher, self.embed_teacher.in_features)
        dtype = compute_dtype([student, teacher])
        own = self.embed_student.weight.dtype
        with without_autocast(student.device.type):
            e_s = self.embed_student(kept_by_autograd(student.to(own)))
            e_t = self.embed_teacher(kept_by_autograd(teacher.to(own)))
        return cc_loss(
            e_s.to(dtype), e_t.to(dtype), self.formula, gamma=self.gamma, order=self.order
        )

    def extra_repr(self) -> str:
        return f"formula={self.formula!r}, gamma={self.gamma!r}, order={self.order!r}"
