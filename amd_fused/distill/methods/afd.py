"""AFD: all pairs of maps by a learnt attention (Ji et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import AFDLoss
from amd_fused.distill.methods.inputs import Inputs, Shapes
from amd_fused.distill.methods.term import GREEN, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    afd_weight: float = setting(
        "objective", 200.0, "weight of attention-based feature distillation", NOT_NEGATIVE
    )


def _loss(settings: Settings, shapes: Shapes) -> nn.Module:
    return AFDLoss(shapes.student_channels, shapes.teacher_channels)


TERM = Term(
    key="afd",
    label="AFD",
    help="all pairs of maps by a learnt attention (Ji et al. 2021)",
    look=Look(GREEN, ":", "X"),
    part="afd",
    layered_loss=_loss,
    inputs=Inputs.MAPS,
    weight="afd_weight",
)
