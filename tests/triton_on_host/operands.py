"""What reads an operand from the state of a block's threads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from triton_on_host import arithmetic as a
from triton_on_host.ptx import Function

Value = Callable[[Any], Any]


def value(text: str, bits: int) -> Value:
    """What reads an operand; a register never written holds ones, NaN as a float."""
    if text.startswith(("%tid.", "%ctaid.", "%nctaid.", "%ntid.", "%laneid")):
        if text.endswith((".y", ".z")):
            number = np.uint32("n" in text[1])
            return lambda _: number
        return lambda t: t.special[text]
    if text.startswith("%"):
        poison = np.bool_(False) if bits == 1 else a.UNSIGNED[bits](2**bits - 1)
        return lambda t: t.registers.get(text, poison)
    if text.startswith("global_smem"):
        number = int(text.partition("+")[2] or 0)
    elif text[:2] in ("0f", "0d"):
        number = int(text[2:], 16)
    else:
        number = int(text, 0)
    constant = np.bool_(number) if bits == 1 else a.UNSIGNED[bits](number & (1 << bits) - 1)
    return lambda _: constant


def address(text: str, function: Function) -> Value:
    base, _, offset = text.strip("[] ").replace(" ", "").partition("+")
    bits = 32
    if base.startswith("%"):
        kind = function.register_types[re.match(r"%([a-z]+)", base)[1]]
        bits = a.bits_of(kind)
    start, more = value(base, bits), value(offset or "0", bits)
    return lambda t: start(t) + more(t)
