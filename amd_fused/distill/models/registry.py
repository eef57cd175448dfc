"""Networks by name."""

from __future__ import annotations

from torch import nn

from amd_fused.distill.errors import UsageError
from amd_fused.distill.models import library, mobilenet, resnet, wrn
from amd_fused.distill.models.names import canonical, is_module
from amd_fused.distill.seeding import seeded

MIN_IMAGE_SIZE = 8


def build(name: str, *, num_classes: int, channels: int, image_size: int, seed: int) -> nn.Module:
    """A network in training mode on the CPU: images `[B, channels, image_size, image_size]` to
    logits `[B, num_classes]`.

    Args:
        name: as :func:`canonical` takes it.
        num_classes, channels: at least 1.
        image_size: at least 8.
        seed: of the weights, which depend on nothing else. torch's global generator is left as
            it was.

    Raises:
        UsageError: there is no such network, or none for such images.
    """
    name = canonical(name)
    if is_module(name):
        raise UsageError(
            f"{name} is a class of the program that trained it: make one there, and load the run's "
            "model.safetensors into it"
        )
    if image_size < MIN_IMAGE_SIZE:
        raise UsageError(
            f"{name} needs images of at least {MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE} pixels, got "
            f"{image_size}x{image_size}"
        )
    for what, number in (("classes", num_classes), ("channels", channels)):
        if number < 1:
            raise UsageError(f"{name}: the number of {what} must be at least 1, got {number}")
    with seeded(seed):
        if "/" in name:
            source, model = name.split("/", 1)
            return library.build(
                source, model, num_classes=num_classes, channels=channels, image_size=image_size
            )
        kind, sizes = own_network(name)
        return kind(*sizes, num_classes=num_classes, channels=channels)


def own_network(name: str) -> tuple[type[nn.Module], tuple[int, ...]]:
    """The class of a network of this package by its canonical name, and its arguments beside
    `num_classes` and `channels`."""
    if name.startswith("WRN"):
        depth, width = map(int, name.removeprefix("WRN").split("-"))
        return wrn.WideResNet, (depth, width)
    if name.startswith("ResNet"):
        return resnet.CifarResNet, (int(name.removeprefix("ResNet")),)
    return mobilenet.MobileNetV2, ()


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
