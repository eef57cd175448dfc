"""ND: norm and direction of the embedding (KD++, Wang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from amd_fused import NDLoss
from amd_fused.distill.methods.inputs import Embeddings, Inputs
from amd_fused.distill.methods.term import PURPLE, Look, Term, backend_without_cuda
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    nd_weight: float = setting(
        "objective", 1.0, "weight of the norm-and-direction loss", NOT_NEGATIVE
    )


class AdaptedNDLoss(NDLoss):
    """NDLoss for students of another width too, which a linear map brings to the teacher's."""

    def __init__(self, class_means: Tensor, student_width: int, *, backend: str) -> None:
        super().__init__(class_means, backend=backend)
        self.adapter: nn.Linear | None = None
        if student_width != class_means.shape[1]:
            self.adapter = nn.Linear(student_width, class_means.shape[1])

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        if self.adapter is not None:
            student = self.adapter(student.to(self.adapter.weight.dtype))
        return super().forward(student, teacher, target)


def _loss(settings: Settings, embeddings: Embeddings | None) -> nn.Module:
    assert embeddings is not None
    return AdaptedNDLoss(
        embeddings.class_means, embeddings.student_width, backend=backend_without_cuda(settings)
    )


TERM = Term(
    key="nd",
    label="ND",
    help="norm and direction of the embedding (KD++, Wang et al. 2023)",
    look=Look(PURPLE, "-", "v"),
    part="nd",
    feature_loss=_loss,
    inputs=Inputs.EMBEDDING,
    class_means=True,
    one_class=True,
    weight="nd_weight",
)
