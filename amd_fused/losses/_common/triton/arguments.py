"""What kernels make of the numbers that a launch gives them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scalar(value, dtype: tl.constexpr):
    """A number of the host, which may be a compile-time constant or Python's own, as a dtype."""
    return tl.full([], value, dtype)


@triton.jit
def aligned(n, ALIGN: tl.constexpr):
    """n, which the launcher knows to be a multiple of ALIGN: now the compiler knows it too."""
    return (n // ALIGN) * ALIGN
