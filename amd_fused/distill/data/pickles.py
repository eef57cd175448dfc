"""Reads the pickles that CIFAR is published as, without running what a pickle may hold.

A pickle can call any function. Only those that arrays of numbers and byte strings are made of are
allowed, and none that would take bytes for the addresses of objects.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amd_fused.distill.errors import UsageError


def load_pickle(path: Path, published: str) -> dict[bytes, Any]:
    """The dictionary in a file that Python 2 or 3 wrote; its keys are bytes.

    Raises:
        UsageError: the file is missing, cut short, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
    # What a broken pickle raises is open-ended.
    except Exception as error:
        raise UsageError(
            f"{path} cannot be read ({error}); it may be cut short: get {published} again"
        ) from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a dictionary as in {published}")
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


def _dtype(kind: Any, *_: Any) -> np.dtype[Any]:
    """One of numpy's own objects: a copy would let the pickle set its flags."""
    found = np.dtype(kind)
    if found.kind not in "biuf" or found.isbuiltin != 1:
        raise pickle.UnpicklingError(f"arrays of {found} do not belong into a data set")
    return found


def _empty(*_: Any) -> NDArray[np.uint8]:
    """What the pickle's next instruction gives its shape, type and content."""
    return np.empty(0, np.uint8)


# numpy's own function, which has moved between its versions: an array says which it is.
_FROM_BUFFER: Callable[..., Any] = _empty().__reduce_ex__(5)[0]  # type: ignore[assignment]
_ALLOWED: dict[tuple[str, str], Callable[..., Any] | None] = {
    # An argument of _reconstruct, never called: it would make objects of a buffer.
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    # How Python 3 writes bytes for Python 2.
    ("_codecs", "encode"): codecs.encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a data set")
        return _ALLOWED[module, name]
