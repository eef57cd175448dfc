"""AMD, the paper's own, in four forms: on whole maps (g) or their quadrants too (g+l), with the
negative map as it is or masked (5.6.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from amd_fused import AMDLoss
from amd_fused.distill.methods.inputs import Embeddings, Inputs
from amd_fused.distill.methods.term import GREEN, RED, Look, Term
from amd_fused.distill.setting import NOT_NEGATIVE, POSITIVE, Rule, setting

if TYPE_CHECKING:
    from amd_fused.distill.config import Settings


@dataclass(frozen=True)
class Options:
    gamma: float = setting("objective", 5000.0, "weight of the AMD loss (Eq. 8)", NOT_NEGATIVE)
    margin: float = setting("objective", 1.35, "angular margin m (Eq. 6)", POSITIVE)
    scale: float = setting("objective", 64.0, "radius s of the hypersphere (Eq. 6)", POSITIVE)
    local_weight: float = setting(
        "objective",
        0.2,
        "weight of AMD's local part in g+l (Eq. 9)",
        Rule("above 0 and at most 1", lambda value: 0 < value <= 1),
    )
    mask_threshold: float = setting(
        "objective",
        0.5,
        "threshold of the negative map in masked AMD (5.6.1)",
        Rule("at least 0 and below 1", lambda value: 0 <= value < 1),
    )
    components: str = setting(
        "objective",
        "apn",
        "terms of Eq. 7 that AMD has, the others weighted by 0: a, of the maps with the margin, p, "
        "of the positive and n, of the negative maps (Fig. 5)",
        choices=("apn", "a", "p", "n", "ap", "an", "pn"),
    )


def _form(key: str, label: str, help: str, look: Look, *, local: bool, masked: bool) -> Term:
    def loss(settings: Settings, embeddings: Embeddings | None) -> nn.Module:
        return AMDLoss(
            margin=settings.margin,
            scale=settings.scale,
            local_weight=settings.local_weight if local else 0.0,
            mask_threshold=settings.mask_threshold if masked else None,
            component_weights=[float(term in settings.components) for term in "apn"],
            backend=settings.backend,
        )

    return Term(
        key=key,
        label=label,
        help=help,
        look=look,
        part="amd",
        rank=1,
        feature_loss=loss,
        inputs=Inputs.ATTENTION,
        paired=True,
        weight="gamma",
        settings=(
            *("margin", "scale", "components"),
            *(("local_weight",) if local else ()),
            *(("mask_threshold",) if masked else ()),
        ),
    )


G = _form("amd-g", "AMD (g)", "AMD on whole maps", Look(RED, "-", "o"), local=False, masked=False)
GL = _form(
    "amd-gl",
    "AMD (g+l)",
    "AMD on whole maps and their quadrants",
    Look(GREEN, "-", "o"),
    local=True,
    masked=False,
)
MASKED_G = _form(
    "amd-masked-g",
    "masked AMD (g)",
    "AMD on whole maps, the negative map masked (5.6.1)",
    Look(RED, "--", "d"),
    local=False,
    masked=True,
)
MASKED_GL = _form(
    "amd-masked-gl",
    "masked AMD (g+l)",
    "AMD on whole maps and their quadrants, the negative map masked (5.6.1)",
    Look(GREEN, "--", "d"),
    local=True,
    masked=True,
)
