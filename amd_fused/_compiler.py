"""What torch.compile takes for a constant, said without importing the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_F = TypeVar("_F", bound=Callable[..., object])


def constant_result(function: _F) -> _F:
    """As ``torch.compiler.assume_constant_result``, which imports torch._dynamo: that takes longer
    than torch itself, and those who compile nothing need it not."""
    vars(function)["_dynamo_marked_constant"] = True
    return function
