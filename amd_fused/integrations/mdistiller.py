"""AMD as a distiller of mdistiller: importing this module registers it as ``DISTILLER.TYPE: AMD``.

One line in ``tools/train.py``, before the configuration is read::

    import amd_fused.integrations.mdistiller

and a file of settings, as ``configs/cifar100/at.yaml`` with ``TYPE: "AMD"``. The configuration's
node ``AMD`` has the weights and options of the loss with the paper's values; see ``DEFAULTS``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mdistiller.distillers import distiller_dict
from mdistiller.distillers._base import Distiller
from mdistiller.engine.cfg import CFG
from torch import Tensor, nn

from amd_fused import AMDLoss, kd_loss

# AMD paper, Eq. 8 with its weights for CIFAR-10. mdistiller's pairs of networks may have maps of
# different sizes, which its own AT pools too.
DEFAULTS = {
    "CE_WEIGHT": 0.1,
    "KD_WEIGHT": 0.9,
    "FEAT_WEIGHT": 5000.0,
    "TEMPERATURE": 4.0,
    "MARGIN": 1.35,
    "SCALE": 64.0,
    "LOCAL_WEIGHT": 0.2,
    "FORMULA": "paper",
    "ALIGN": "adaptive_avg",
}


class AMD(Distiller):
    """Labels, the teacher's logits and AMD between the maps after each stage (Eq. 8).

    Args:
        student, teacher: networks of mdistiller, whose call returns logits and a dict with "feats".
        cfg: the whole configuration; its node ``AMD`` has the keys of ``DEFAULTS``.

    Source: AMD paper, Eqs. 6 to 9.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        own = cfg.AMD
        self.ce_weight = own.CE_WEIGHT
        self.kd_weight = own.KD_WEIGHT
        self.feat_weight = own.FEAT_WEIGHT
        self.temperature = own.TEMPERATURE
        self.loss = AMDLoss(
            margin=own.MARGIN,
            scale=own.SCALE,
            local_weight=own.LOCAL_WEIGHT,
            formula=own.FORMULA,
            align=own.ALIGN,
        )

    def forward_train(
        self, image: Tensor, target: Tensor, **_: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, features = self.student(image)
        with torch.no_grad():
            teacher_logits, teacher_features = self.teacher(image)
        kd = kd_loss(logits, teacher_logits, self.temperature)
        amd = self.loss(features["feats"][1:], teacher_features["feats"][1:])
        # The names that mdistiller's DOT trainer looks for: the task's loss and the teacher's.
        return logits, {
            "loss_ce": self.ce_weight * F.cross_entropy(logits, target),
            "loss_kd": self.kd_weight * kd + self.feat_weight * amd,
        }


distiller_dict["AMD"] = AMD
CFG.AMD = type(CFG)(DEFAULTS)
