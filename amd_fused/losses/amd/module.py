"""The AMD loss as a module."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused.losses.amd.function import amd_loss
from amd_fused.losses.amd.options import AMDOptions, Features, check, keywords_of


@dataclass(kw_only=True, eq=False, repr=False)
class AMDLoss(_Loss, AMDOptions):
    """Angular Margin based Distillation loss as a module: :func:`amd_loss` with fixed options.

    ``AMDLoss(**options)(student, teacher) == amd_loss(student, teacher, **options)``

    Takes the keywords of :func:`amd_loss`, whose documentation explains them, the shapes and the
    result. No parameters and no buffers. The options are attributes of the same names,
    and may be changed between calls; under torch.compile further values compile nothing new (of
    weights: lists, not tuples).

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the features do
            (when called).

    Source: AMD paper, Eqs. 4, 6, 7 and 9.
    """

    def __post_init__(self) -> None:
        super().__init__(reduction=self.reduction)
        check("AMDLoss", self)
        # Lists of its own: torch.compile makes a constant of every tuple of numbers.
        self.component_weights = list(self.component_weights)
        self.layer_weights = None if self.layer_weights is None else list(self.layer_weights)

    def forward(self, student: Features, teacher: Features) -> Tensor:
        return amd_loss(student, teacher, **keywords_of(self))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in keywords_of(self).items())
