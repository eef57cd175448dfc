"""AFDS: channels by their predicted importance, of layers of equal shapes (Wang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import AFDSLoss
from amd_fused.distill.methods.inputs import Inputs, Shapes
from amd_fused.distill.methods.term import GREEN, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    afds_weight: float = setting(
        "objective", 500.0, "weight of attentive feature distillation", NOT_NEGATIVE
    )


def _loss(settings: Settings, shapes: Shapes) -> nn.Module:
    return AFDSLoss(shapes.student_maps)


TERM = Term(
    key="afds",
    label="AFDS",
    help="channels by their predicted importance (Wang et al. 2020)",
    look=Look(GREEN, "-.", "d"),
    part="afds",
    layered_loss=_loss,
    inputs=Inputs.MAPS,
    weight="afds_weight",
)
