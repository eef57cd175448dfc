"""Triton's interpreter, several times as fast and with the bfloat16 of a device.

The interpreter spends its time on Python's side of each operation, not on numpy's, and most of
that on what it has worked out before. Nothing here changes a bit of a result:

- It puts its own functions into ``triton.language`` before a kernel runs, and once more before every
  call of a function inside it: here once a launch.
- It asks of every sum of integers whether it overflowed, and drops the answer unless it debugs.
- It works out a type's shape, name and numpy type anew for every value: here once a type.

It keeps bfloat16 as 16 bits. On the way there it cuts digits off where a device rounds, and makes
whole numbers of float64; on the way back it is wrong for subnormal numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from functools import cache
from inspect import ismodule
from typing import Any

import numpy
from triton import language
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


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
            bits = source.data.astype(numpy.uint32) << 16
            exact = interpreter.TensorHandle(bits.view(numpy.float32), single)
            return exact if wanted == single else cast(builder, exact, target)
        numbers = source.data.astype(numpy.float32)
        bits = numbers.view(numpy.uint32)
        to_nearest_even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        rounded = numpy.where(numpy.isnan(numbers), 0x7FC0, to_nearest_even)
        return interpreter.TensorHandle(rounded.astype(numpy.uint16), half)

    interpreter.InterpreterBuilder.cast_impl = cast_by_bits


def patch_once_a_launch() -> None:
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[frozenset[str]] = set()

    def patch_once(function: Callable[..., object]) -> Any:
        languages = _languages(function)
        if languages in patched:
            return None
        patched.add(languages)
        return patch(function)

    def fresh_launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        patched.clear()  # the one before has put everything back
        launch(executor, *args, **kwargs)

    interpreter._patch_lang = patch_once
    interpreter.GridExecutor.__call__ = fresh_launch


def leave_out_overflow() -> None:
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def remember_types() -> None:
    """A type's name says all that is worked out of it: pointers are all of one address space here."""
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

    core.dtype.__eq__ = is_or_equals
    TritonSemantic.broadcast_impl_value = broadcast_what_differs


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
