"""RKD: distances and angles within a batch (Park et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import RKDLoss
from amd_fused.distill.methods.inputs import Embeddings, Inputs
from amd_fused.distill.methods.term import BLUE, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    rkd_weight: float = setting(
        "objective", 1.0, "weight of relational KD, which is 25 D + 50 A", NOT_NEGATIVE
    )


def _loss(settings: Settings, embeddings: Embeddings | None) -> nn.Module:
    return RKDLoss()


TERM = Term(
    key="rkd",
    label="RKD",
    help="distances and angles within a batch (Park et al. 2019)",
    look=Look(BLUE, ":", "P"),
    part="rkd",
    feature_loss=_loss,
    inputs=Inputs.EMBEDDING,
    weight="rkd_weight",
)
