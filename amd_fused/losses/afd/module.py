"""Attention-based feature distillation as a module that holds the layers of its attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import embedding_checks, layer_checks, pair_checks
from amd_fused.losses._common.buffers import follow
from amd_fused.losses._common.dtypes import without_autocast
from amd_fused.losses.afd import checks, reference
from amd_fused.losses.afd.function import reduced

_OWNER = "AFDLoss"


class AFDLoss(_Loss):
    """Attention-based feature distillation as a module: :func:`afd_loss` with trained attention.

    As::

        query = query_layers(mean over positions of each teacher map)  # [B, T, q]
        key = bilinear(key_layers(mean over positions of each student map))  # [B, S, T, q]
        logits = einsum("bstq,btq->bts", key, query) + teacher_positions @ student_positions.T
        loss = afd_loss(student, teacher, softmax(logits / sqrt(q), dim=2))

    Args:
        student_channels: channels of each of the student's S feature maps, or of the only one.
        teacher_channels: channels of each of the teacher's T; all pairs of maps are compared.
        attention_features: width q of queries and keys.
        backend: as in :func:`afd_loss`. Fused ones read each feature once for the loss and for the
            means.

    All layers are trained: give ``criterion.parameters()`` to the optimiser. Queries and keys are a
    linear layer with BatchNorm each, keys with ReLU after it; ``bilinear``, shared by all keys, is
    a linear layer from q to T q with BatchNorm. They follow the features to their device when
    called, and run in their own dtype, under autocast too; under torch.compile they must be there
    already.

    Called with:
        student, teacher: sequences of feature maps [B, C, H, W] of any sizes, as many as channels
        were given; B >= 2 in training mode. :func:`afd_loss` says more.

    Raises:
        TypeError, ValueError: an option breaks its rule (at construction), or the features do
            (when called).

    Source: Ji, Heo, Park, AAAI 2021, section 3; layers, their starting values and defaults are its
    released code's, which takes the input of every residual block but the first after BatchNorm
    and ReLU, and the last map, and has a weight of 200 beside 0.9 of KD. BatchNorm sees each
    process's batch alone, as there.
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        *,
        attention_features: int = 128,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.backend(_OWNER, backend)
        self.student_channels = layer_checks.counts(_OWNER, "student_channels", student_channels)
        self.teacher_channels = layer_checks.counts(_OWNER, "teacher_channels", teacher_channels)
        embedding_checks.count(_OWNER, "attention_features", attention_features)
        self.attention_features = attention_features
        self.backend = backend
        q, teachers = attention_features, len(self.teacher_channels)
        self.query_layers = nn.ModuleList(_normed(c, q) for c in self.teacher_channels)
        self.key_layers = nn.ModuleList(
            nn.Sequential(*_normed(c, q), nn.ReLU()) for c in self.student_channels
        )
        self.bilinear = _normed(q, q * teachers)
        self.teacher_positions = nn.Parameter(torch.empty(teachers, q))
        self.student_positions = nn.Parameter(torch.empty(len(self.student_channels), q))
        nn.init.xavier_normal_(self.teacher_positions)
        nn.init.xavier_normal_(self.student_positions)

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        follow(self, student)
        students, teachers = pair_checks.feature_lists(_OWNER, student, teacher)
        layer_checks.channels(_OWNER, "student", students, self.student_channels)
        layer_checks.channels(_OWNER, "teacher", teachers, self.teacher_channels)
        checks.batch_for_batch_norm(_OWNER, students, self.training)
        of_students, of_teachers = reduced(
            _OWNER, self.backend, students, teachers, with_means=True
        )
        with without_autocast(students[0].device.type):
            attention = self._attention(of_students.means, of_teachers.means)
        return reference.compare(of_students.maps, of_teachers.maps, attention)

    def _attention(self, of_students: list[Tensor], of_teachers: list[Tensor]) -> Tensor:
        """[B, T, S], of sum 1 over the student's maps, from the channels' means of all maps."""
        own = self.teacher_positions.dtype
        q = self.attention_features
        query = torch.stack(
            [layer(a.to(own)) for layer, a in zip(self.query_layers, of_teachers, strict=True)], 1
        )
        key = torch.stack(
            [layer(a.to(own)) for layer, a in zip(self.key_layers, of_students, strict=True)], 1
        )
        # BatchNorm of all keys of the batch together.
        mapped = self.bilinear(key.flatten(0, 1)).unflatten(0, key.shape[:2])
        mapped = mapped.unflatten(2, (len(of_teachers), q))
        # Section 3: the positions tell layers apart whatever their features are.
        logits = torch.einsum("bstq,btq->bts", mapped, query)
        logits = logits + self.teacher_positions @ self.student_positions.T
        return torch.softmax(logits / math.sqrt(q), dim=2)

    def extra_repr(self) -> str:
        names = ("student_channels", "teacher_channels", "attention_features", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _normed(width: int, q: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, q), nn.BatchNorm1d(q))
