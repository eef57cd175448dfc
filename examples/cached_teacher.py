"""The teacher once: its logits and attention maps are kept by sample, and read from then on.

For images that are the same in every epoch. ``IndexedDataset`` adds each sample's index to it; the
teacher runs where a sample is new, which is in the first epoch alone.
"""

import math

import torch
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
    student, teacher = network(8), network(16).eval()
    runs = []
    teacher.register_forward_hook(lambda *_: runs.append(1))

    train_set = amd_fused.IndexedDataset(gratings(256))
    loader = DataLoader(train_set, batch_size=32, shuffle=True)
    # None: in memory. A folder keeps it for other processes and later runs.
    cache = amd_fused.TeacherCache(None, teacher=teacher, dataset=train_set, maps=LAYERS)
    hooks = amd_fused.FeatureHooks(student, LAYERS)
    criterion = amd_fused.DistillationLoss()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)

    means = []
    for epoch in range(epochs):
        total = 0.0
        for images, labels, indices in loader:
            taught = cache(images, indices)
            loss = criterion(student(images), taught.logits, labels, hooks.features, taught.maps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        means.append(total / len(loader))
        print(f"epoch {epoch}: loss {means[-1]:.3f}")
    print(f"{epochs * len(loader)} steps, the teacher ran {len(runs)} times")
    return means


if __name__ == "__main__":
    main()
