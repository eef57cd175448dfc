"""Similarity-preserving distillation as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused.losses.sp import checks
from amd_fused.losses.sp.function import sp_loss


class SPLoss(_Loss):
    """Similarity-preserving distillation as a module: :func:`sp_loss` with fixed options.

    ``SPLoss(norm_p)(student, teacher) == sp_loss(student, teacher, norm_p)``

    Takes the options of :func:`sp_loss`, whose documentation explains them, the shapes and the
    result. No parameters and no buffers. The options are attributes of the same names.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the features do
            (when called).

    Source: Tung & Mori, ICCV 2019, section 3.
    """

    def __init__(self, norm_p: float = 2, *, layer_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        checks.sp_options("SPLoss", norm_p=norm_p, layer_weights=layer_weights)
        self.norm_p = norm_p
        # A tuple: a list would stay shared with the caller, who may change it later.
        self.layer_weights = None if layer_weights is None else list(layer_weights)

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        return sp_loss(student, teacher, self.norm_p, layer_weights=self.layer_weights)

    def extra_repr(self) -> str:
        return f"norm_p={self.norm_p!r}, layer_weights={self.layer_weights!r}"
