"""CRD: an embedding against those of other images, kept in memory (Tian et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import CRDLoss
from amd_fused.distill.methods.inputs import Inputs, Shapes
from amd_fused.distill.methods.term import RED, Look, Term
from amd_fused.distill.setting import AT_LEAST_1, NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    crd_weight: float = setting(
        "objective", 0.8, "weight of contrastive representation distillation", NOT_NEGATIVE
    )
    crd_negatives: int = setting(
        "objective", 16384, "images of other classes that CRD draws for each", AT_LEAST_1
    )


def _loss(settings: Settings, shapes: Shapes) -> nn.Module:
    assert shapes.labels is not None
    return CRDLoss(
        shapes.student_width,
        shapes.teacher_width,
        len(shapes.labels),
        settings.crd_negatives,
        labels=shapes.labels,
        seed=settings.seed,
    )


TERM = Term(
    key="crd",
    label="CRD",
    help="an embedding against those of other images (Tian et al. 2020)",
    look=Look(RED, "--", "p"),
    part="crd",
    layered_loss=_loss,
    inputs=Inputs.EMBEDDING,
    one_class=True,
    weight="crd_weight",
    settings=("crd_negatives",),
)
