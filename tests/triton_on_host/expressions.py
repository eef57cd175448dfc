"""What computes the result of an instruction without side effects."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from triton_on_host import arithmetic as a
from triton_on_host.memory import Fault
from triton_on_host.operands import Value, value
from triton_on_host.ptx import Instruction, members


def expression(instruction: Instruction) -> Value:
    name, parts, operands = instruction.parts[0], instruction.parts, instruction.operands[1:]
    kind = parts[-1]
    if name == "ld" and parts[1] == "param":
        index = int(re.search(r"_param_(\d+)", operands[0])[1])
        return lambda t: t.parameters[index]
    if name == "mov":
        return moved(operands[0], a.bits_of(parts[1]))
    if name == "cvt":
        return converted(parts, operands)
    if name == "setp":
        return compared(parts, operands)
    if name == "shfl":
        x, by = value(operands[0], 32), value(operands[1], 32)
        return lambda t: a.shuffle(parts[2], t.spread(x(t)), t.spread(by(t)))
    if name == "selp":
        x, y = (value(o, a.bits_of(kind)) for o in operands[:2])
        chosen = value(operands[2], 1)
        return lambda t: np.where(chosen(t), x(t), y(t))
    if name in ("shl", "shr"):
        x, by = value(operands[0], a.bits_of(kind)), value(operands[1], 32)
        return lambda t: a.shift(name, x(t), by(t), kind)
    if name == "shf":
        low, high, by = (value(o, 32) for o in operands)
        return lambda t: a.funnel(parts[1], low(t), high(t), by(t))
    if name == "bfe":
        x, start, length = (
            value(operands[0], a.bits_of(kind)),
            *(value(o, 32) for o in operands[1:]),
        )
        return lambda t: a.field(x(t), start(t), length(t), kind)
    if name in a.LOGIC or name == "not":
        values = [value(o, a.bits_of(kind)) for o in operands]
        if name == "not":
            return lambda t: ~np.asarray(values[0](t))
        return lambda t: a.LOGIC[name](values[0](t), values[1](t))
    if kind in ("f32", "f64") and name in a.FLOAT:
        values = [value(o, a.bits_of(kind)) for o in operands]
        return lambda t: a.raw(a.FLOAT[name](*(a.typed(x(t), kind) for x in values)))
    if kind[0] in "usb":
        return integer(instruction)
    raise Fault(f"not emulated: {instruction.text}")


def moved(operand: str, bits: int) -> Value:
    """A register, or several packed into one, the first lowest."""
    if not operand.startswith("{"):
        return value(operand, bits)
    names = members(operand)
    part, whole = bits // len(names), a.UNSIGNED[bits]
    values = [value(x, part) for x in names]

    def packed(t: Any) -> Any:
        shifted = [np.asarray(x(t), whole) << whole(k * part) for k, x in enumerate(values)]
        return np.bitwise_or.reduce(np.broadcast_arrays(*shifted))

    return packed


def converted(parts: tuple[str, ...], operands: tuple[str, ...]) -> Value:
    to, source = parts[-2:]
    if to in ("bf16x2", "f16x2"):
        high, low = (value(o, 32) for o in operands)

        def pair(t: Any) -> Any:
            halves = [a.to_half(to, a.typed(x(t), "f32")).astype(np.uint32) for x in (high, low)]
            return halves[0] << np.uint32(16) | halves[1]

        return pair
    bits = 16 if source in ("bf16", "f16") else a.bits_of(source)
    x = value(operands[0], max(bits, 16))
    narrow = a.UNSIGNED[bits]
    return lambda t: a.convert(to, source, np.asarray(x(t)).astype(narrow), parts)


def compared(parts: tuple[str, ...], operands: tuple[str, ...]) -> Value:
    kind = parts[-1]
    x, y = (value(o, a.bits_of(kind)) for o in operands[:2])
    compare, join = comparison(parts), a.LOGIC.get(parts[2])
    if join is None:
        return lambda t: compare(x(t), y(t))
    also = value(operands[2], 1)
    return lambda t: join(compare(x(t), y(t)), also(t))


def comparison(parts: tuple[str, ...]) -> Callable[[Any, Any], Any]:
    """Of bits that are numbers of the kind that a setp ends with."""
    kind = parts[-1].removesuffix("x2")
    if kind in ("bf16", "f16"):
        compare = a.COMPARE[parts[1]]
        return lambda x, y: compare(*(a.typed(a.from_half(kind, v), "f32") for v in (x, y)))
    compare = a.COMPARE["neu" if kind[0] != "f" and parts[1] == "ne" else parts[1]]
    return lambda x, y: compare(a.typed(x, kind), a.typed(y, kind))


def integer(instruction: Instruction) -> Value:
    name, kind = instruction.parts[0], instruction.parts[-1]
    wide = "wide" in instruction.parts
    bits = a.bits_of(kind)
    values = [value(o, bits) for o in instruction.operands[1:3]]
    addend = value(instruction.operands[3], 2 * bits if wide else bits) if name == "mad" else None

    def do(t: Any) -> Any:
        x = [np.asarray(v(t), a.UNSIGNED[bits]) for v in values]
        numbers = [a.typed(v, kind) for v in x]
        if name in ("add", "sub"):
            return a.FLOAT[name](x[0], x[1])
        if name == "neg":
            return ~x[0] + x[0].dtype.type(1)
        if name in ("div", "rem"):
            return a.quotient(name, *numbers)
        if name in ("max", "min"):
            return a.raw((np.maximum if name == "max" else np.minimum)(*numbers))
        if name == "abs":
            return a.raw(np.abs(numbers[0]))
        if name == "popc":
            return np.bitwise_count(x[0]).astype(np.uint32)
        if wide:
            table = a.SIGNED if kind[0] == "s" else a.UNSIGNED
            product = a.raw(numbers[0].astype(table[2 * bits]) * numbers[1].astype(table[2 * bits]))
        elif "hi" in instruction.parts and bits == 32:
            product = a.high_product(*numbers)
        elif "lo" in instruction.parts:
            product = x[0] * x[1]
        else:
            raise Fault(f"not emulated: {instruction.text}")
        return product if addend is None else product + addend(t)

    return do
