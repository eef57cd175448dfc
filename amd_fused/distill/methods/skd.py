"""SKD: logits on a sphere (Guo et al. 2020), by KD's weight and temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from amd_fused import SphericalKDLoss
from amd_fused.distill.methods.term import ORANGE, Look, Term, backend_without_cuda

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


def _loss(settings: Settings) -> nn.Module:
    return SphericalKDLoss(settings.temperature, backend=backend_without_cuda(settings))


TERM = Term(
    key="skd",
    label="SKD",
    help="logits on a sphere, in place of kd (Guo et al. 2020)",
    look=Look(ORANGE, "--", "D"),
    part="kd",
    rank=0,
    logit_loss=_loss,
)
