"""torchdistill and mdistiller as far as our modules for them look: same names, same calls."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(contents)
    return made


def imported(name: str, monkeypatch: pytest.MonkeyPatch, *stand_ins: ModuleType) -> ModuleType:
    """One of our modules, imported beside these instead of the package that it is for."""
    for stand_in in stand_ins:
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.delitem(sys.modules, name, raising=False)
    ours = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return ours


class TorchdistillRegistry:
    """torchdistill.losses.registry: classes by key, made from a criterion's configuration."""

    def __init__(self) -> None:
        self.losses: dict[str, Callable[..., nn.Module]] = {}

    def register_mid_level_loss(self, arg: Any = None, **kwargs: Any) -> Any:
        def register(cls_or_func: Any) -> Any:
            self.losses[kwargs.get("key") or cls_or_func.__name__] = cls_or_func
            return cls_or_func

        return register(arg) if callable(arg) else register

    def get_mid_level_loss(self, config: dict[str, Any]) -> nn.Module:
        return self.losses[config["key"]](**config["kwargs"])


class Distiller(nn.Module):
    """mdistiller.distillers._base.Distiller."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher

    def forward(self, **kwargs: Any) -> Any:
        if self.training:
            return self.forward_train(**kwargs)
        return self.student(kwargs["image"])[0]


class Node(dict):
    """yacs.config.CfgNode: a dict whose keys are attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Network(nn.Module):
    """A network of mdistiller: logits, and the maps after its stem and stages in a dict."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=stride if i == 0 else 1, padding=1) for i in range(2)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
        feats = [self.stem(image)]
        for stage in self.stages:
            feats.append(stage(feats[-1].relu()))
        return self.head(feats[-1].mean((2, 3))), {"feats": feats}
