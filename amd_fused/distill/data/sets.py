"""Data sets by the name that `--data` takes."""

from __future__ import annotations

from dataclasses import replace

from amd_fused.distill.config import Settings
from amd_fused.distill.data.images import DataSet


def load(settings: Settings) -> DataSet:
    """The data set of `settings.data`, its training part cut down to `settings.train_size`.

    Raises:
        UsageError: it is missing or broken; the message says what is expected where.
    """
    data = _whole(settings)
    if settings.train_size:
        data = replace(data, train=data.train.subset(settings.train_size))
    return data


def _whole(settings: Settings) -> DataSet:
    # Each reader imports libraries that the others do without.
    if settings.data == "digits":
        from amd_fused.distill.data.digits import load_digits

        return load_digits(settings)
    if settings.data in ("cifar10", "cifar100"):
        from amd_fused.distill.data.cifar import load_cifar

        return load_cifar(settings)
    from amd_fused.distill.data import folders

    readers = {
        "cinic10": folders.load_cinic10,
        "tiny-imagenet": folders.load_tiny_imagenet,
        "imagenet": folders.load_imagenet,
        "folder": folders.load_folder,
    }
    return readers[settings.data](settings)
