"""The AMD loss as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused.losses.amd import checks
from amd_fused.losses.amd.function import amd_loss

Features = Tensor | Sequence[Tensor]


class AMDLoss(_Loss):
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

    def __init__(
        self,
        *,
        margin: float = 1.35,
        scale: float = 64.0,
        local_weight: float = 0.2,
        formula: str = "paper",
        component_weights: Sequence[float] = (1.0, 1.0, 1.0),
        mask_threshold: float | None = None,
        layer_weights: Sequence[float] | None = None,
        eps: float = 1e-6,
        reduction: str = "mean",
        align: str = "error",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.margin = margin
        self.scale = scale
        self.local_weight = local_weight
        self.formula = formula
        self.component_weights = component_weights
        self.mask_threshold = mask_threshold
        self.layer_weights = layer_weights
        self.eps = eps
        self.reduction = reduction
        self.align = align
        self.backend = backend
        checks.amd_options("AMDLoss", **self._options())
        # Lists of its own: torch.compile makes a constant of every tuple of numbers.
        self.component_weights = list(component_weights)
        self.layer_weights = None if layer_weights is None else list(layer_weights)

    def forward(self, student: Features, teacher: Features) -> Tensor:
        return amd_loss(student, teacher, **self._options())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options().items())

    def _options(self) -> dict[str, Any]:
        """The keywords of ``amd_loss``, in the order of its signature."""
        return {
            "margin": self.margin,
            "scale": self.scale,
            "local_weight": self.local_weight,
            "formula": self.formula,
            "component_weights": self.component_weights,
            "mask_threshold": self.mask_threshold,
            "layer_weights": self.layer_weights,
            "eps": self.eps,
            "reduction": self.reduction,
            "align": self.align,
            "backend": self.backend,
        }
