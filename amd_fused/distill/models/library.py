"""Networks of torchvision and timm by name, for any number of classes and channels.

Their weights are always drawn here: nothing is ever downloaded.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import nn

from amd_fused.distill.errors import UsageError
from amd_fused.distill.models import intermediates
from amd_fused.distill.models.evaluating import evaluating, example
from amd_fused.distill.vision import load_torchvision

# What every ResNet of torchvision and timm calls its groups, and what each calls its pooling.
_GROUPS = ("layer1", "layer2", "layer3", "layer4")
_POOLS = ("avgpool", "global_pool")
# What timm's networks put before their classifier, the last of it first.
_EMBEDDINGS = ("head_drop", "head.drop", "flatten", "global_pool", "head.global_pool")
# These return more than logits in training mode, unless told not to.
_AUXILIARY = ("googlenet", "inception_v3")


@functools.cache
def names(source: str) -> tuple[str, ...]:
    """Names of the classification networks of `torchvision` or `timm`.

    Raises:
        UsageError: it is not installed.
    """
    if source == "timm":
        return tuple(_timm().list_models())
    models = load_torchvision().models
    return tuple(models.list_models(module=models))


def build(source: str, name: str, *, num_classes: int, channels: int, image_size: int) -> nn.Module:
    """A network of `torchvision` or `timm` with weights from the global generator.

    torchvision's are made for 3 channels. Where the images have another number, a new first
    convolution takes the old one's place, with weights drawn as widely as those were.

    Raises:
        UsageError: it cannot be made for these images: the message says what stands against it.
    """
    if source == "timm":
        try:
            model = _timm().create_model(
                name, pretrained=False, num_classes=num_classes, in_chans=channels
            )
        except (RuntimeError, TypeError) as error:
            raise UsageError(
                f"timm/{name} cannot be made for {channels} channels and {num_classes} classes "
                f"({_one_line(error)})"
            ) from None
    else:
        models = load_torchvision().models
        options = torchvision_options(name)
        model = models.get_model(name, weights=None, num_classes=num_classes, **options)
        if channels != 3:
            _replace_first_convolution(model, f"{source}/{name}", channels)
    assert isinstance(model, nn.Module)
    try_images(model, f"{source}/{name}", num_classes, channels, image_size)
    return model


def torchvision_options(name: str) -> dict[str, bool]:
    """What makes a network of torchvision give logits alone."""
    return {"aux_logits": False, "init_weights": True} if name in _AUXILIARY else {}


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d | None]:
    """Its module path and itself; empty and None where there is none."""
    found = ((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return next(found, ("", None))


def maps_and_embedding(model: nn.Module) -> tuple[tuple[str, ...], str]:
    """Paths of a ResNet's groups and pooling, and of any other network of timm's those of its
    `feature_info` and of what stands before its classifier; empty where neither is known."""
    children = dict(model.named_children())
    if all(group in children for group in _GROUPS):
        return _GROUPS, next((pool for pool in _POOLS if pool in children), "")
    if not intermediates.entries(model):
        return (), ""
    known = dict(model.named_modules())
    indices, info = intermediates.chosen(model), intermediates.entries(model)
    maps = [str(info[index].get("module")) for index in indices]
    if len(set(maps)) < len(maps) or not all(path in known for path in maps):
        offered = intermediates.offered_by(model)
        maps = [intermediates.path_of(index) for index in indices] if offered else []
    return tuple(maps), next((path for path in _EMBEDDINGS if path in known), "")


def _timm() -> ModuleType:
    # timm imports torchvision, which may need help to be imported.
    load_torchvision()
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(
            f"timm/... networks need timm, which cannot be imported ({error}); "
            "pip install --no-deps timm, for its torchvision may exchange torch"
        ) from None


def _replace_first_convolution(model: nn.Module, name: str, channels: int) -> None:
    path, old = first_convolution(model)
    if old is None or old.in_channels != 3 or old.groups != 1:
        raise UsageError(
            f"{name} takes images of 3 channels and has no first convolution that could be "
            f"replaced, but the images have {channels}"
        )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # kept as a tuple of any length
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.normal_(new.weight, std=old.weight.std().item())
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, new)


def try_images(
    model: nn.Module, name: str, num_classes: int, channels: int, image_size: int
) -> None:
    """One image, because networks say only in their forward pass which sizes they take.

    Raises:
        UsageError: they do not take it, or give no logits `[1, num_classes]`.
    """
    try:
        with evaluating(model):
            logits = model(example(model, channels, image_size))
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{name} cannot take images of {image_size}x{image_size} with {channels} channels "
            f"({_one_line(error)})"
        ) from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        raise UsageError(f"{name} does not give logits [B, {num_classes}], so it cannot be trained")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
