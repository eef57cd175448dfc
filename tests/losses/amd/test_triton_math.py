"""The Triton kernels' compile-time series against mpmath, and the numbers of the host in them."""

from __future__ import annotations

import mpmath
import pytest
import torch
import triton
import triton.language as tl

from amd_fused.losses._common.triton import series
from amd_fused.losses.amd.triton.formulas import number
from amd_fused.losses.amd.triton.launches import passed

GRID = [mpmath.mpf(k) / 400 for k in range(1, 401)]
DIGITS = 30


def polynomial(coefficients: tuple[float, ...], x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.polyval([mpmath.mpf(c) for c in reversed(coefficients)], x)


@pytest.mark.parametrize(("name", "bound"), [("ATANH_32", 2e-10), ("ATANH_64", 3e-16)])
def test_atanh_series(name: str, bound: float) -> None:
    """log1p(e) = 2 atanh(w), w = e / (2 + e) in (0, 1/3]."""
    coefficients = getattr(series, name)
    with mpmath.workdps(DIGITS):
        for x in GRID:
            w = x / 3
            error = polynomial(coefficients, w * w) * w / mpmath.atanh(w) - 1
            assert abs(error) < bound


@pytest.mark.parametrize(("name", "bound"), [("ARCCOS_32", 1e-9), ("ARCCOS_64", 3e-16)])
def test_arccos_series(name: str, bound: float) -> None:
    """theta = arccos(1 - n) = sqrt(2 n) * series(2 n - 1) for n in (0, 1]."""
    coefficients = getattr(series, name)
    with mpmath.workdps(DIGITS):
        for n in GRID:
            theta = mpmath.sqrt(2 * n) * polynomial(coefficients, 2 * n - 1)
            assert abs(theta / mpmath.acos(1 - n) - 1) < bound


@triton.jit
def store_numbers(out, numbers, COUNT: tl.constexpr):
    for place in tl.static_range(COUNT):
        tl.store(out + place, number(numbers, place, out.dtype.element_ty))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_of_the_host_arrive_exactly(dtype: torch.dtype) -> None:
    """In float64 to the last bit, from the smallest number to the largest; rounded in float32."""
    limits = torch.finfo(dtype)
    subnormal = limits.smallest_normal * limits.eps
    numbers = (1.35, 1.0, 16.0, -1e-6, 0.1, -0.0, subnormal, limits.max, float("inf"))
    arrived = torch.empty(len(numbers), dtype=dtype)
    store_numbers[(1,)](arrived, passed(numbers, dtype == torch.float64), len(numbers))
    sent = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    bits = torch.int64 if dtype == torch.float64 else torch.int32
    assert torch.equal(arrived.view(bits), sent.view(bits))
