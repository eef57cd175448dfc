"""AT: attention maps (Zagoruyko & Komodakis 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import ATLoss
from amd_fused.distill.methods.inputs import Embeddings, Inputs
from amd_fused.distill.methods.term import BLUE, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    at_weight: float = setting("objective", 1000.0, "weight of attention transfer", NOT_NEGATIVE)


def _loss(settings: Settings, embeddings: Embeddings | None) -> nn.Module:
    return ATLoss(backend=settings.backend)


TERM = Term(
    key="at",
    label="AT",
    help="attention maps (Zagoruyko & Komodakis 2017)",
    look=Look(BLUE, "-", "p"),
    part="at",
    feature_loss=_loss,
    inputs=Inputs.ATTENTION,
    paired=True,
    weight="at_weight",
)
