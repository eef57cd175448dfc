"""The class names and the call of the code that the paper's authors released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from amd_fused.losses._common import pair_checks, value_checks
from amd_fused.losses.amd.function import amd_loss
from amd_fused.losses.amd.options import AMDOptions, check, keywords_of, options_of

# What the released code spells its own way.
_RENAMED = {"margin": "m", "scale": "s"}


class AngularPenaltyLoss(nn.Module):
    """The released code's global loss: lists of features in, a list of losses out, one a pair.

    As ``[amd_loss(f_s, f_t, formula="released", local_weight=0, margin=m, scale=s)
    for f_s, f_t in zip(g_s, g_t)]``. The same values and gradients, and finite ones where the
    released code gives NaN (float16, s >= 90).

    Args:
        out_features: accepted as in the released code, where it has no effect either.
        loss_type: "sphereface", in any case of letters; there is no other.
        eps: accepted, no effect. It kept the released code's arccos off its poles; the form
            computed here has none. (The eps of the attention map's norm is 1e-6 in both.)
        s: scale > 0; None or 0: 64.
        m: angular margin > 0; None or 0: 1.35.
        options: the other keywords of :func:`amd_fused.amd_loss`, such as
            ``align="adaptive_avg"`` for pairs with maps of different sizes or ``formula="paper"``.
            ``layer_weights`` has a factor for each of the losses. They are attributes of
            ``options``, and may be changed between calls.

    ``forward(g_s, g_t)``: lists of student and teacher features [B, C, H, W], of equal length.
    Returns a list of 0-d tensors, float32, or float64 for float64 features. ``sum(...)`` it, or
    use :class:`amd_fused.AMDLoss`, which takes the same lists and returns their mean.

    Raises:
        TypeError, ValueError: an argument breaks its rule, or the lists differ in length (the
            released code ignores what one list has too many).

    Source: github.com/jeunsom/AMD_loss, distiller_zoo/AMD.py; AMD paper, Eqs. 6 and 7.
    """

    _local_weight: ClassVar[float] = 0.0

    def __init__(
        self,
        out_features: int = 1,
        loss_type: str = "sphereface",
        eps: float = 1e-7,
        s: float | None = None,
        m: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if not isinstance(loss_type, str):
            raise TypeError(
                f"{owner}: loss_type must be 'sphereface', got {type(loss_type).__name__}"
            )
        if loss_type.lower() != "sphereface":
            raise ValueError(f"{owner}: loss_type must be 'sphereface', got {loss_type!r}")
        value_checks.non_negative(owner, "eps", eps)
        self.out_features = out_features
        self.loss_type = loss_type.lower()
        self.eps = eps
        self.s = s or 64.0
        self.m = m or 1.35
        value_checks.positive(owner, "s", self.s)
        value_checks.positive(owner, "m", self.m)
        for name, own in _RENAMED.items():
            if name in options:
                raise TypeError(f"{owner}: {name} is called {own} here, got {name}={options[name]}")
        given = {"formula": "released", "local_weight": self._local_weight, **options}
        self.options = options_of(AMDOptions, owner, given)
        check(owner, self.options)

    def forward(self, g_s: Sequence[Tensor], g_t: Sequence[Tensor]) -> list[Tensor]:
        owner = type(self).__name__
        students, teachers = _as_list(owner, "g_s", g_s), _as_list(owner, "g_t", g_t)
        if len(students) != len(teachers):
            raise ValueError(
                f"{owner}: g_s and g_t must have the same number of feature maps, "
                f"got {len(students)} and {len(teachers)}"
            )
        options = self.options
        # All pairs at once, so that a message names this class and the pair.
        pair_checks.feature_pairs(
            owner,
            students,
            teachers,
            options,
            local_weight=options.local_weight,
            layer_weights=options.layer_weights,
            align=options.align,
        )
        keywords = {**keywords_of(options), "margin": self.m, "scale": self.s}
        weights = options.layer_weights or [1.0] * len(students)
        return [
            amd_loss(f_s, f_t, **{**keywords, "layer_weights": [weight]})
            for f_s, f_t, weight in zip(students, teachers, weights, strict=True)
        ]

    def extra_repr(self) -> str:
        own = {"loss_type": self.loss_type, "s": self.s, "m": self.m}
        options = keywords_of(self.options)
        default = keywords_of(AMDOptions(formula="released", local_weight=self._local_weight))
        changed = {name: value for name, value in options.items() if value != default[name]}
        return ", ".join(f"{name}={value!r}" for name, value in {**own, **changed}.items())


class AngularPenaltyLoss4b(AngularPenaltyLoss):
    """The released code's global and local loss, as intended: 0.8 global + 0.2 local (2x2).

    As :class:`AngularPenaltyLoss` with ``local_weight=0.2``: same arguments, same call. The
    released class of this name cannot run (its forward uses a variable before it is set), so there
    is no released value; this computes what its lines are there for.

    Source: github.com/jeunsom/AMD_loss, distiller_zoo/AMD.py; AMD paper, Eqs. 6, 7 and 9.
    """

    _local_weight: ClassVar[float] = 0.2


def _as_list(owner: str, name: str, features: Any) -> list[Tensor]:
    if not isinstance(features, (list, tuple)):
        raise TypeError(
            f"{owner}: {name} must be a list of feature maps, got {type(features).__name__}; "
            "put a single feature map into a list"
        )
    if not features:
        raise ValueError(f"{owner}: {name} must have at least one feature map, got an empty list")
    return list(features)
