"""Attention transfer as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused.losses.at import checks
from amd_fused.losses.at.function import at_loss


class ATLoss(_Loss):
    """Attention transfer as a module: :func:`at_loss` with fixed options.

    ``ATLoss(p, mode)(student, teacher) == at_loss(student, teacher, p, mode)``

    Takes the options of :func:`at_loss`, whose documentation explains them, the shapes and the
    result. No parameters and no buffers. The options are attributes of the same names.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the features do
            (when called).

    Source: Zagoruyko & Komodakis, ICLR 2017, section 3.1.
    """

    def __init__(
        self,
        p: float = 2,
        mode: str = "code",
        *,
        layer_weights: Sequence[float] | None = None,
        align: str = "error",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.at_options(
            "ATLoss", p=p, mode=mode, layer_weights=layer_weights, align=align, backend=backend
        )
        self.p = p
        self.mode = mode
        # A tuple: a list would stay shared with the caller, who may change it later.
        self.layer_weights = None if layer_weights is None else list(layer_weights)
        self.align = align
        self.backend = backend

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        return at_loss(
            student,
            teacher,
            self.p,
            self.mode,
            layer_weights=self.layer_weights,
            align=self.align,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        names = ("p", "mode", "layer_weights", "align", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
