"""What one experiment is: every option, its default, its meaning and its rule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from amd_fused.distill.wrn import parse_wrn


@dataclass(frozen=True)
class Recipe:
    """How one network is trained, whatever it learns from: SGD, with a cosine from `lr` to 0."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Config:
    """Settings of one experiment; the command line has one option per field.

    Where digits are unlike CIFAR, the paper's values are carried over, not tuned. The AMD loss is
    a mean over positions, and gamma = 5000 belongs to 32x32 images; in 8x8 images, the map of every
    group has 1/16 of the positions, so gamma = 5000 / 16 keeps the weight of Eq. 7's sum over
    positions. The learning rate of 0.1 belongs to batches of 128, so it is about half for 50.

    Raises:
        ValueError: a field breaks its rule.
    """

    teacher: str = _option("16-2", "teacher WideResNet, as depth-width")
    student: str = _option("16-1", "student WideResNet, as depth-width")
    seeds: int = _option(3, "repetitions with seeds 0, 1, ...: each its own teacher and students")
    train_size: int = _option(
        300, "training images of the students, as many of each digit; the teacher has all 898"
    )
    epochs: int = _option(30, "epochs of each student")
    teacher_epochs: int = _option(10, "epochs of each teacher")
    batch_size: int = _option(50, "images a training step")
    lr: float = _option(0.05, "first learning rate; falls to 0 along a cosine")
    momentum: float = _option(0.9, "SGD momentum")
    weight_decay: float = _option(1e-4, "SGD weight decay")
    ce_weight: float = _option(0.1, "weight of the labels in distillation (Eq. 8, lambda 1)")
    kd_weight: float = _option(0.9, "weight of the teacher's logits (Eq. 8, lambda 2)")
    temperature: float = _option(4.0, "temperature of the logits (Eq. 3, tau)")
    feature_weight: float = _option(
        312.5, "weight of the AMD loss (Eq. 8, gamma): 5000 for 32x32 images, / 16 for 8x8"
    )
    local_weight: float = _option(0.2, "weight of the 2x2 local part in AMD (g+l) (Eq. 9)")
    timing_steps: int = _option(50, "training steps timed with each backend; 0: none")

    def __post_init__(self) -> None:
        for name in ("teacher", "student"):
            depth, width = parse_wrn(getattr(self, name), f"Config: {name}")
            # One spelling in reports: WRN16-3 and 16-3 are the same network.
            object.__setattr__(self, name, f"{depth}-{width}")
        for name in ("seeds", "epochs", "teacher_epochs"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("lr", "temperature", "kd_weight", "feature_weight"):
            value = getattr(self, name)
            self._require(name, math.isfinite(value) and value > 0, "finite and > 0")
        for name in ("weight_decay", "ce_weight"):
            value = getattr(self, name)
            self._require(name, math.isfinite(value) and value >= 0, "finite and >= 0")
        self._require("momentum", 0 <= self.momentum < 1, "at least 0 and below 1")
        self._require("local_weight", 0 < self.local_weight <= 1, "above 0 and at most 1")
        self._require("train_size", self.train_size >= 10, "at least 10, one image of each digit")
        # Batch normalisation needs two values a channel, also where a map has one position.
        self._require("batch_size", self.batch_size >= 2, "at least 2")
        largest = f"at most train_size ({self.train_size})"
        self._require("batch_size", self.batch_size <= self.train_size, largest)
        self._require("timing_steps", self.timing_steps >= 0, "at least 0")

    @property
    def teacher_recipe(self) -> Recipe:
        return self._recipe(self.teacher_epochs)

    @property
    def student_recipe(self) -> Recipe:
        return self._recipe(self.epochs)

    def _recipe(self, epochs: int) -> Recipe:
        return Recipe(epochs, self.batch_size, self.lr, self.momentum, self.weight_decay)

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"Config: {name} must be {rule}, got {getattr(self, name)!r}")
