"""What a module returned: the tensor in it that a path names, or words for what was there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Indices, keys and names of fields, from the outermost.
Entry = tuple[int | str, ...]


def pick(output: Any, entry: Entry) -> Any:
    """``output[0]["maps"].field`` for the entry (0, "maps", "field"): a tensor, or else a string
    that says what was found."""
    for key in entry:
        if isinstance(output, Mapping) and key in output:
            output = output[key]
        elif isinstance(output, (tuple, list)) and isinstance(key, int):
            if not -len(output) <= key < len(output):
                return f"no [{key}] in a {describe(output)}"
            output = output[key]
        elif isinstance(key, str) and _has_field(output, key):
            output = getattr(output, key)
        else:
            return f"no [{key}] in a {describe(output)}"
    return output if isinstance(output, Tensor) else describe(output)


def describe(output: Any) -> str:
    """The kind of an output and, outside of compiled code, what it holds."""
    kind = type(output).__name__
    if torch.compiler.is_compiling():
        return kind
    if isinstance(output, Mapping):
        return f"{kind} with the keys {list(output)}"
    if dataclasses.is_dataclass(output):
        return f"{kind} with the fields {[field.name for field in dataclasses.fields(output)]}"
    if isinstance(output, (tuple, list)):
        return f"{kind} of {len(output)} ({', '.join(type(part).__name__ for part in output)})"
    return kind


def _has_field(output: Any, name: str) -> bool:
    # Not hasattr: a tensor has methods, which are not what a path means.
    if dataclasses.is_dataclass(output):
        return name in [field.name for field in dataclasses.fields(output)]
    return isinstance(output, tuple) and name in getattr(output, "_fields", ())
