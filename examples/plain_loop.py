"""A PyTorch training loop with a teacher: hooks, mixed precision, the paper's objective."""

import math

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import amd_fused

LAYERS = ["stage1", "stage2", "stage3"]


def network(width: int, classes: int = 4) -> nn.Module:
    def stage(before: int, after: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())

    stages = {
        "stage1": stage(3, width, 1),
        "stage2": stage(width, 2 * width, 2),
        "stage3": stage(2 * width, 4 * width, 2),
    }
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))
    model = nn.Sequential()
    for name, module in {**stages, "head": head}.items():
        model.add_module(name, module)
    return model


def gratings(count: int, classes: int = 4, size: int = 16) -> TensorDataset:
    """Stripes under noise, in as many directions as there are classes."""
    labels = torch.arange(count) % classes
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = labels[:, None, None] * math.pi / classes
    stripes = torch.sin(x * angle.cos() + y * angle.sin())
    return TensorDataset(stripes[:, None] + 0.5 * torch.randn(count, 3, size, size), labels)


def train(model: nn.Module, loader: DataLoader, epochs: int, step) -> list[float]:
    """The mean loss of each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    means = []
    for epoch in range(epochs):
        total = 0.0
        for images, labels in loader:
            loss = step(images.to(device), labels.to(device))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.item()
        means.append(total / len(loader))
        print(f"epoch {epoch}: loss {means[-1]:.3f}")
    return means


def main(epochs: int = 3) -> list[float]:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    loader = DataLoader(gratings(256), batch_size=32, shuffle=True)
    teacher, student = network(16).to(device), network(8).to(device)

    print("Teacher")
    train(teacher, loader, 1, lambda x, y: nn.functional.cross_entropy(teacher(x), y))
    teacher.eval()

    hooks = amd_fused.FeatureHooks(student, LAYERS)
    teacher_hooks = amd_fused.FeatureHooks(teacher, LAYERS)
    criterion = amd_fused.DistillationLoss()  # Eq. 8: 0.1 CE + 0.9 KD + 5000 AMD

    def step(images, labels):
        with torch.autocast(device, dtype):
            with torch.no_grad():
                teacher_logits = teacher(images)
            logits = student(images)
            return criterion(logits, teacher_logits, labels, hooks.features, teacher_hooks.features)

    print("Student")
    losses = train(student, loader, epochs, step)
    print({name: round(value.item(), 5) for name, value in criterion.parts.items()})
    return losses


if __name__ == "__main__":
    main()
