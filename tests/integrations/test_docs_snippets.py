"""The classes of docs/other-trainers.md, with Lightning and a stand-in of transformers."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import amd_fused
from amd_fused.distill.vision import load_torchvision

PAGE = (Path(__file__).parents[2] / "docs" / "other-trainers.md").read_text()
LAYERS = ["stage1", "stage2"]
IMAGES, LABELS = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])


def snippet(name: str, **names: Any) -> Any:
    """The class of that name, as the page has it."""
    (code,) = re.findall(rf"```python\n(class {name}\(.*?)```", PAGE, re.DOTALL)
    scope = {"amd_fused": amd_fused, "torch": torch, **names}
    exec(code, scope)
    return scope[name]


def network(width: int) -> nn.Sequential:
    stages = [
        ("stage1", nn.Conv2d(3, width, 3, padding=1)),
        ("stage2", nn.Conv2d(width, width, 3, padding=1)),
        ("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))),
    ]
    return nn.Sequential(OrderedDict(stages))


def expected(student: nn.Module, teacher: nn.Module) -> Tensor:
    with (
        amd_fused.FeatureHooks(student, LAYERS) as hooks,
        amd_fused.FeatureHooks(teacher, LAYERS) as teacher_hooks,
    ):
        logits = student(IMAGES), teacher(IMAGES)
        features = hooks.features, teacher_hooks.features
    return amd_fused.DistillationLoss()(*logits, LABELS, *features)


def test_lightning() -> None:
    load_torchvision()  # which Lightning imports where it is installed
    distilled = snippet("Distilled", L=importlib.import_module("lightning"))
    student, teacher = network(4), network(6)
    task = distilled(student, teacher, LAYERS).train()
    logged = {}
    task.log_dict = logged.update  # there is no trainer here, whose loggers it would go to
    loss = task.training_step((IMAGES, LABELS), 0)
    torch.testing.assert_close(loss, expected(student, teacher))
    assert set(logged) == {"ce", "kd", "feature"}
    assert not teacher.training
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    (group,) = task.configure_optimizers().param_groups
    assert len(group["params"]) == len(list(student.parameters()))


class WithLogits(nn.Module):
    """A network of transformers: called with keywords, it returns an object with logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = network(width)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=self.net(pixel_values))


class Trainer:
    """transformers' Trainer, as far as the snippet sees it."""

    def __init__(self, model: nn.Module, args: SimpleNamespace) -> None:
        self.model, self.args = model, args


def test_hugging_face_trainer() -> None:
    trainer_class = snippet("DistillationTrainer", Trainer=Trainer)
    student, teacher = WithLogits(4), WithLogits(6)
    trainer = trainer_class(
        student,
        SimpleNamespace(device=torch.device("cpu")),
        teacher=teacher,
        layers=[f"net.{layer}" for layer in LAYERS],
        criterion=amd_fused.DistillationLoss(),
    )
    inputs = {"pixel_values": IMAGES, "labels": LABELS}
    loss, outputs = trainer.compute_loss(student, inputs, return_outputs=True, num_items_in_batch=4)
    torch.testing.assert_close(loss, expected(student.net, teacher.net))
    assert outputs.logits.shape == (4, 3)
    assert not teacher.training
    torch.testing.assert_close(trainer.compute_loss(student, inputs), loss)
