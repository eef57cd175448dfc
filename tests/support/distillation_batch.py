"""What DistillationLoss is called with in its tests."""

from __future__ import annotations

import torch


def batch(dtype: torch.dtype = torch.float32) -> dict:
    g = torch.Generator().manual_seed(0)
    return {
        "student_logits": torch.randn(4, 10, generator=g).to(dtype),
        "teacher_logits": 3 * torch.randn(4, 10, generator=g).to(dtype),
        "target": torch.tensor([1, 0, 9, 4]),
        "student_features": [torch.randn(4, 3, 8, 8, generator=g).to(dtype)],
        "teacher_features": [torch.randn(4, 5, 8, 8, generator=g).to(dtype)],
    }
