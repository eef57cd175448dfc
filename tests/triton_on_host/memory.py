"""Memory of a block and of the device: bounds, alignment and races, byte by byte.

A barrier begins a new epoch. Within an epoch no two warps may touch one byte if one of them writes
it; only equal values may be written twice. No order is assumed between the blocks of a launch.
"""

from __future__ import annotations

import ctypes

import numpy as np

Array = np.ndarray
NOBODY, SEVERAL = -1, -2
POISON = 0xFF


class Fault(Exception):
    """What the kernel does is an error on a GPU, or unknown to the emulator."""


class Shadow:
    """Who read and wrote each byte last."""

    def __init__(self, size: int) -> None:
        self.write_epoch = np.full(size, -1, np.int64)
        self.write_warp = np.full(size, -1, np.int64)
        self.read_epoch = np.full(size, -1, np.int64)
        self.read_warps = np.zeros(size, np.uint64)

    def read(self, places: Array, warps: Array, epoch: int, where: str) -> None:
        if ((self.write_epoch[places] == epoch) & (self.write_warp[places] != warps)).any():
            raise Fault(f"race: a warp reads what another wrote since the last barrier, {where}")
        fresh = places[self.read_epoch[places] != epoch]
        self.read_warps[fresh] = 0
        self.read_epoch[places] = epoch
        np.bitwise_or.at(self.read_warps, places, np.uint64(1) << warps.astype(np.uint64))

    def write(
        self, places: Array, warps: Array, epoch: int, old: Array, new: Array, where: str
    ) -> None:
        others = self.read_warps[places] & ~(np.uint64(1) << warps.astype(np.uint64))
        if ((self.read_epoch[places] == epoch) & (others != 0)).any():
            raise Fault(f"race: a warp writes what another read since the last barrier, {where}")
        again = (self.write_epoch[places] == epoch) & (self.write_warp[places] != warps)
        if (again & (old != new)).any():
            raise Fault(f"race: two warps write different values without a barrier, {where}")
        self.write_epoch[places] = epoch
        self.write_warp[places] = warps


class Region:
    """Bytes from an address on."""

    def __init__(self, name: str, base: int, data: Array) -> None:
        self.name, self.base, self.data = name, base, data
        self.shadow = Shadow(len(data))
        self.writer = np.full(len(data), NOBODY, np.int64)
        self.reader = np.full(len(data), NOBODY, np.int64)

    def places(self, addresses: Array, width: int) -> Array:
        """Indices of the bytes of each thread's access, [threads, width]."""
        first = addresses.astype(np.int64) - self.base
        if (addresses.astype(np.int64) % width).any():
            raise Fault(f"misaligned access of {width} bytes in {self.name}")
        if (first < 0).any() or (first + width > len(self.data)).any():
            raise Fault(
                f"out of bounds: bytes {first.min()} to {first.max() + width} of the "
                f"{len(self.data)} of {self.name}"
            )
        return first[:, None] + np.arange(width)

    def load(self, addresses: Array, width: int, warps: Array, epoch: int, block: int) -> Array:
        places = self.places(addresses, width)
        writer = self.writer[places]
        if ((writer != NOBODY) & (writer != block)).any():
            raise Fault(f"race: a block reads what another wrote in this launch, {self.name}")
        reader = self.reader[places]
        known = (reader == NOBODY) | (reader == block)
        self.reader[places] = np.where(known, block, SEVERAL)
        by_byte = np.repeat(warps, width)
        self.shadow.read(places.reshape(-1), by_byte, epoch, self.name)
        return self.data[places]

    def store(
        self,
        addresses: Array,
        values: Array,
        warps: Array,
        epoch: int,
        block: int,
        matrix: bool = False,
    ) -> None:
        """`values` are bytes, [threads, width]. Triton's stmatrix stores unlike values at bytes
        that it does not read again: they are poisoned, so that a reader would get NaN."""
        width = values.shape[1]
        places = self.places(addresses, width)
        for kind, others in (("wrote", self.writer[places]), ("read", self.reader[places])):
            if ((others != NOBODY) & (others != block)).any():
                raise Fault(f"race: a block writes what another {kind} in this launch, {self.name}")
        flat, bytes_ = places.reshape(-1), values.reshape(-1)
        by_byte = np.repeat(warps, width)
        self.shadow.write(flat, by_byte, epoch, self.data[flat], bytes_, self.name)
        self.data[flat] = bytes_
        torn = self.data[flat] != bytes_
        if matrix:
            self.data[flat[torn]] = POISON
        elif torn.any():
            raise Fault(f"race: threads store different values at one address, {self.name}")
        self.writer[places] = block


class DeviceMemory:
    """The buffers that a launch was given; any other address is out of bounds."""

    def __init__(self) -> None:
        self.regions: list[Region] = []

    def add(self, name: str, address: int, size: int) -> None:
        if size == 0 or any(
            r.base <= address and address + size <= r.base + len(r.data) for r in self.regions
        ):
            return
        data = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self.regions.append(Region(name, address, data))

    def find(self, addresses: Array) -> Region:
        lowest = int(addresses.min())
        for region in self.regions:
            if region.base <= lowest < region.base + len(region.data):
                return region
        raise Fault(f"out of bounds: {lowest:#x} is in no buffer of the launch")


def shared(size: int) -> Region:
    """Of a block; NaN until written."""
    return Region("shared memory", 0, np.full(size, POISON, np.uint8))
