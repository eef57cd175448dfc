"""Attention transfer as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import layouts
from amd_fused.losses._common.layouts import LayoutOptions
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
        layout: str | None = None,
        prefix_tokens: int = 0,
        grid: Sequence[int] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.at_options(
            "ATLoss", p=p, mode=mode, layer_weights=layer_weights, align=align, backend=backend
        )
        layouts.check(
            "ATLoss", LayoutOptions(layout=layout, prefix_tokens=prefix_tokens, grid=grid)
        )
        self.p = p
        self.mode = mode
        # A list of its own: the caller may change his later.
        self.layer_weights = None if layer_weights is None else list(layer_weights)
        self.align = align
        self.layout = layout
        self.prefix_tokens = prefix_tokens
        self.grid = grid
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
            layout=self.layout,
            prefix_tokens=self.prefix_tokens,
            grid=self.grid,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        names = (
            "p", "mode", "layer_weights", "align", "layout", "prefix_tokens", "grid", "backend",
        )  # fmt: skip
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
