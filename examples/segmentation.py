"""Segmentation: KD of dense logits [B, K, H, W], with pixels that do not count."""

import torch
from torch import nn

import amd_fused

VOID = 255  # the label of pixels that nobody is to learn from
CLASSES = 3  # ground, discs, squares


def network(width: int) -> nn.Module:
    def block(before: int, after: int) -> nn.Module:
        conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(block(1, width), block(width, width), nn.Conv2d(width, CLASSES, 1))


def scenes(count: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc and a square each, under noise; the outlines belong to neither side."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    middle = torch.randint(6, size - 6, (count, 2, 2, 1, 1))
    apart_y, apart_x = (y - middle[:, :, 0]).abs(), (x - middle[:, :, 1]).abs()
    from_disc = (apart_y[:, 0] ** 2 + apart_x[:, 0] ** 2).float().sqrt() - 4.5
    from_square = torch.maximum(apart_y[:, 1], apart_x[:, 1]) - 3.5
    labels = torch.where(from_disc < 0, 1, torch.where(from_square < 0, 2, 0))
    images = (labels == 1) * 1.0 - (labels == 2) * 1.0 + 0.7 * torch.randn(count, size, size)
    outline = (from_disc.abs() < 1) | (from_square.abs() < 1)
    return images[:, None], torch.where(outline, VOID, labels)


def train(model: nn.Module, images, labels, epochs: int, criterion) -> list[float]:
    """The mean loss of each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    means = []
    for epoch in range(epochs):
        losses = []
        for at in torch.randperm(len(images)).split(16):
            loss = criterion(model(images[at]), images[at], labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
        print(f"epoch {epoch}: loss {means[-1]:.3f}")
    return means


def main(epochs: int = 6) -> list[float]:
    torch.manual_seed(0)
    images, labels = scenes(128)
    teacher, student = network(16), network(4)

    print("Teacher")
    of_labels = nn.CrossEntropyLoss(ignore_index=VOID)
    train(teacher, images, labels, 3, lambda logits, _, target: of_labels(logits, target))
    teacher.eval()

    # Cross-entropy and KD, both of the pixels that count.
    criterion = amd_fused.DistillationLoss(
        ce_weight=0.5, kd_weight=0.5, temperature=2.0, feature_weight=0, ignore_index=VOID
    )

    def distilled(logits, images, target):
        with torch.no_grad():
            teacher_logits = teacher(images)
        return criterion(logits, teacher_logits, target)

    print("Student")
    losses = train(student, images, labels, epochs, distilled)
    found, counted = student.eval()(images).argmax(1), labels != VOID
    print(f"{100 * (found == labels)[counted].float().mean():.1f} % of the pixels are right")
    return losses


if __name__ == "__main__":
    main()
