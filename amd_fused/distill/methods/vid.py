"""VID: the teacher's maps as a Gaussian of the student's (Ahn et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import VIDLoss
from amd_fused.distill.methods.inputs import Inputs, Shapes
from amd_fused.distill.methods.term import GREEN, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    vid_weight: float = setting(
        "objective", 1.0, "weight of variational information distillation", NOT_NEGATIVE
    )


def _loss(settings: Settings, shapes: Shapes) -> nn.Module:
    return VIDLoss(shapes.student_channels, shapes.teacher_channels)


TERM = Term(
    key="vid",
    label="VID",
    help="maps as a Gaussian of the student's (Ahn et al. 2019)",
    look=Look(GREEN, "--", "<"),
    part="vid",
    layered_loss=_loss,
    inputs=Inputs.MAPS,
    weight="vid_weight",
)
