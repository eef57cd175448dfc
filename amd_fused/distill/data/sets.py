"""Data sets by the name that `--data` takes."""

from __future__ import annotations

from dataclasses import replace

from amd_fused.distill.config import Settings
from amd_fused.distill.data.images import DataSet
from amd_fused.distill.errors import UsageError


def load(settings: Settings) -> DataSet:
    """The data set of `settings.data`, cut down to `settings.train_size` and `settings.test_size`.

    With a `settings.validation_size`, the last so many training images, classes taking turns, stand
    for the test images, which are not looked at. A subset of `train_size` are the first ones, and
    so the same with and without.

    Raises:
        UsageError: it is missing or broken, where the message says what is expected where; or there
            are not so many images.
    """
    data = _whole(settings)
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
    # Each reader imports libraries that the others do without.
    if settings.data == "digits":
        from amd_fused.distill.data.digits import load_digits

        return load_digits(settings)
    if settings.data in ("cifar10", "cifar100"):
        from amd_fused.distill.data.cifar import load_cifar

        return load_cifar(settings)
    if settings.data in ("mnist", "fashion-mnist"):
        from amd_fused.distill.data.mnist import load_mnist

        return load_mnist(settings)
    from amd_fused.distill.data import folders

    readers = {
        "cinic10": folders.load_cinic10,
        "tiny-imagenet": folders.load_tiny_imagenet,
        "imagenet": folders.load_imagenet,
        "folder": folders.load_folder,
    }
    return readers[settings.data](settings)
