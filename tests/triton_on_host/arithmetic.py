"""What PTX's arithmetic makes of bits: arguments and results are unsigned numpy arrays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOATS = {32: np.float32, 64: np.float64}


def bits_of(kind: str) -> int:
    return 1 if kind == "pred" else int(kind.lstrip("usbf"))


def typed(x: Array, kind: str) -> Array:
    """Bits as numbers of a PTX type."""
    bits = bits_of(kind)
    table = {"s": SIGNED, "f": FLOATS}.get(kind[0], UNSIGNED)
    return np.asarray(x, UNSIGNED[bits]).view(table[bits])


def raw(x: Array) -> Array:
    x = np.asarray(x)
    return x.view(UNSIGNED[8 * x.dtype.itemsize])


def fma(a: Array, b: Array, c: Array) -> Array:
    wide = np.float64 if a.dtype == np.float32 else np.longdouble
    return (a.astype(wide) * b + c).astype(a.dtype)


FLOAT: dict[str, Callable[..., Array]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "neg": operator.neg, "abs": np.abs, "max": np.fmax, "min": np.fmin, "sqrt": np.sqrt,
    "rcp": lambda x: x.dtype.type(1) / x, "rsqrt": lambda x: x.dtype.type(1) / np.sqrt(x),
    "ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "fma": fma,
}  # fmt: skip
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": operator.eq, "ne": lambda a, b: (a < b) | (a > b), "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "lo": operator.lt, "ls": operator.le, "hi": operator.gt,
    "hs": operator.ge, "equ": lambda a, b: ~((a < b) | (a > b)), "neu": operator.ne,
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b), "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}  # fmt: skip
LOGIC = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def shift(name: str, a: Array, count: Array, kind: str) -> Array:
    """Past the width, zeros or the sign."""
    bits = bits_of(kind)
    x = typed(a, kind)
    count = np.asarray(count, np.uint64)
    near = np.minimum(count, np.uint64(bits - 1)).astype(x.dtype)
    if name == "shr" and kind[0] == "s":
        return raw(x >> near)
    shifted = x << near if name == "shl" else x >> near
    return raw(np.where(count >= bits, x.dtype.type(0), shifted))


def funnel(direction: str, low: Array, high: Array, count: Array) -> Array:
    pair = np.asarray(high, np.uint64) << np.uint64(32) | np.asarray(low, np.uint64)
    count = np.asarray(count, np.uint64) & np.uint64(31)
    shifted = (pair << count) >> np.uint64(32) if direction == "l" else pair >> count
    return shifted.astype(np.uint32)


def field(a: Array, start: Array, length: Array, kind: str) -> Array:
    """bfe."""
    a, start, length = (np.asarray(x, np.uint64) for x in (a, start, length))
    one = np.uint64(1)
    value = a >> start & (one << length) - one
    if kind[0] == "s":
        negative = value >> length - one & one
        value = np.where(negative == 1, value | ~np.uint64(0) << length, value)
    return value.astype(UNSIGNED[bits_of(kind)])


def quotient(name: str, a: Array, b: Array) -> Array:
    """div or rem of integers, rounded towards zero; all bits set where b is 0."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    rest = np.fmod(a, safe)
    result = rest if name == "rem" else (a - rest) // safe
    return np.where(b == 0, raw(~np.zeros_like(b)), raw(result))


def high_product(a: Array, b: Array) -> Array:
    """Upper half of the product of 32-bit integers."""
    wide = np.int64 if a.dtype == np.int32 else np.uint64
    return (a.astype(wide) * b.astype(wide) >> wide(32)).astype(np.uint32)


def to_bfloat16(x: Array) -> Array:
    """Rounded to nearest, ties to even."""
    bits = raw(x).astype(np.uint64)
    rounded = bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1))
    return np.where(np.isnan(x), 0x7FFF, rounded >> np.uint64(16)).astype(np.uint16)


def to_half(kind: str, x: Array) -> Array:
    return to_bfloat16(x) if kind.startswith("bf16") else raw(np.asarray(x, np.float16))


def from_half(kind: str, x: Array) -> Array:
    if kind == "bf16":
        return np.asarray(x, np.uint32) << np.uint32(16)
    return raw(np.asarray(x, np.uint16).view(np.float16).astype(np.float32))


def convert(to: str, source: str, x: Array, rounding: tuple[str, ...]) -> Array:
    """cvt between integers and floats of 32 and 64 bits, and to and from halves."""
    if source in ("bf16", "f16"):
        return from_half(source, x)
    numbers = typed(x, source)
    if to in ("bf16", "f16"):
        return to_half(to, numbers)
    if source[0] == "f" and to[0] != "f":
        numbers = np.trunc(numbers) if "rzi" in rounding else np.rint(numbers)
    table = {"s": SIGNED, "f": FLOATS}.get(to[0], UNSIGNED)
    result = raw(np.asarray(numbers).astype(table[bits_of(to)]))
    return result.astype(np.uint16) if result.dtype == np.uint8 else result


def shuffle(mode: str, a: Array, by: Array) -> Array:
    """shfl of whole warps."""
    a, by, lane = a.reshape(-1, 32), by.reshape(-1, 32).astype(np.int64), np.arange(32)
    if mode == "bfly":
        source = lane ^ by
    elif mode == "idx":
        source = by & 31
    elif mode == "down":
        source = np.where(lane + by < 32, lane + by, lane)
    else:
        source = np.where(lane - by >= 0, lane - by, lane)
    return np.take_along_axis(a, source, 1).reshape(-1)
