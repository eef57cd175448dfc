"""The ND loss as a module that holds the teacher's class means."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common import embedding_checks, value_checks
from amd_fused.losses._common.buffers import follow
from amd_fused.losses.nd.function import nd_loss


class NDLoss(_Loss):
    """ND loss (KD++) as a module: :func:`nd_loss` with the class means of one teacher.

    ``NDLoss(class_means)(student, teacher, target) == nd_loss(student, teacher, target,
    class_means)``

    Args:
        class_means: [K, D] of any floating dtype, as :func:`amd_fused.class_means` computes them:
            ``NDLoss(class_means(teacher, loader, num_classes))``. Held as a buffer of that name, a
            copy, which state_dict has. It follows the embeddings to their device when called.
        backend: as in :func:`nd_loss`.

    Called with:
        student, teacher: embeddings [B, D]; target: class indices [B]. :func:`nd_loss` says more.

    Raises:
        TypeError, ValueError: class_means is no finite matrix (at construction), or an input
            breaks its rule (when called).

    Source: as :func:`nd_loss`.
    """

    class_means: Tensor

    def __init__(self, class_means: Tensor, *, backend: str = "auto") -> None:
        super().__init__()
        value_checks.choice("NDLoss", "backend", backend, BACKENDS)
        embedding_checks.matrix("NDLoss", "class_means", class_means, "K", "D")
        if value_checks.has_values(class_means) and not torch.isfinite(class_means).all():
            raise ValueError("NDLoss: class_means must be finite, got NaN or Inf")
        self.backend = backend
        self.register_buffer("class_means", class_means.clone())

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        follow(self, student)
        return nd_loss(student, teacher, target, self.class_means, backend=self.backend)

    def extra_repr(self) -> str:
        classes, width = self.class_means.shape
        return f"num_classes={classes}, in_features={width}, backend={self.backend!r}"
