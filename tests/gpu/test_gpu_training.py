"""Inside a training loop: autocast, gradient scaling, DDP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from measures import relative_error
from on_device import DEVICE
from torch import Tensor, nn

from amd_fused import AMDLoss, DistillationLoss, FeatureHooks, reference

pytestmark = pytest.mark.core

HALF = torch.float16 if DEVICE.type == "cuda" else torch.bfloat16


def networks() -> tuple[nn.Conv2d, nn.Conv2d, Tensor]:
    student, teacher = nn.Conv2d(3, 4, 3).to(DEVICE), nn.Conv2d(3, 8, 3).to(DEVICE)
    return student, teacher, torch.randn(2, 3, 10, 10, device=DEVICE)


def test_autocast_needs_no_cast_by_the_caller(amd: Any) -> None:
    student_net, teacher_net, x = networks()
    with torch.autocast(DEVICE.type, HALF):
        student = student_net(x)
        with torch.no_grad():
            teacher = teacher_net(x)
        loss = amd(student, teacher)
    assert student.dtype == teacher.dtype == HALF
    assert loss.dtype == torch.float32
    exact = reference.amd_loss(student.detach().double(), teacher.double())
    assert relative_error(loss.detach(), exact) < 2e-6


def test_scaled_gradients_train_as_unscaled_ones_do(amd: Any) -> None:
    """GradScaler's factor reaches the kernel, which applies it before it rounds to half."""
    student_net, teacher_net, x = networks()
    teacher = teacher_net(x).detach()
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**12)
    optimizer = torch.optim.SGD(student_net.parameters(), lr=1.0)
    with torch.autocast(DEVICE.type, HALF):
        student = student_net(x)
        loss = amd(student, teacher)
    student.retain_grad()
    scaler.scale(loss).backward()

    exact = student.detach().double().requires_grad_()
    reference.amd_loss(exact, teacher.double()).backward()
    assert student.grad is not None
    assert exact.grad is not None
    assert relative_error(student.grad.double() / 2.0**12, exact.grad) < 2**-7

    before = student_net.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**12
    assert not torch.equal(before, student_net.weight)
    assert torch.isfinite(student_net.weight).all()


def test_overflow_is_seen_by_the_gradient_scaler(amd: Any) -> None:
    student_net, _, x = networks()
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**12)
    optimizer = torch.optim.SGD(student_net.parameters(), lr=1.0)
    before = student_net.weight.detach().clone()
    student = student_net(x)
    teacher = torch.full_like(student, torch.inf).detach()
    scaler.scale(amd(student, teacher)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**11
    assert torch.equal(before, student_net.weight)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """One process, by NCCL on a GPU."""
    dist.init_process_group(
        "nccl" if DEVICE.type == "cuda" else "gloo",
        init_method=f"file://{tmp_path / 'store'}",
        rank=0,
        world_size=1,
    )
    yield
    dist.destroy_process_group()


def test_ddp_gives_the_gradients_of_the_plain_network(backend: str, process_group: None) -> None:
    student_net, teacher_net, x = networks()
    labels = torch.zeros(len(x), dtype=torch.long, device=DEVICE)
    model = nn.Sequential(student_net, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    objective = DistillationLoss(kd_weight=0, feature_loss=AMDLoss(backend=backend))
    teacher = teacher_net(x).detach()
    grads = []
    for trained in (model, nn.parallel.DistributedDataParallel(model)):
        model.zero_grad()
        with FeatureHooks(trained, ["0"]) as hooks:
            objective(trained(x), None, labels, hooks.features, [teacher]).backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == 2
    for plain, distributed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, distributed, rtol=1e-4, atol=1e-7)
