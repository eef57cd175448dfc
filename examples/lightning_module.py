"""Distillation under Lightning: hooks and criterion in the module, a trainer as any other."""

import math

import lightning as L
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


class Distilled(L.LightningModule):
    def __init__(self, student: nn.Module, teacher: nn.Module, layers: list[str]) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.criterion = amd_fused.DistillationLoss()
        self.hooks = amd_fused.FeatureHooks(student, layers)
        self.teacher_hooks = amd_fused.FeatureHooks(teacher, layers)

    def training_step(self, batch, _):
        images, labels = batch
        self.teacher.eval()  # Lightning puts every child into training mode
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        logits = self.student(images)
        features = self.hooks.features, self.teacher_hooks.features
        loss = self.criterion(logits, teacher_logits, labels, *features)
        self.log_dict({**self.criterion.parts, "loss": loss}, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9)


class Means(L.Callback):
    """What Lightning logged of each epoch, printed and kept."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.losses.append(trainer.callback_metrics["loss"].item())
        print(f"epoch {trainer.current_epoch}: loss {self.losses[-1]:.3f}")


def main(epochs: int = 3) -> list[float]:
    torch.manual_seed(0)
    means = Means()
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[means],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(gratings(256), batch_size=32, shuffle=True)
    trainer.fit(Distilled(network(8), network(16), LAYERS), loader)
    return means.losses


if __name__ == "__main__":
    main()
