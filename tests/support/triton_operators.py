"""Operators of the interpreter's tensors that go straight to numpy.

An operator asks its operands' types what it is to do, casts and broadcasts them, and then calls one
function of numpy. What it does follows from the types: here it is worked out once for two types,
and that function is called from then on, which broadcasts by itself. No bit of a result changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from triton import language
from triton.language import core
from triton.runtime.interpreter import TensorHandle

FLOATS = {"fp32": np.float32, "fp64": np.float64}
INTEGERS = {"int32": np.int32, "int64": np.int64}
NUMBERS: dict[str, Any] = FLOATS | INTEGERS
BITS: dict[str, Any] = INTEGERS | {"int1": np.bool_}
ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
COMPARISONS = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


def patch() -> None:
    """Of operators as the interpreter has patched them."""
    for name, operation in ARITHMETIC.items():
        _replace(f"__{name}__", operation, NUMBERS)
        _replace(f"__r{name}__", _swapped(operation), NUMBERS)
    _replace("__truediv__", np.divide, FLOATS)
    _replace("__rtruediv__", _swapped(np.divide), FLOATS)
    for name, operation in COMPARISONS.items():
        _replace(f"__{name}__", operation, NUMBERS)
    _replace("__and__", np.bitwise_and, BITS)
    _replace("__or__", np.bitwise_or, BITS)
    core.tensor.__add__ = _or_offset(core.tensor.__add__)
    language.where = _where(language.where)


def _swapped(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: operation(b, a)


def _replace(name: str, operation: Callable[[Any, Any], Any], elements: dict[str, Any]) -> None:
    general = getattr(core.tensor, name)
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def compute(tensor: Any, other: Any) -> Any:
        if type(other) is core.constexpr:
            other = other.value
        element, kind = tensor.dtype.name, tensor.handle.dtype
        if element not in elements:
            return general(tensor, other)
        if type(other) is core.tensor:
            beside = other.dtype.name
            if beside != element:
                if element not in INTEGERS or beside not in INTEGERS:
                    return general(tensor, other)
                kind = language.int64
            types = tensor.type.name, other.type.name
            data = other.handle.data
        elif _takes_type(other, element):
            types, data = (tensor.type.name,), np.array([other], elements[element])
        else:
            return general(tensor, other)
        if element == "int1" and "int1" in types:
            return general(tensor, other)  # which makes int32 of one truth beside several
        if types not in known:
            return _remembered(general(tensor, other), known, types)
        return _made(operation(tensor.handle.data, data), kind, known[types])

    setattr(core.tensor, name, compute)


def _takes_type(number: Any, element: str) -> bool:
    """Whether a number of Python's takes the type of the tensor beside it."""
    if type(number) is float:
        return element in FLOATS
    if type(number) is not int:
        return False
    limit = 2 ** (31 if element == "int32" else 63)
    return element in NUMBERS and -limit <= number < limit


def _or_offset(general: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Addition, to pointers too."""
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def add(tensor: Any, other: Any) -> Any:
        if type(tensor.dtype) is not core.pointer_type:
            return general(tensor, other)
        if type(other) is core.tensor and other.dtype.name in INTEGERS:
            types = tensor.type.name, other.type.name
            offset = other.handle.data
        elif _takes_type(other, "int32"):
            types, offset = (tensor.type.name,), np.array([other], np.int32)
        else:
            return general(tensor, other)
        if types not in known:
            return _remembered(general(tensor, other), known, types)
        handle = tensor.handle
        width = max(1, handle.get_element_ty().primitive_bitwidth // 8)
        data = handle.data + width * offset.astype(np.uint64)
        return _made(data, handle.dtype, known[types])

    return add


def _where(general: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def where(condition: Any, x: Any, y: Any) -> Any:
        tensor = x if type(x) is core.tensor else y
        element = tensor.dtype.name if type(tensor) is core.tensor else ""
        if condition.dtype.name != "int1" or element not in NUMBERS:
            return general(condition, x, y)
        types, data = [condition.type.name], [condition.handle.data]
        for operand in (x, y):
            if type(operand) is core.tensor and operand.dtype.name == element:
                types.append(operand.type.name)
                data.append(operand.handle.data)
            elif _takes_type(operand, element):
                types.append("")
                data.append(np.array([operand], NUMBERS[element]))
            else:
                return general(condition, x, y)
        key = tuple(types)
        if key not in known:
            return _remembered(general(condition, x, y), known, key)
        return _made(np.where(*data), tensor.handle.dtype, known[key])

    return where


def _remembered(
    result: Any, known: dict[tuple[str, ...], dict[str, Any]], types: tuple[str, ...]
) -> Any:
    known[types] = {**vars(result), "handle": None}
    return result


def _made(data: Any, kind: Any, shape: dict[str, Any]) -> Any:
    """A tensor like another of its type, without a look at whether data is of that type."""
    handle = TensorHandle.__new__(TensorHandle)
    handle.data, handle.dtype, handle.attr = data, kind, {}
    tensor = language.tensor.__new__(language.tensor)
    vars(tensor).update(shape)
    tensor.handle = handle
    return tensor
