"""What one run is: every option, its default, its meaning and its rule.

Defaults are the paper's for CIFAR-10 (section 5.1.2); a recipe (`recipes.py`) changes what it
names, the command line what it is told.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, make_dataclass, replace
from typing import Any, get_type_hints

from amd_fused.distill.data_sets import DATA_SETS
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import OPTIONS, Method, MethodSettings, parse
from amd_fused.distill.setting import (
    AT_LEAST_1,
    GROUPS,
    NOT_NEGATIVE,
    POSITIVE,
    Rule,
    flag,
    from_plain,
    setting,
)

AUGMENTATIONS = ("none", "crop-flip", "imagenet")
SCHEDULES = ("steps", "cosine")
PRECISIONS = ("no", "bf16", "fp16")
# These change nothing about the result: where the data lie and how many processes load them, where
# the teacher's outputs are kept, what is saved on the way, and how much the report shows.
WITHOUT_EFFECT = (
    *("data_dir", "workers", "teacher_cache", "checkpoint_steps", "save_every"),
    *("report_images", "log_with"),
)
# Batch normalisation needs two values a channel, also where a map has one position.
_AT_LEAST_2 = Rule("at least 2", lambda value: value >= 2)
# torch's generators take 63 bits, and methods draw from a stream above the networks'.
_SEED = Rule("at least 0 and below 2^62", lambda value: 0 <= value < 1 << 62)
_INCREASING = Rule(
    "increasing epochs from 1 on",
    lambda epochs: list(epochs) == sorted({epoch for epoch in epochs if epoch >= 1}),
)
_MOMENTUM = Rule("at least 0 and below 1", lambda value: 0 <= value < 1)


@dataclass(frozen=True)
class Settings(MethodSettings):
    """Settings of one run; the command line has one option per field.

    Raises:
        UsageError: a field breaks its rule.
    """

    recipe: str = setting("data", "digits", "the recipe that these settings started from")

    data: str = setting("data", "digits", "data set", choices=DATA_SETS)
    data_dir: str = setting("data", "data", "folder in which the data sets lie")
    train_size: int = setting(
        "data",
        0,
        "train on this many images, as many of each class as can be; 0: all",
        NOT_NEGATIVE,
    )
    validation_size: int = setting(
        "data",
        0,
        "hold out this many training images and test on them instead of the test images, to choose "
        "other options by; 0: none",
        NOT_NEGATIVE,
    )
    test_size: int = setting(
        "data",
        0,
        "test on this many images, as many of each class as can be; 0: all",
        NOT_NEGATIVE,
    )
    augment: str = setting(
        "data",
        "none",
        "crop-flip: pad by 2 (64 to 68 pixels), crop at random, flip; imagenet: random resized "
        "crop of 224, flip",
        choices=AUGMENTATIONS,
    )
    mixup: float = setting(
        "data", 0.0, "Mixup's alpha for students (5.6.2 uses 0.2); 0: off", NOT_NEGATIVE
    )
    workers: int = setting(
        "data", 0, "processes that load images; 0: none beside the training one", NOT_NEGATIVE
    )

    teacher: str = setting("networks", "wrn16-3", "teacher network")
    student: str = setting("networks", "wrn16-1", "student network")
    teacher_layers: tuple[str, ...] = setting(
        "networks", (), "module paths of the teacher's feature maps, instead of the network's own"
    )
    student_layers: tuple[str, ...] = setting(
        "networks", (), "module paths of the student's feature maps, as many as the teacher's"
    )
    teacher_embedding: str = setting(
        "networks", "", "module path of the teacher's embedding (for nd, lsh, rkd, cc, crd)"
    )
    student_embedding: str = setting(
        "networks", "", "module path of the student's embedding (for nd, lsh, rkd, cc, crd)"
    )

    epochs: int = setting("training", 200, "epochs", AT_LEAST_1)
    batch_size: int = setting(
        "training", 128, "images a step, over all processes together", _AT_LEAST_2
    )
    lr: float = setting("training", 0.1, "first learning rate", POSITIVE)
    momentum: float = setting("training", 0.9, "SGD momentum", _MOMENTUM)
    weight_decay: float = setting("training", 1e-4, "SGD weight decay", NOT_NEGATIVE)
    schedule: str = setting(
        "training", "steps", "steps: times lr_decay at each of the milestones", choices=SCHEDULES
    )
    milestones: tuple[int, ...] = setting(
        "training",
        (40, 80, 120, 160),
        "epochs after which the learning rate falls",
        _INCREASING,
    )
    lr_decay: float = setting(
        "training", 0.2, "factor of the learning rate at a milestone", POSITIVE
    )

    method: Method = setting(  # noqa: RUF009 - a dataclasses.field
        "objective",
        parse("amd-gl"),
        "what the student learns from, several joined by +, as amd-gl+sp",
    )
    ce_weight: float = setting(
        "objective", 0.1, "lambda_1, weight of the labels (Eq. 8)", NOT_NEGATIVE
    )
    backend: str = setting(
        "objective",
        "auto",
        "which implementation computes the losses",
        choices=("auto", "triton", "cuda", "cpp", "reference"),
    )

    seed: int = setting(
        "running", 0, "of the weights, the order of the images and their changes", _SEED
    )
    mixed_precision: str = setting("running", "no", "autocast of the networks", choices=PRECISIONS)
    channels_last: bool = setting("running", False, "memory format of images and networks")
    sync_batchnorm: bool = setting(
        "running", True, "batch statistics over all processes, as one process would take them"
    )
    teacher_cache: str = setting(
        "running",
        "auto",
        "where the teacher's outputs are kept after the first epoch: off, memory, a folder, or "
        "auto: in memory where images are the same in every epoch",
        Rule("auto, off, memory or a folder", bool),
    )
    save_every: int = setting(
        "running",
        0,
        "keep the weights of every so many epochs, for early-stopped teachers; 0: none",
        NOT_NEGATIVE,
    )
    checkpoint_steps: int = setting(
        "running",
        0,
        "write what --resume needs every so many steps too, not only after epochs",
        NOT_NEGATIVE,
    )
    log_with: tuple[str, ...] = setting(
        "running",
        ("tensorboard",),
        "trackers that get each epoch's numbers, by Accelerate's names: tensorboard, wandb, mlflow "
        "and others whose packages are installed; none",
        Rule(
            "none alone or names of trackers", lambda names: "none" not in names or len(names) == 1
        ),
    )
    report_images: int = setting(
        "running", 6, "test images in the report's Grad-CAM pictures", AT_LEAST_1
    )

    def __new__(cls, *positional: Any, **values: Any) -> Settings:
        """One that has the options of the user's methods too, whatever class it is asked of."""
        return super().__new__(_with_options(tuple(OPTIONS)))

    def __post_init__(self) -> None:
        for option in fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            rule: Rule | None = option.metadata["rule"]
            if choices and value not in choices:
                self._refuse(option.name, f"one of {', '.join(choices)}")
            if isinstance(value, float) and not math.isfinite(value):
                self._refuse(option.name, "finite")
            if rule is not None and not rule.holds(value):
                self._refuse(option.name, rule.text)
        given = (len(self.teacher_layers), len(self.student_layers))
        if all(given) and given[0] != given[1]:
            raise UsageError(
                f"--teacher-layers and --student-layers must be equally many, got {given[0]} and "
                f"{given[1]}"
            )

        if self.teacher_cache not in ("auto", "off") and self.changing_images:
            raise UsageError(
                f"--teacher-cache must be auto or off with {self.changing_images}, by which images "
                "differ from epoch to epoch and the teacher's outputs with them, got "
                f"{self.teacher_cache!r}"
            )

    @property
    def teacher_cache_folder(self) -> str | None:
        """None where the teacher's outputs are not kept in files."""
        return None if self.teacher_cache in ("auto", "off", "memory") else self.teacher_cache

    @property
    def changing_images(self) -> str:
        """The option by which training images differ from epoch to epoch; empty: they do not."""
        if self.augment != "none":
            return f"--augment {self.augment}"
        return f"--mixup {self.mixup:g}" if self.mixup > 0 else ""

    def _refuse(self, name: str, rule: str) -> None:
        value = getattr(self, name)
        raise UsageError(f"{flag(name)} must be {rule}, got {value!r}")

    def changed(self, **values: Any) -> Settings:
        """These settings with some replaced."""
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for `config.json`."""
        plain: dict[str, Any] = {}
        for option in all_settings():
            value = getattr(self, option.name)
            if isinstance(value, Method):
                value = value.key
            plain[option.name] = list(value) if isinstance(value, tuple) else value
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """What :meth:`to_json` gave.

        Raises:
            UsageError: an option is unknown or has the wrong type.
        """
        made: dict[str, Any] = {}
        for name, value in values.items():
            if name not in setting_types():
                raise UsageError(f"settings: {name!r} is no option of this version")
            try:
                made[name] = setting_value(name, value)
            except TypeError as error:
                raise UsageError(f"settings: {name} must be {error}, got {value!r}") from None
        return cls(**made)


def all_settings() -> list[Field[Any]]:
    """The fields in the order of --help: by group, those of a method of its own last."""
    of_methods = {option.name for kind in (MethodSettings, *OPTIONS) for option in fields(kind)}
    return sorted(
        fields(_with_options(tuple(OPTIONS))),
        key=lambda option: (GROUPS.index(option.metadata["group"]), option.name in of_methods),
    )


def setting_types() -> dict[str, Any]:
    """The type of each setting, by its name."""
    return _types(tuple(OPTIONS))


@functools.cache
def _with_options(options: tuple[type, ...]) -> type[Settings]:
    """Settings with the fields of more classes, each of which adds to the ones before."""
    if not options:
        return Settings
    bases = (options[-1], _with_options(options[:-1]))
    return make_dataclass("Settings", (), bases=bases, frozen=True)


@functools.cache
def _types(options: tuple[type, ...]) -> dict[str, Any]:
    return get_type_hints(_with_options(options))


def setting_value(name: str, value: Any) -> Any:
    """A plain value, as JSON and YAML have them, as that of a setting.

    Raises:
        TypeError: it has the wrong type; the message says what it must be.
        UsageError: it is the key of a method that there is not.
    """
    kind = setting_types()[name]
    if kind is not Method:
        return from_plain(value, kind)
    if not isinstance(value, str):
        raise TypeError("the name of a method")
    return parse(value)
