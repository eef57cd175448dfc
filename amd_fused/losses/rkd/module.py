"""Relational knowledge distillation as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused.losses.rkd import checks
from amd_fused.losses.rkd.function import rkd_loss


class RKDLoss(_Loss):
    """Relational knowledge distillation as a module: :func:`rkd_loss` with fixed options.

    ``RKDLoss(25, 50)(student, teacher) == rkd_loss(student, teacher, 25, 50)``

    Takes the options of :func:`rkd_loss`, whose documentation explains them, the shapes and the
    result. No parameters and no buffers. The options are attributes of the same names.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the embeddings do
            (when called).

    Source: Park, Kim, Lu, Cho, CVPR 2019, section 3.2.
    """

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        *,
        layer_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        checks.rkd_options(
            "RKDLoss",
            distance_weight=distance_weight,
            angle_weight=angle_weight,
            layer_weights=layer_weights,
        )
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        # A tuple: a list would stay shared with the caller, who may change it later.
        self.layer_weights = None if layer_weights is None else list(layer_weights)

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        return rkd_loss(
            student,
            teacher,
            self.distance_weight,
            self.angle_weight,
            layer_weights=self.layer_weights,
        )

    def extra_repr(self) -> str:
        names = ("distance_weight", "angle_weight", "layer_weights")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
