"""Turns instructions of PTX into steps: functions that change the state of a block's threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from triton_on_host import arithmetic as a
from triton_on_host.expressions import comparison, expression
from triton_on_host.memory import DeviceMemory, Fault, Region, shared
from triton_on_host.operands import address, value
from triton_on_host.ptx import Function, Instruction, members, parse

Step = Callable[["Threads"], None]


class Threads:
    """Of one block, in lock step between its branches."""

    def __init__(
        self, block: int, blocks: int, count: int, smem: Region, memory: DeviceMemory, params: list
    ) -> None:
        self.block, self.count, self.memory, self.parameters = block, count, memory, params
        self.smem = smem
        self.registers: dict[str, Any] = {}
        index = np.arange(count, dtype=np.uint32)
        self.warps = (index // 32).astype(np.int64)
        self.epoch = block << 32  # of device memory too: no block's epoch is another's
        self.special = {
            "%tid.x": index, "%laneid": index % np.uint32(32), "%ctaid.x": np.uint32(block),
            "%nctaid.x": np.uint32(blocks), "%ntid.x": np.uint32(count),
        }  # fmt: skip

    def spread(self, x: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(x), (self.count,))


class Program:
    """A kernel ready to run."""

    def __init__(self, ptx: str) -> None:
        self.function = parse(ptx)
        self.blocks = [
            [(i, None if i.ends_block else step(i, self.function)) for i in block]
            for block in self.function.blocks
        ]

    def launch(
        self, blocks: int, threads: int, shared_bytes: int, params: list, memory: DeviceMemory
    ) -> None:
        for block in range(blocks):
            smem = shared(shared_bytes)
            self.run(Threads(block, blocks, threads, smem, memory, params))

    def run(self, threads: Threads) -> None:
        at = 0
        while at < len(self.blocks):
            target = at + 1
            for instruction, do in self.blocks[at]:
                try:
                    if do is not None:
                        do(threads)
                    elif uniform(threads, instruction):
                        if instruction.parts[0] == "ret":
                            return
                        target = self.function.labels[instruction.operands[0]]
                except Fault as fault:
                    raise Fault(f"{self.function.name}: {fault}, at `{instruction.text}`") from None
            at = target


def uniform(threads: Threads, instruction: Instruction) -> bool:
    """Whether all threads branch; a branch that only some take is not emulated."""
    taken = guard(instruction, threads)
    if taken is None or taken.all():
        return True
    if taken.any():
        raise Fault("threads of a block diverge")
    return False


def guard(instruction: Instruction, threads: Threads) -> np.ndarray | None:
    if instruction.guard is None:
        return None
    holds = np.asarray(threads.registers[instruction.guard], bool)
    return ~holds if instruction.negated else holds


def step(instruction: Instruction, function: Function) -> Step:
    name = instruction.parts[0]
    if name in ("bar", "barrier"):
        return barrier
    if name in ("ld", "st") and instruction.parts[1] in ("global", "shared"):
        return access(instruction, function)
    if name in ("ldmatrix", "stmatrix"):
        return matrix(instruction, function)
    if name == "mov" and instruction.operands[0].startswith("{"):
        return unpack(instruction)
    if name == "setp" and instruction.parts[-1].endswith("16x2"):
        return compare_pairs(instruction)
    result, target = expression(instruction), instruction.operands[0].partition("|")[0]

    def do(t: Threads) -> None:
        new, holds = result(t), guard(instruction, t)
        if holds is not None:
            new = np.where(holds, new, t.registers.get(target, np.zeros_like(new)))
        t.registers[target] = new

    return do


def barrier(threads: Threads) -> None:
    threads.epoch += 1


def access(instruction: Instruction, function: Function) -> Step:
    name, space = instruction.parts[:2]
    bits = a.bits_of(instruction.parts[-1])
    place, other = instruction.operands[::-1] if name == "ld" else instruction.operands
    where, names = address(place, function), members(other)
    values = [value(x, bits) for x in names]
    size = bits // 8

    def do(t: Threads) -> None:
        holds = guard(instruction, t)
        on = np.ones(t.count, bool) if holds is None else t.spread(holds)
        addresses, warps = t.spread(where(t))[on], t.warps[on]
        old = [t.spread(x(t)).astype(a.UNSIGNED[bits]) for x in values]
        if not on.any():
            if name == "ld":
                t.registers.update(zip(names, old, strict=True))
            return
        region = t.smem if space == "shared" else t.memory.find(addresses)
        if name == "st":
            moved = np.ascontiguousarray(np.stack([x[on] for x in old], 1)).view(np.uint8)
            region.store(addresses, moved, warps, t.epoch, t.block)
            return
        moved = region.load(addresses, size * len(names), warps, t.epoch, t.block)
        numbers = np.ascontiguousarray(moved).view(a.UNSIGNED[bits])
        for k, (register, x) in enumerate(zip(names, old, strict=True)):
            x[on] = numbers[:, k]
            t.registers[register] = x.astype(np.uint16) if bits == 8 else x

    return do


def matrix(instruction: Instruction, function: Function) -> Step:
    """ldmatrix and stmatrix without .trans: lane l of a warp moves 4 bytes of row l // 4, whose
    address is that of lane 8 j + l // 4."""
    if "trans" in instruction.parts:
        raise Fault(f"not emulated: {instruction.text}")
    load = instruction.parts[0] == "ldmatrix"
    place, other = instruction.operands[::-1] if load else instruction.operands
    where, names = address(place, function), members(other)
    values = [value(x, 32) for x in names]

    def do(t: Threads) -> None:
        rows, lane = t.spread(where(t)).astype(np.int64).reshape(-1, 32), np.arange(32)
        for j, (register, x) in enumerate(zip(names, values, strict=True)):
            start = rows[:, 8 * j + lane // 4]
            if (start % 16).any():
                raise Fault("misaligned row of a matrix in shared memory")
            addresses = (start + 4 * (lane % 4)).reshape(-1)
            if load:
                moved = t.smem.load(addresses, 4, t.warps, t.epoch, t.block)
                t.registers[register] = moved.view(np.uint32).reshape(-1)
            else:
                moved = np.ascontiguousarray(t.spread(x(t)).astype(np.uint32)).view(np.uint8)
                t.smem.store(addresses, moved.reshape(-1, 4), t.warps, t.epoch, t.block, True)

    return do


def compare_pairs(instruction: Instruction) -> Step:
    """Two halves a register, the lower one for the first predicate."""
    if instruction.guard is not None or len(instruction.operands) != 3:
        raise Fault(f"not emulated: {instruction.text}")
    names, compare = instruction.operands[0].split("|"), comparison(instruction.parts)
    x, y = (value(o, 32) for o in instruction.operands[1:])

    def do(t: Threads) -> None:
        for register, down in zip(names, (np.uint32(0), np.uint32(16)), strict=True):
            halves = (np.asarray(v(t), np.uint32) >> down for v in (x, y))
            t.registers[register] = compare(*(h.astype(np.uint16) for h in halves))

    return do


def unpack(instruction: Instruction) -> Step:
    bits = a.bits_of(instruction.parts[1])
    names, source = members(instruction.operands[0]), value(instruction.operands[1], bits)
    part = bits // len(names)

    def do(t: Threads) -> None:
        whole = np.asarray(source(t), a.UNSIGNED[bits])
        for k, name in enumerate(names):
            t.registers[name] = (whole >> whole.dtype.type(k * part)).astype(a.UNSIGNED[part])

    return do
