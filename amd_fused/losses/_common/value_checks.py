"""Checks of single values and tensors, whichever loss they belong to."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad

from amd_fused.losses._common.advice import option_of

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST = sys.float_info.max
# Subclasses that no operator of a loss understands, and what makes a tensor of them.
_UNWRAPPED = {
    "DTensor": "gather it with .full_tensor(), or take each process's samples with .to_local()",
    "MaskedTensor": "convert it with .to_tensor(0.0)",
}


def positive(owner: str, name: str, value: Any) -> None:
    """A finite number > 0."""
    if not 0 < number(owner, name, value) <= LARGEST:
        raise ValueError(f"{owner}: {name} must be finite and > 0, got {value}")


def non_negative(owner: str, name: str, value: Any) -> None:
    """A finite number >= 0."""
    if not 0 <= number(owner, name, value) <= LARGEST:
        raise ValueError(f"{owner}: {name} must be finite and >= 0, got {value}")


def choice(owner: str, name: str, value: Any, options: Sequence[str]) -> None:
    """One of a few strings."""
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(repr(o) for o in options)
        raise ValueError(f"{owner}: {name} must be one of {listed}, got {value!r}")


def kind(value: Any) -> str:
    return type(value).__name__


def number(owner: str, name: str, value: Any) -> Any:
    """A number, in a type that compares with every other: NumPy's narrow floats warn of the largest
    float64."""
    # SymFloat: a float that changes under torch.compile.
    if isinstance(value, (int, float, torch.SymFloat)) and not isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name} must be a number, got {kind(value)}")
    return float(value)


def weights(owner: str, name: str, value: Any) -> None:
    """A list or tuple of finite numbers >= 0."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{owner}: {name} must be a list or tuple of numbers, got {kind(value)}")
    for i, weight in enumerate(value):
        non_negative(owner, f"{name}[{i}]", weight)


def optional_weights(owner: str, name: str, value: Any) -> None:
    """None, or a list or tuple of finite numbers >= 0."""
    if value is not None:
        weights(owner, name, value)


def exponent(owner: str, name: str, value: Any) -> None:
    """A finite number >= 1: below, slopes at 0 are infinite."""
    if not 1 <= number(owner, name, value) <= LARGEST:
        raise ValueError(f"{owner}: {name} must be finite and >= 1, got {value}")


def float_tensor(owner: str, name: str, a: Any) -> None:
    """A dense tensor of a floating dtype."""
    if not isinstance(a, Tensor):
        raise TypeError(f"{owner}: {name} must be a tensor, got {kind(a)}")
    if kind(a) in _UNWRAPPED:
        raise TypeError(
            f"{owner}: {name} must be an ordinary tensor, got a {kind(a)}; {_UNWRAPPED[kind(a)]}"
        )
    if a.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{owner}: {name} must have dtype float32, float16, bfloat16 or float64, got {a.dtype}"
        )
    if a.layout != torch.strided or a.is_nested:
        found = "a nested tensor" if a.is_nested else f"layout {a.layout}"
        remedy = ".to_padded_tensor(0.0)" if a.is_nested else ".to_dense()"
        raise TypeError(
            f"{owner}: {name} must be a dense (strided) tensor, got {found}; "
            f"convert it with {remedy}"
        )


def has_values(a: Tensor) -> bool:
    """Whether the tensor is more than its shape: no compiler's or exporter's, of no FakeTensorMode
    and not on the meta device."""
    return not (torch.compiler.is_compiling() or a.is_meta or is_fake(a))


def readable(a: Tensor) -> bool:
    """Whether looking at the values waits for nobody."""
    return a.device.type == "cpu" and has_values(a)


def no_transforms(owner: str, backend: str | None, features: Sequence[Tensor]) -> None:
    """Refuses what custom operators do not know: dual tensors, whose tangents torch would take as
    zero, and the transforms of torch.func. A loss without backends has None."""
    if torch.compiler.is_compiling():
        return
    no_forward_mode(owner, backend, features)
    if torch._C._are_functorch_transforms_active():
        what = "it" if backend is None else f"backend {backend!r}"
        remedy = f'backend="reference"{option_of(owner)}'
        if backend is None:
            remedy = f"amd_fused.reference.{owner}"
        raise RuntimeError(
            f"{owner}: {what} does not run under the transforms of torch.func (grad, vmap, ...); "
            f"use {remedy} there"
        )


def no_forward_mode(owner: str, backend: str | None, features: Sequence[Tensor]) -> None:
    """Refuses dual tensors, where a loss has no rule for them."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(a).tangent is not None for a in features):
        what = "it" if backend is None else f"backend {backend!r}"
        raise RuntimeError(f"{owner}: {what} has no forward-mode derivatives; use reverse mode")
