"""KD: the teacher's logits (Hinton et al. 2015). Every distilled method has it, or a loss of logits
in its place, as the paper runs its baselines (5.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import KDLoss
from amd_fused.distill.methods.term import ORANGE, Look, Term, backend_without_cuda
from amd_fused.distill.setting import NOT_NEGATIVE, POSITIVE, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    kd_weight: float = setting(
        "objective", 0.9, "lambda_2, weight of the teacher's logits (Eq. 8)", NOT_NEGATIVE
    )
    temperature: float = setting(
        "objective", 4.0, "tau, temperature of the logits (Eq. 3)", POSITIVE
    )


def _loss(settings: Settings) -> nn.Module:
    return KDLoss(settings.temperature, backend=backend_without_cuda(settings))


TERM = Term(
    key="kd",
    label="KD",
    help="the teacher's logits (Hinton et al. 2015); the methods below come on top of it",
    look=Look(ORANGE, "-", "s"),
    part="kd",
    rank=0,
    logit_loss=_loss,
    alone="leave kd out of a sum: it is in every one, or skd in its place",
)
