"""CC: relations of neighbours in a batch, RepDistiller's form (Peng et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import CCLoss
from amd_fused.distill.methods.inputs import Inputs, Shapes
from amd_fused.distill.methods.term import SKY, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    cc_weight: float = setting("objective", 0.02, "weight of correlation congruence", NOT_NEGATIVE)


def _loss(settings: Settings, shapes: Shapes) -> nn.Module:
    return CCLoss(shapes.student_width, shapes.teacher_width)


TERM = Term(
    key="cc",
    label="CC",
    help="relations of neighbours in a batch (Peng et al. 2019)",
    look=Look(SKY, "--", ">"),
    part="cc",
    layered_loss=_loss,
    inputs=Inputs.EMBEDDING,
    weight="cc_weight",
)
