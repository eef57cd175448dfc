"""SP: similarities within a batch (Tung & Mori 2019), of the last map as in RepDistiller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import SPLoss
from amd_fused.distill.methods.inputs import Embeddings, Inputs
from amd_fused.distill.methods.term import BLUE, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    sp_weight: float = setting(
        "objective", 3000.0, "weight of the similarity-preserving loss", NOT_NEGATIVE
    )


def _loss(settings: Settings, embeddings: Embeddings | None) -> nn.Module:
    return SPLoss()


TERM = Term(
    key="sp",
    label="SP",
    help="similarities within a batch (Tung & Mori 2019)",
    look=Look(BLUE, "--", "h"),
    part="sp",
    feature_loss=_loss,
    inputs=Inputs.LAST_MAP,
    weight="sp_weight",
)
