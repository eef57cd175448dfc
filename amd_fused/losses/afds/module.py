"""Attentive feature distillation as a module that holds the predictors of importance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import layer_checks, pair_checks, value_checks
from amd_fused.losses._common.buffers import follow
from amd_fused.losses._common.dtypes import without_autocast
from amd_fused.losses._common.saving import kept_by_autograd
from amd_fused.losses.afds import checks
from amd_fused.losses.afds.function import afds_loss

_OWNER = "AFDSLoss"
_Shape = Sequence[int]


class AFDSLoss(_Loss):
    """Attentive feature distillation as a module: :func:`afds_loss` with predicted importance.

    As::

        importance = predictor(teacher)  # [B, C], of sum 1 over the channels
        loss = afds_loss(student, teacher, importance)

    for each layer pair, and the mean over the layers.

    Args:
        feature_shapes: (C, H, W) of the features of one layer, or a sequence of them, one a layer.
            Student and teacher must have the same.
        predictor: "softmax", the paper's: each channel's map [N] through a hidden layer of H
            numbers with ReLU, a bias of its own, and the softmax over channels. "se": the sigmoids,
            divided by their sum, of a squeeze-and-excitation block, two 1x1 convolutions of the
            channels' means with ReLU between them.
        eps, layer_weights, backend: as in :func:`afds_loss`.

    ``predictors`` are trained with the student: give ``criterion.parameters()`` to the optimiser.
    They may learn to prefer channels where both agree already, which is why their sum is fixed.
    They follow the features to their device when called, and run in their own dtype, under
    autocast too; under torch.compile they must be there already.

    Called with:
        student, teacher: features [B, C, H, W] of the shapes given, or a sequence of them.
        :func:`afds_loss` says more.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the features do
            (when called).

    Source: as :func:`afds_loss`. "se" is AberHu/Knowledge-Distillation-Zoo's, which found the
    paper's unstable with a sigmoid; weights are drawn as there.
    """

    def __init__(
        self,
        feature_shapes: _Shape | Sequence[_Shape],
        predictor: str = "softmax",
        *,
        eps: float = 1e-6,
        layer_weights: Sequence[float] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.feature_shapes = checks.shapes(_OWNER, feature_shapes)
        value_checks.choice(_OWNER, "predictor", predictor, checks.PREDICTORS)
        checks.afds_options(_OWNER, eps=eps, layer_weights=layer_weights, backend=backend)
        layer_checks.of_layers(_OWNER, "layer_weights", layer_weights, len(self.feature_shapes))
        self.predictor = predictor
        self.eps = eps
        self.backend = backend
        # A copy: the caller's list may change later.
        self.layer_weights = None if layer_weights is None else list(layer_weights)
        made = _SoftmaxPredictor if predictor == "softmax" else _SEPredictor
        self.predictors = nn.ModuleList(made(*shape) for shape in self.feature_shapes)

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        follow(self, student)
        students, teachers = pair_checks.equal_pairs(
            _OWNER, student, teacher, layer_weights=self.layer_weights, remedy=checks.REMEDY
        )
        checks.layers_of(_OWNER, teachers, self.feature_shapes)
        with without_autocast(students[0].device.type):
            importance = [p(a_t) for p, a_t in zip(self.predictors, teachers, strict=True)]
        return afds_loss(
            students,
            teachers,
            importance,
            eps=self.eps,
            layer_weights=self.layer_weights,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        names = ("feature_shapes", "predictor", "eps", "layer_weights", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


class _SoftmaxPredictor(nn.Module):
    """Section 3's importance predictor."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        positions = height * width
        self.hidden = nn.Linear(positions, height)
        self.weight = nn.Parameter(torch.empty(height))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.normal_(self.hidden.weight, std=math.sqrt(2 / positions))
        nn.init.zeros_(self.hidden.bias)
        nn.init.normal_(self.weight, std=math.sqrt(2 / height))

    def forward(self, teacher: Tensor) -> Tensor:
        x = kept_by_autograd(teacher.flatten(2).to(self.weight.dtype))
        return torch.softmax(F.relu(self.hidden(x)) @ self.weight + self.bias, dim=1)


class _SEPredictor(nn.Module):
    """A squeeze-and-excitation block in place of it."""

    def __init__(self, channels: int, _height: int, _width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels, 1)
        self.excite = nn.Conv2d(channels, channels, 1)
        for layer in (self.squeeze, self.excite):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, teacher: Tensor) -> Tensor:
        wide = torch.float64 if teacher.dtype == torch.float64 else torch.float32
        pooled = teacher.mean((2, 3), keepdim=True, dtype=wide).to(self.squeeze.weight.dtype)
        rho = torch.sigmoid(self.excite(F.relu(self.squeeze(pooled)))).flatten(1)
        return rho / rho.sum(1, keepdim=True)
