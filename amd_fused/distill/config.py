"""What one run is: every option, its default, its meaning and its rule.

Defaults are the paper's for CIFAR-10 (section 5.1.2); a recipe (`recipes.py`) changes what it
names, the command line what it is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, get_origin, get_type_hints

from amd_fused.distill.errors import UsageError

DATA = ("digits", "cifar10", "cifar100", "cinic10", "tiny-imagenet", "imagenet", "folder")
AUGMENTATIONS = ("none", "crop-flip", "imagenet")
SCHEDULES = ("steps", "cosine")
PRECISIONS = ("no", "bf16", "fp16")
# These change nothing about the result: where the data lie and how many processes load them, what
# is saved on the way, and how much the report shows.
WITHOUT_EFFECT = ("data_dir", "workers", "checkpoint_steps", "save_every", "report_images")
# In the order in which --help shows them.
GROUPS = ("data", "networks", "training", "objective", "running")


def _option(group: str, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"group": group, "help": help, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Settings of one run; the command line has one option per field.

    Raises:
        UsageError: a field breaks its rule.
    """

    recipe: str = _option("data", "digits", "the recipe that these settings started from")

    data: str = _option("data", "digits", "data set", DATA)
    data_dir: str = _option("data", "data", "folder in which the data sets lie")
    train_size: int = _option(
        "data", 0, "train on this many images, as many of each class as can be; 0: all"
    )
    augment: str = _option(
        "data",
        "none",
        "crop-flip: pad by 2 (64 to 68 pixels), crop at random, flip; imagenet: random resized "
        "crop of 224, flip",
        AUGMENTATIONS,
    )
    mixup: float = _option("data", 0.0, "Mixup's alpha for students (5.6.2 uses 0.2); 0: off")
    workers: int = _option("data", 0, "processes that load images; 0: none beside the training one")

    teacher: str = _option("networks", "wrn16-3", "teacher network")
    student: str = _option("networks", "wrn16-1", "student network")
    teacher_layers: tuple[str, ...] = _option(
        "networks", (), "module paths of the teacher's feature maps, instead of the network's own"
    )
    student_layers: tuple[str, ...] = _option(
        "networks", (), "module paths of the student's feature maps, as many as the teacher's"
    )
    teacher_embedding: str = _option(
        "networks", "", "module path of the teacher's embedding (for nd, lsh, rkd)"
    )
    student_embedding: str = _option(
        "networks", "", "module path of the student's embedding (for nd, lsh, rkd)"
    )

    epochs: int = _option("training", 200, "epochs")
    batch_size: int = _option("training", 128, "images a step, over all processes together")
    lr: float = _option("training", 0.1, "first learning rate")
    momentum: float = _option("training", 0.9, "SGD momentum")
    weight_decay: float = _option("training", 1e-4, "SGD weight decay")
    schedule: str = _option(
        "training", "steps", "steps: times lr_decay at each of the milestones", SCHEDULES
    )
    milestones: tuple[int, ...] = _option(
        "training", (40, 80, 120, 160), "epochs after which the learning rate falls"
    )
    lr_decay: float = _option("training", 0.2, "factor of the learning rate at a milestone")

    method: str = _option(
        "objective", "amd-gl", "what the student learns from, several joined by +, as amd-gl+sp"
    )
    ce_weight: float = _option("objective", 0.1, "lambda_1, weight of the labels (Eq. 8)")
    kd_weight: float = _option("objective", 0.9, "lambda_2, weight of the teacher's logits (Eq. 8)")
    temperature: float = _option("objective", 4.0, "tau, temperature of the logits (Eq. 3)")
    gamma: float = _option("objective", 5000.0, "weight of the AMD loss (Eq. 8)")
    margin: float = _option("objective", 1.35, "angular margin m (Eq. 6)")
    scale: float = _option("objective", 64.0, "radius s of the hypersphere (Eq. 6)")
    local_weight: float = _option("objective", 0.2, "weight of AMD's local part in g+l (Eq. 9)")
    mask_threshold: float = _option(
        "objective", 0.5, "threshold of the negative map in masked AMD (5.6.1)"
    )
    at_weight: float = _option("objective", 1000.0, "weight of attention transfer")
    sp_weight: float = _option("objective", 3000.0, "weight of the similarity-preserving loss")
    rkd_weight: float = _option("objective", 1.0, "weight of relational KD, which is 25 D + 50 A")
    nd_weight: float = _option("objective", 1.0, "weight of the norm-and-direction loss")
    lsh_weight: float = _option("objective", 1.0, "weight of the hashing loss")
    lsh_hashes: int = _option("objective", 2048, "hash functions of the hashing loss")
    backend: str = _option(
        "objective",
        "auto",
        "which implementation computes the losses",
        ("auto", "triton", "cuda", "cpp", "reference"),
    )

    seed: int = _option("running", 0, "of the weights, the order of the images and their changes")
    mixed_precision: str = _option("running", "no", "autocast of the networks", PRECISIONS)
    channels_last: bool = _option("running", False, "memory format of images and networks")
    sync_batchnorm: bool = _option(
        "running", True, "batch statistics over all processes, as one process would take them"
    )
    save_every: int = _option(
        "running",
        0,
        "keep the weights of every so many epochs, for early-stopped teachers; 0: none",
    )
    checkpoint_steps: int = _option(
        "running", 0, "write what --resume needs every so many steps too, not only after epochs"
    )
    report_images: int = _option("running", 6, "test images in the report's Grad-CAM pictures")

    def __post_init__(self) -> None:
        for option in fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            if choices and value not in choices:
                self._refuse(option.name, f"one of {', '.join(choices)}")
            if isinstance(value, float) and not math.isfinite(value):
                self._refuse(option.name, "finite")
        for name in ("epochs", "lsh_hashes"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        # Batch normalisation needs two values a channel, also where a map has one position.
        self._require("batch_size", self.batch_size >= 2, "at least 2")
        for name in ("lr", "temperature", "lr_decay", "margin", "scale"):
            self._require(name, getattr(self, name) > 0, "> 0")
        weights = [f"{loss}_weight" for loss in ("ce", "kd", "at", "sp", "rkd", "nd", "lsh")]
        for name in (*weights, "gamma", "weight_decay", "mixup"):
            self._require(name, getattr(self, name) >= 0, ">= 0")
        for name in ("train_size", "workers", "save_every", "checkpoint_steps"):
            self._require(name, getattr(self, name) >= 0, ">= 0")
        # torch's generators take 63 bits, and methods.py adds to it.
        self._require("seed", 0 <= self.seed < 1 << 62, "at least 0 and below 2^62")
        self._require("report_images", self.report_images >= 1, "at least 1")
        self._require("momentum", 0 <= self.momentum < 1, "at least 0 and below 1")
        self._require("local_weight", 0 < self.local_weight <= 1, "above 0 and at most 1")
        self._require("mask_threshold", 0 <= self.mask_threshold < 1, "at least 0 and below 1")
        increasing = list(self.milestones) == sorted(set(self.milestones))
        above_zero = all(epoch >= 1 for epoch in self.milestones)
        self._require("milestones", increasing and above_zero, "increasing epochs from 1 on")
        given = (len(self.teacher_layers), len(self.student_layers))
        if all(given) and given[0] != given[1]:
            raise UsageError(
                f"--teacher-layers and --student-layers must be equally many, got {given[0]} and "
                f"{given[1]}"
            )

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            self._refuse(name, rule)

    def _refuse(self, name: str, rule: str) -> None:
        value = getattr(self, name)
        raise UsageError(f"{flag(name)} must be {rule}, got {value!r}")

    def changed(self, **values: Any) -> Settings:
        """These settings with some replaced."""
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for `config.json`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """What :meth:`to_json` gave.

        Raises:
            UsageError: an option is unknown or has the wrong type.
        """
        types = get_type_hints(cls)
        made: dict[str, Any] = {}
        for name, value in values.items():
            if name not in types:
                raise UsageError(f"settings: {name!r} is no option of this version")
            made[name] = tuple(value) if isinstance(value, list) else value
            kind = get_origin(types[name]) or types[name]
            # A whole number stands for a float too.
            if not isinstance(made[name], (float, int) if kind is float else kind):
                raise UsageError(f"settings: {name} has the wrong type, got {value!r}")
        return cls(**made)


def flag(name: str) -> str:
    """A field's name on the command line."""
    return "--" + name.replace("_", "-")
