"""Checks of the losses between features: pairs of tensors, or all of two lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from amd_fused.losses._common.advice import option_of
from amd_fused.losses._common.layouts import LayoutOptions, as_map, check_feature, positions
from amd_fused.losses._common.value_checks import (
    float_tensor,
    kind,
)


def feature_pairs(
    owner: str,
    student: Any,
    teacher: Any,
    options: LayoutOptions,
    *,
    local_weight: float,
    layer_weights: Sequence[float] | None,
    align: str,
) -> tuple[list[Tensor], list[Tensor]]:
    """The two sides as equally long lists of matching [B, C, H, W] tensors."""
    students, teachers = _pairs(owner, student, teacher, layer_weights, check_feature)
    maps_s, maps_t = [], []
    for i, (a_s, a_t) in enumerate(zip(students, teachers, strict=True)):
        index = "" if isinstance(student, Tensor) else f"[{i}]"
        maps_s.append(as_map(owner, f"student{index}", a_s, options))
        maps_t.append(as_map(owner, f"teacher{index}", a_t, options))
        sizes_s, sizes_t = positions(a_s, options), positions(a_t, options)
        grids = len(sizes_s) == len(sizes_t) == 2
        # Neighbours in a sequence are neighbours; tokens without a grid have none.
        pooled = grids or (len(sizes_s) == len(sizes_t) == 1 and options.layout == "NCL")
        if not (pooled and align == "adaptive_avg") and sizes_s != sizes_t:
            what = "height and width" if grids else "positions"
            remedy = (
                f'align="adaptive_avg"{option_of(owner)} pools the larger one'
                if pooled
                else f"the tokens' grid=(H, W){option_of(owner)} makes maps of them"
                if len(sizes_s) + len(sizes_t) == 3
                else "bring them to one size first"
            )
            raise _unlike(owner, index, f"the same {what}", a_s, a_t, remedy)
        if local_weight == 0:
            continue
        if grids and min(*sizes_s, *sizes_t) >= 2:
            continue
        rule, remedy = "height and width >= 2", f"local_weight=0{option_of(owner)} leaves"
        if not grids:
            rule = "a 2-D grid"
            remedy = f"grid=(H, W){option_of(owner)} makes maps of tokens, local_weight=0 leaves"
        rule += f" for the local part (local_weight={local_weight})"
        raise _unlike(owner, index, rule, a_s, a_t, f"{remedy} the global part alone")
    return maps_s, maps_t


def _unlike(owner: str, index: str, rule: str, a_s: Tensor, a_t: Tensor, remedy: str) -> ValueError:
    return ValueError(
        f"{owner}: student{index} and teacher{index} must have {rule}, got {tuple(a_s.shape)} and "
        f"{tuple(a_t.shape)}; {remedy}"
    )


def sample_pairs(
    owner: str,
    student: Any,
    teacher: Any,
    *,
    layer_weights: Sequence[float] | None,
    min_batch: int = 1,
) -> tuple[list[Tensor], list[Tensor]]:
    """The two sides as equally long lists of [B, ...] tensors: only their batch sizes match."""
    students, teachers = _pairs(owner, student, teacher, layer_weights, _samples)
    batch = students[0].shape[0]
    if batch < min_batch:
        raise ValueError(
            f"{owner}: the batch must have at least {min_batch} samples, for relations between "
            f"them, got B = {batch}; leave such a batch out (drop_last=True in the DataLoader)"
        )
    return students, teachers


def map_pairs(
    owner: str, student: Any, teacher: Any, *, layer_weights: Sequence[float] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The two sides as equally long lists of [B, C, H, W] tensors of any channels and sizes."""
    return _pairs(owner, student, teacher, layer_weights, feature)


def equal_pairs(
    owner: str,
    student: Any,
    teacher: Any,
    *,
    layer_weights: Sequence[float] | None,
    remedy: str,
) -> tuple[list[Tensor], list[Tensor]]:
    """The two sides as equally long lists of [B, C, H, W] tensors of one shape a pair; the remedy
    is for unequal ones."""
    students, teachers = _pairs(owner, student, teacher, layer_weights, feature)
    for i, (a_s, a_t) in enumerate(zip(students, teachers, strict=True)):
        index = "" if isinstance(student, Tensor) else f"[{i}]"
        if a_s.shape != a_t.shape:
            raise _unlike(owner, index, "the same shape", a_s, a_t, remedy)
    return students, teachers


def feature_lists(owner: str, student: Any, teacher: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The two sides as lists, of any lengths, of [B, C, H, W] tensors of one batch."""
    students = _tensors(owner, "student", student)
    teachers = _tensors(owner, "teacher", teacher)
    first = students[0]
    for name, side, value in (("student", students, student), ("teacher", teachers, teacher)):
        for i, a in enumerate(side):
            named = name if isinstance(value, Tensor) else f"{name}[{i}]"
            feature(owner, named, a)
            _like_first(owner, named, a, "the first of student", first)
    return students, teachers


def _like_first(owner: str, name: str, a: Tensor, name_first: str, first: Tensor) -> None:
    if a.shape[0] != first.shape[0]:
        raise ValueError(
            f"{owner}: {name} must have the batch size of {name_first} ({first.shape[0]}), "
            f"got {a.shape[0]}: shape {tuple(a.shape)}"
        )
    if a.device != first.device:
        raise ValueError(
            f"{owner}: {name} must be on the device of {name_first} ({first.device}), "
            f"got {a.device}; move it with .to(...)"
        )


def _pairs(
    owner: str,
    student: Any,
    teacher: Any,
    layer_weights: Sequence[float] | None,
    check: Callable[[str, str, Any], None],
) -> tuple[list[Tensor], list[Tensor]]:
    """The two sides as equally long lists of tensors of one batch size on one device."""
    if isinstance(student, Tensor) != isinstance(teacher, Tensor):
        raise TypeError(
            f"{owner}: student and teacher must both be a tensor or both a sequence of tensors, "
            f"got {kind(student)} and {kind(teacher)}"
        )
    students = _tensors(owner, "student", student)
    teachers = _tensors(owner, "teacher", teacher)
    if len(students) != len(teachers):
        raise ValueError(
            f"{owner}: student and teacher must have the same number of feature maps, "
            f"got {len(students)} and {len(teachers)}"
        )
    if layer_weights is not None and len(layer_weights) != len(students):
        raise ValueError(
            f"{owner}: layer_weights must have one weight for each of the {len(students)} layer "
            f"pairs, got {len(layer_weights)}"
        )
    first = students[0]
    single = isinstance(student, Tensor)
    name_first = "student" if single else "student[0]"
    for i, pair in enumerate(zip(students, teachers, strict=True)):
        index = "" if single else f"[{i}]"
        names = f"student{index}", f"teacher{index}"
        for name, a in zip(names, pair, strict=True):
            check(owner, name, a)
        for name, a in zip(names, pair, strict=True):
            _like_first(owner, name, a, name_first, first)
    return students, teachers


def _tensors(owner: str, name: str, value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{owner}: {name} must be a tensor or a list or tuple of tensors, got {kind(value)}"
        )
    if not value:
        raise ValueError(f"{owner}: {name} must have at least one feature map, got an empty list")
    return list(value)


def feature(owner: str, name: str, a: Any) -> None:
    """[B, C, H, W], no axis empty."""
    float_tensor(owner, name, a)
    if a.ndim != 4:
        raise ValueError(
            f"{owner}: {name} must be 4-D [B, C, H, W], got {a.ndim}-D: shape {tuple(a.shape)}"
        )
    check_feature(owner, name, a)


def _samples(owner: str, name: str, a: Any) -> None:
    float_tensor(owner, name, a)
    if a.ndim < 2:
        raise ValueError(
            f"{owner}: {name} must be [B, D] or [B, C, H, W], got {a.ndim}-D: shape "
            f"{tuple(a.shape)}"
        )
    if a.numel() == 0:
        raise ValueError(f"{owner}: {name} must have no empty axis, got shape {tuple(a.shape)}")
