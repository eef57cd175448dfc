"""Reads the pickles that CIFAR is published as, without running what a pickle may hold.

A pickle can call any function. Only those that arrays and byte strings are made of are allowed.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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


def _dtype(kind: Any, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    # Pickles give 0 and 1, which numpy 2.4 warns of.
    return np.dtype(kind, bool(align), bool(copy))


_ARRAY = np.empty(1, np.uint8)
# numpy's own functions, which have moved between its versions: an array says which they are.
_RECONSTRUCT: Callable[..., Any] = _ARRAY.__reduce__()[0]  # type: ignore[assignment]
_FROM_BUFFER: Callable[..., Any] = _ARRAY.__reduce_ex__(5)[0]  # type: ignore[assignment]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
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
