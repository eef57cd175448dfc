"""Data sets by the name that `--data` takes."""

from __future__ import annotations

import importlib
from dataclasses import replace

from amd_fused.distill.config import Settings
from amd_fused.distill.data.images import DataSet
from amd_fused.distill.data.own import as_data_set
from amd_fused.distill.data_sets import DATA_SETS, ImageData
from amd_fused.distill.errors import UsageError


def load(settings: Settings, own: ImageData | None = None) -> DataSet:
    """The data set of `settings.data`, cut down to `settings.train_size` and `settings.test_size`.

    Args:
        own: what a program has in place of a name.

    With a `settings.validation_size`, the last so many training images, classes taking turns, stand
    for the test images, which are not looked at. A subset of `train_size` are the first ones, and
    so the same with and without.

    Raises:
        UsageError: it is missing or broken, where the message says what is expected where; or there
            are not so many images.
    """
    data = _whole(settings) if own is None else as_data_set(settings.data, own, settings)
    if size := settings.validation_size:
        _check_size("--validation-size", size, len(data.train) - 1, "training images but one")
        turns = data.train.in_turns()
        data = replace(
            data, train=data.train.take(turns[:-size]), test=data.train.take(turns[-size:])
        )
    if size := settings.train_size:
        _check_size("--train-size", size, len(data.train), "training images")
        data = replace(data, train=data.train.take(data.train.in_turns()[:size]))
    if size := settings.test_size:
        _check_size("--test-size", size, len(data.test), "test images")
        data = replace(data, test=data.test.take(data.test.in_turns()[:size]))
    return data


def _check_size(option: str, size: int, most: int, of: str) -> None:
    if size > most:
        raise UsageError(f"{option} must be at most the {most} {of}, got {size}")


def _whole(settings: Settings) -> DataSet:
    reader = DATA_SETS[settings.data]
    if isinstance(reader, str):
        module, _, function = reader.partition(":")
        reader = getattr(importlib.import_module(module), function)
    return reader(settings)
