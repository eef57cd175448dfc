"""Functions whose results torch.compile takes for constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def constant_in_graphs(function: F) -> F:
    """What torch.compiler.assume_constant_result does, without its import of the whole compiler.

    That would double what `import amd_fused` takes. The compiler looks for the mark when it meets
    the function.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
