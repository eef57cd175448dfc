"""Rows in a folder of memory-mapped .npy files, which processes of one machine share.

    header.json     fingerprint, number of samples, and each file's dtype and shape
    logits.npy      and so on: a file an output, [N, ...], which numpy.load reads as it is
    filled.npy      [N], a byte a sample: 1 once the sample's rows are on the disk
    lock            held while the files are made

Why .npy and not safetensors: that library writes a file whole, from tensors in memory, and this one
is filled row by row by several processes for an epoch. A .npy file is 128 bytes and then the
numbers, so torch maps it without a dependency, and everybody's tools read it.

Why no lock is needed to fill: a row is written before its byte, the byte is a write of its own, and
two processes that compute the same row write the same numbers. What a killed process leaves is rows
without their byte, which are computed again. Files are as long as they will ever be from the start,
in blocks that the file system has promised, so a full disk is an error when they are made and never
a SIGBUS later. A folder without header.json is no cache, whatever lies there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amd_fused._files import write_atomically
from amd_fused.teacher_cache.rows import Rows

OWNER = "TeacherCache"
HEADER, FILLED, LOCK = "header.json", "filled", "lock"
# Bytes written until they are flushed and told to others: what a kill loses at most.
FLUSH_BYTES = 64 << 20
_ORDER = "<" if sys.byteorder == "little" else ">"
_DESCRIPTIONS = {
    torch.float32: f"{_ORDER}f4",
    torch.float16: f"{_ORDER}f2",
    torch.uint8: "|u1",
}
_ZEROS = bytes(1 << 20)


def read_header(folder: Path) -> dict[str, Any] | None:
    """header.json; None where there is no cache yet.

    Raises:
        ValueError: it is no header of a cache.
    """
    file = folder / HEADER
    try:
        header = json.loads(file.read_text())
        header["fingerprint"].items(), header["shapes"].items(), int(header["size"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{OWNER}: {file} must be a cache's header, got {reason}") from None
    return dict(header)


def create(
    folder: Path,
    fingerprint: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    size: int,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Files for all samples, none of them filled, and the header last; returns the header.

    Where another process has been faster, its header.

    Raises:
        OSError: the folder cannot be made or written into, or the disk has too little room. Nothing
            is left of what was begun.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        header = read_header(folder)
        if header is not None:
            return header
        kinds = {name: (dtype, (size, *shape)) for name, shape in shapes.items()}
        kinds[FILLED] = torch.uint8, (size,)
        try:
            for name, kind in kinds.items():
                _make(folder / f"{name}.npy", *kind)
        except OSError as error:
            for name in kinds:
                (folder / f"{name}.npy").unlink(missing_ok=True)
            needed = sum(_bytes(*kind) for kind in kinds.values())
            raise OSError(
                error.errno,
                f"{OWNER}: folder must have room for {needed:,} bytes, got "
                f"{shutil.disk_usage(folder).free:,} free ({error.strerror}); name another folder, "
                "or dtype=torch.float16, which halves it",
                str(folder),
            ) from None
        header = {
            "fingerprint": dict(fingerprint),
            "size": size,
            "shapes": {name: list(shape) for name, shape in shapes.items()},
        }
        text = json.dumps(header, indent=2) + "\n"
        write_atomically(folder / HEADER, lambda part: part.write_text(text))
        return header


class FileRows(Rows):
    """Those of a folder that :func:`create` made; what others fill is found here too.

    Raises:
        ValueError: a file is missing, cut short or of another kind than its header says.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], dtype: torch.dtype) -> None:
        self._folder, size = folder, int(header["size"])
        shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
        tensors = {
            name: _map(folder / f"{name}.npy", dtype, (size, *shape))
            for name, shape in shapes.items()
        }
        # Of all processes; what this one knows, its own unflushed rows too, is `_filled`.
        self._published = _map(folder / f"{FILLED}.npy", torch.uint8, (size,))
        super().__init__(tensors, self._published != 0)
        self._pending: list[Tensor] = []
        self._row_bytes = sum(a[0].numel() * a.element_size() for a in tensors.values())

    def has(self, rows: Tensor) -> bool:
        if not super().has(rows):
            self._filled[rows] |= self._published[rows] != 0
        return super().has(rows)

    def missing(self) -> int:
        self._filled |= self._published != 0
        return super().missing()

    def flush(self) -> None:
        if not self._pending:
            return
        # Rows first: a byte that says more than is on the disk would outlive a loss of power.
        for name in self.tensors:
            _sync(self._folder / f"{name}.npy")
        self._published[torch.cat(self._pending)] = 1
        self._pending = []
        _sync(self._folder / f"{FILLED}.npy")

    def _fill(self, rows: Tensor) -> None:
        super()._fill(rows)
        self._pending.append(rows)
        if sum(map(len, self._pending)) * self._row_bytes >= FLUSH_BYTES:
            self.flush()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time. A killed one's lock is the system's to take away."""
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _npy_header(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """Magic, version 1.0, and a dictionary padded so that the numbers begin at a multiple of 64.

    Source: NEP 1, "A Simple File Format for NumPy Arrays".
    """
    about = {"descr": _DESCRIPTIONS[dtype], "fortran_order": False, "shape": shape}
    text = f"{about}"
    length = -(-(10 + len(text) + 1) // 64) * 64 - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{text:<{length - 1}}\n".encode()


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return len(_npy_header(dtype, shape)) + torch.Size(shape).numel() * dtype.itemsize


def _make(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    size = _bytes(dtype, shape)
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, len(_ZEROS)):
                file.write(_ZEROS[: size - start])
            file.seek(0)
        file.write(_npy_header(dtype, shape))
        file.flush()
        os.fsync(file.fileno())


def _map(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    size, begin = _bytes(dtype, shape), _npy_header(dtype, shape)
    try:
        with path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size == size and file.read(len(begin)) == begin
    except OSError as error:
        raise ValueError(f"{OWNER}: {path} cannot be read ({error.strerror})") from None
    if not whole:
        raise ValueError(
            f"{OWNER}: {path} must be {size:,} bytes of {dtype} {list(shape)}, but is not; delete "
            f"{path.parent}"
        )
    mapped = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
    return mapped[len(begin) :].view(dtype).view(shape)


def _sync(path: Path) -> None:
    """What was written to a mapping of a file, to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
