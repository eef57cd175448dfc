"""Triton's interpreter, several times as fast and with the bfloat16 of a device.

The interpreter spends its time not in numpy but on Python's side of each operation, and most of
that on what it has worked out before. What follows changes no bit of a result:

- It puts its own functions into ``triton.language`` before a kernel and every function that this
  calls, and takes them out after a kernel: here they stay.
- It asks of every sum of integers whether it overflowed, and drops the answer unless it debugs.
- It works out a type's shape, name and numpy type anew for every value: here once a type.
- It reduces by a kernel's own function number after number: here row after row.
- It works out anew what an operator does to two types: `triton_operators` has it once.

Mended is bfloat16, which it keeps as 16 bits. On the way there it cuts digits off where a device
rounds, and makes whole numbers of float64; on the way back it is wrong for subnormal numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from functools import cache
from inspect import ismodule
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton_operators
from triton import language
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter
from triton_on_host import arithmetic


@cache
def _languages(function: Callable[..., object]) -> frozenset[str]:
    """The modules that are patched for a function: those that it can name."""
    names = function.__globals__.values()
    return frozenset(m.__name__ for m in names if ismodule(m) and m in (language, language.core))


def cast_bfloat16_exactly() -> None:
    """By its bits, which are the upper half of float32's. Double precision goes by way of that."""
    cast = interpreter.InterpreterBuilder.cast_impl
    half, single = language.bfloat16, language.float32

    def cast_by_bits(builder: Any, source: Any, target: Any) -> Any:
        given, wanted = source.dtype.scalar, target.scalar
        if given == wanted or half not in (given, wanted):
            return cast(builder, source, target)
        if given == half:
            numbers = arithmetic.from_half("bf16", source.data).view(np.float32)
            exact = interpreter.TensorHandle(numbers, single)
            return exact if wanted == single else cast(builder, exact, target)
        rounded = arithmetic.to_bfloat16(source.data.astype(np.float32))
        return interpreter.TensorHandle(rounded, half)

    interpreter.InterpreterBuilder.cast_impl = cast_by_bits


def patch_once() -> None:
    patch, patched = interpreter._patch_lang, set[frozenset[str]]()

    def patch_the_first_time(function: Callable[..., object]) -> Any:
        languages = _languages(function)
        if languages not in patched:
            patch(function)
            if not patched:
                triton_operators.patch()
            patched.add(languages)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_the_first_time


def reduce_rows_at_once() -> None:
    """By a function of the kernel's own: row after row, where the interpreter takes number after
    number in the same order."""
    one_by_one = interpreter.ReduceOps.generic_reduce

    def row_by_row(reduction: Any, values: Any) -> Any:
        if reduction.axis is None or len(values[0].shape) < 2:
            return one_by_one(reduction, values)
        kinds = [value.dtype for value in values]
        along = (np.moveaxis(value.handle.data, reduction.axis, 0) for value in values)
        rows = zip(*along, strict=True)
        totals = next(rows)
        for row in rows:
            both = map(reduction.to_tensor, totals + row, kinds * 2)
            sums = reduction.combine_fn.fn(*both)
            sums = sums if isinstance(sums, tuple) else (sums,)
            totals = tuple(
                total.handle.data.astype(data.dtype) for total, data in zip(sums, row, strict=True)
            )
        if reduction.keep_dims:
            totals = tuple(np.expand_dims(total, reduction.axis) for total in totals)
        return list(map(reduction.to_tensor, totals, kinds))

    interpreter.ReduceOps.generic_reduce = row_by_row


def leave_out_overflow() -> None:
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def remember_types() -> None:
    """A type's name says all that is worked out of it: pointers are of one address space here."""
    core = language.core
    core.tensor.__init__ = _once_a_type(core.tensor.__init__)
    core.block_type.__init__ = _once_a_shape(core.block_type.__init__)
    interpreter._get_np_dtype = _known_by(lambda kind: kind.name, interpreter._get_np_dtype)
    TritonSemantic.computation_type_impl = _known_by(
        lambda _, a, a_is_scalar, b, *rest: (a.name, a_is_scalar, b.name, *rest),
        TritonSemantic.computation_type_impl,
    )
    equal, broadcast = core.dtype.__eq__, TritonSemantic.broadcast_impl_value

    def is_or_equals(one: Any, other: Any) -> Any:
        return one is other or equal(one, other)

    def broadcast_what_differs(semantic: Any, left: Any, right: Any) -> Any:
        alike = getattr(left.type, "shape", None) is getattr(right.type, "shape", None)
        return (left, right) if alike else broadcast(semantic, left, right)

    check = TritonSemantic.binary_op_type_checking_impl
    computed = (language.float32, language.float64)

    def check_what_differs(semantic: Any, left: Any, right: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = isinstance(left, core.tensor) and isinstance(right, core.tensor)
        if tensors and left.type is right.type and left.dtype in computed:
            return left, right
        return check(semantic, left, right, *args, **kwargs)

    core.dtype.__eq__ = is_or_equals
    TritonSemantic.broadcast_impl_value = broadcast_what_differs
    TritonSemantic.binary_op_type_checking_impl = check_what_differs


def _known_by(key: Callable[..., Hashable], function: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Hashable, Any] = {}

    def look_up(*args: Any) -> Any:
        found = key(*args)
        if found not in known:
            known[found] = function(*args)
        return known[found]

    return look_up


def _once_a_type(construct: Callable[..., None]) -> Callable[..., None]:
    """Of a tensor's constructor: all that it sets but the handle follows from the type."""
    known: dict[str, dict[str, Any]] = {}

    def construct_or_copy(tensor: Any, handle: Any, type: Any) -> None:
        if type.name not in known:
            construct(tensor, handle, type)
            known[type.name] = dict(vars(tensor))
        vars(tensor).update(known[type.name])
        tensor.handle = handle

    return construct_or_copy


def _once_a_shape(construct: Callable[..., None]) -> Callable[..., None]:
    """Of a block type's constructor. Equal shapes become one object, whatever their elements."""
    known: dict[Hashable, dict[str, Any]] = {}
    shapes: dict[Hashable, Any] = {}

    def construct_or_copy(block: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple([getattr(size, "value", size) for size in shape])
        key = (element_ty.name, sizes)
        if key not in known:
            construct(block, element_ty, shape)
            block.shape = shapes.setdefault(sizes, block.shape)
            known[key] = dict(vars(block))
        vars(block).update(known[key])

    return construct_or_copy
