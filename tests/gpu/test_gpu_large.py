"""More than 2^31 elements in one feature map: offsets are 64 bits wide.

Takes 24 GiB of free GPU memory: 4.4 for the features, as much for their gradient, the rest for the
oracle.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from measures import relative_error
from on_device import DEVICE
from torch import Tensor

from amd_fused import reference

pytestmark = [pytest.mark.large, pytest.mark.cuda]

NEEDED = 24 << 30
# B, C, H, W: offsets beyond 2^31 within a sample, and between samples; in a map of one chunked and
# one of the form that is held in registers.
SHAPES = [(1, 520, 2048, 2048), (33, 64, 1024, 1024), (10500, 52, 64, 64)]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_more_than_2_to_the_31_elements(
    amd: Any, shape: tuple[int, int, int, int], layout: str
) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < NEEDED:
        pytest.skip(f"needs {NEEDED >> 30} GiB of free GPU memory, there are {free >> 30}")
    batch, _, height, width = shape
    memory_format = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
    student = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE, memory_format=memory_format)
    student.normal_()
    teacher = torch.randn(batch, 1, height, width, device=DEVICE).bfloat16()
    assert student.numel() > 2**31

    student.requires_grad_()
    loss = amd(student, teacher)
    (grad,) = torch.autograd.grad(loss, student, torch.full_like(loss, 2.0**20))
    student.requires_grad_(False)

    exact_loss, slope = oracle(student, teacher)
    assert relative_error(loss.detach(), exact_loss) < 1e-5
    # Everywhere the gradient is 2 a dL/df: the first channels, some within, and the last.
    for c in sorted({0, 1, shape[1] // 2, shape[1] - 1}):
        truth = 2 * 2.0**20 * student[:, c].double() * slope
        assert relative_error(grad[:, c], truth) < 2**-8


def oracle(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and its derivative by the student's attention map f [B, H, W], in float64.

    A feature of one channel that is sqrt(f) has the same attention map as the whole; its
    derivative is 2 sqrt(f) dL/df.
    """
    f = torch.zeros_like(student[:, 0], dtype=torch.float64)
    for c in range(student.shape[1]):
        f += student[:, c].double().square()
    root = f.sqrt().unsqueeze(1).requires_grad_()
    loss = reference.amd_loss(root, teacher.double())
    (d_root,) = torch.autograd.grad(loss, root)
    return loss.detach(), (d_root / (2 * root.detach())).squeeze(1)
