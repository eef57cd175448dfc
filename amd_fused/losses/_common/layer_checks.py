"""Checks of the losses with trained layers, which are made for one size of each input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from amd_fused.losses._common.embedding_checks import count
from amd_fused.losses._common.sides import as_list
from amd_fused.losses._common.value_checks import float_tensor, kind


def counts(owner: str, name: str, value: Any) -> tuple[int, ...]:
    """Integers >= 1, one a layer; one alone is that of the only layer."""
    if not isinstance(value, (list, tuple)):
        count(owner, name, value)
        return (value,)
    if not value:
        raise ValueError(
            f"{owner}: {name} must have at least one number, got an empty {kind(value)}"
        )
    for i, entry in enumerate(value):
        count(owner, f"{name}[{i}]", entry)
    return tuple(value)


def of_layers(owner: str, name: str, values: Sequence[Any] | None, layers: int) -> None:
    """As many values as there are layers, or None."""
    if values is not None and len(values) != layers:
        raise ValueError(
            f"{owner}: {name} must have one entry for each of the {layers} layers, got "
            f"{len(values)}"
        )


def channels(owner: str, name: str, maps: Sequence[Tensor], expected: Sequence[int]) -> None:
    """Feature maps as many and as wide as the layers that read them."""
    if len(maps) != len(expected):
        raise ValueError(
            f"{owner}: {name} must have one feature map for each of the {len(expected)} layers of "
            f"{name}_channels, got {len(maps)}"
        )
    for i, (a, width) in enumerate(zip(maps, expected, strict=True)):
        if a.shape[1] != width:
            index = "" if len(maps) == 1 else f"[{i}]"
            raise ValueError(
                f"{owner}: {name}{index} must have {name}_channels = {width} channels, got shape "
                f"{tuple(a.shape)}"
            )


def width(owner: str, name: str, a: Tensor, expected: int) -> None:
    """An embedding as wide as the layer that reads it."""
    if a.shape[1] != expected:
        raise ValueError(
            f"{owner}: {name} must have the width {name}_features = {expected}, got shape "
            f"{tuple(a.shape)}"
        )


def beside_layers(
    owner: str, name: str, value: Any, axes: str, student: Any, teachers: Sequence[Tensor]
) -> None:
    """A tensor for each layer, single where student is, that has some axes of its features."""
    rule = f"[{', '.join(axes)}]"
    single = isinstance(student, Tensor)
    if single != isinstance(value, Tensor) or not isinstance(value, (Tensor, list, tuple)):
        expected = f"a tensor {rule}" if single else f"a list or tuple of tensors {rule}"
        raise TypeError(f"{owner}: {name} must be {expected}, as student is, got {kind(value)}")
    given: list[Any] = as_list(value)
    of_layers(owner, name, given, len(teachers))
    for i, (a, a_t) in enumerate(zip(given, teachers, strict=True)):
        named = name if single else f"{name}[{i}]"
        float_tensor(owner, named, a)
        shape = tuple(a_t.shape["BCHW".index(axis)] for axis in axes)
        if tuple(a.shape) != shape:
            raise ValueError(
                f"{owner}: {named} must be {rule} = {shape}, as teacher is, got shape "
                f"{tuple(a.shape)}"
            )
        if a.device != a_t.device:
            raise ValueError(
                f"{owner}: {named} must be on the device of student ({a_t.device}), got "
                f"{a.device}; move it with .to(...)"
            )
