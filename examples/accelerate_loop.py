"""Distillation under Accelerate: `accelerate launch accelerate_loop.py` for several processes."""

import math

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import amd_fused

LAYERS = ["0", "3", "6"]  # the convolutions


def network(width: int, classes: int = 4) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        *(nn.Conv2d(2 * width, 4 * width, 3, 2, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)),
    )


def gratings(count: int, classes: int = 4, size: int = 16) -> TensorDataset:
    """Stripes under noise, in as many directions as there are classes."""
    labels = torch.arange(count) % classes
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = labels[:, None, None] * math.pi / classes
    stripes = torch.sin(x * angle.cos() + y * angle.sin())
    return TensorDataset(stripes[:, None] + 0.5 * torch.randn(count, 3, size, size), labels)


def main(epochs: int = 3) -> list[float]:
    torch.manual_seed(0)
    accelerator = Accelerator()
    student, teacher = network(8), network(16).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(gratings(256), batch_size=32, shuffle=True)
    student, optimizer, loader = accelerator.prepare(student, optimizer, loader)
    teacher.to(accelerator.device)

    # The wrapped model's hooks: the paths are those of the network itself.
    hooks = amd_fused.FeatureHooks(student, LAYERS)
    teacher_hooks = amd_fused.FeatureHooks(teacher, LAYERS)
    criterion = amd_fused.DistillationLoss()

    means = []
    for epoch in range(epochs):
        total = 0.0
        for images, labels in loader:
            with torch.no_grad(), accelerator.autocast():
                teacher_logits = teacher(images)
            with accelerator.autocast():
                logits = student(images)
                loss = criterion(
                    logits, teacher_logits, labels, hooks.features, teacher_hooks.features
                )
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            total += loss.item()
        means.append(total / len(loader))
        accelerator.print(f"epoch {epoch}: loss {means[-1]:.3f}")
    return means


if __name__ == "__main__":
    main()
