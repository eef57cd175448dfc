"""Pairs of maps of different size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pool_to_common_size(
    students: Sequence[Tensor], teachers: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Average-pool the larger member of each pair to the smaller's (H, W), before squaring.

    ``align="adaptive_avg"``: as the attention-transfer losses of RepDistiller and mdistiller do,
    but with the true height and width. A member that is larger in one direction only is pooled in
    that one.
    """
    pooled_s, pooled_t = [], []
    for a_s, a_t in zip(students, teachers, strict=True):
        size = (min(a_s.shape[2], a_t.shape[2]), min(a_s.shape[3], a_t.shape[3]))
        pooled_s.append(a_s if a_s.shape[2:] == size else F.adaptive_avg_pool2d(a_s, size))
        pooled_t.append(a_t if a_t.shape[2:] == size else F.adaptive_avg_pool2d(a_t, size))
    return pooled_s, pooled_t
