"""Variational information distillation as a module that holds its regressors and variances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import embedding_checks, layer_checks, pair_checks
from amd_fused.losses._common.buffers import follow
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.pooling import pool_to_common_size
from amd_fused.losses.vid import checks
from amd_fused.losses.vid.function import vid_loss

_OWNER = "VIDLoss"


class VIDLoss(_Loss):
    """Variational information distillation as a module: :func:`vid_loss` of a trained regression.

    As::

        mean = regressor(student)  # 1x1 convolutions with ReLU between them
        loss = vid_loss(mean, teacher, rho)

    for each layer pair, and adds the layers up.

    Args:
        student_channels: channels C_S of the student's features; one number, or one a layer.
        teacher_channels: channels C_T of the teacher's; as many.
        hidden_channels: channels between the three convolutions of a regressor; default C_T.
        initial_variance: the variance that each channel begins with, > eps.
        eps, layer_weights, backend: as in :func:`vid_loss`.

    ``regressors`` and ``rhos`` are trained: give ``criterion.parameters()`` to the optimiser. They
    follow the features to their device when called; under torch.compile they must be there already.

    Called with:
        student: features [B, C_S, H, W], or a sequence of them where channels are one. teacher:
        features [B, C_T, H', W']. Where sizes differ, the larger is average-pooled to the smaller's
        height and width, the student before its regressor.

    Under autocast the regressors run as the student's own layers do, the loss in float32.

    Returns:
        0-d float32 tensor, float64 when a feature is float64.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the features do
            (when called).

    Source: Ahn et al., CVPR 2019. The convolutions have no bias, and all sizes and defaults are
    RepDistiller's ``VIDLoss``, which has a weight of 1; it decides what is pooled by the height and
    pools to squares. (mdistiller's keeps the variances out of the optimiser: its loss is a tenth
    of the mean squared error.)
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        *,
        hidden_channels: int | None = None,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
        layer_weights: Sequence[float] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.vid_options(_OWNER, eps=eps, layer_weights=layer_weights, backend=backend)
        checks.initial_variance(_OWNER, initial_variance, eps)
        self.student_channels = layer_checks.counts(_OWNER, "student_channels", student_channels)
        self.teacher_channels = layer_checks.counts(_OWNER, "teacher_channels", teacher_channels)
        layers = len(self.student_channels)
        layer_checks.of_layers(_OWNER, "teacher_channels", self.teacher_channels, layers)
        layer_checks.of_layers(_OWNER, "layer_weights", layer_weights, layers)
        if hidden_channels is not None:
            embedding_checks.count(_OWNER, "hidden_channels", hidden_channels)
        self.hidden_channels = hidden_channels
        self.initial_variance = initial_variance
        self.eps = eps
        self.backend = backend
        # A copy: the caller's list may change later.
        self.layer_weights = None if layer_weights is None else list(layer_weights)
        self.regressors = nn.ModuleList(
            _regressor(c_s, hidden_channels or c_t, c_t)
            for c_s, c_t in zip(self.student_channels, self.teacher_channels, strict=True)
        )
        rho = checks.raw_variance(initial_variance, eps)
        self.rhos = nn.ParameterList(torch.full((c_t,), rho) for c_t in self.teacher_channels)

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        follow(self, student)
        students, teachers = pair_checks.map_pairs(
            _OWNER, student, teacher, layer_weights=self.layer_weights
        )
        layer_checks.channels(_OWNER, "student", students, self.student_channels)
        layer_checks.channels(_OWNER, "teacher", teachers, self.teacher_channels)
        dtype = compute_dtype(students + teachers)
        students, teachers = pool_to_common_size(students, teachers)
        means = [
            regressor(a_s.to(rho.dtype)).to(dtype)
            for regressor, rho, a_s in zip(self.regressors, self.rhos, students, strict=True)
        ]
        return vid_loss(
            means,
            teachers,
            list(self.rhos),
            eps=self.eps,
            layer_weights=self.layer_weights,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        names = (
            "student_channels",
            "teacher_channels",
            "hidden_channels",
            "initial_variance",
            "eps",
            "layer_weights",
            "backend",
        )
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _regressor(c_s: int, hidden: int, c_t: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_s, hidden, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(hidden, c_t, 1, bias=False),
    )
