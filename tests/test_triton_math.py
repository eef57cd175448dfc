"""The compile-time series of the Triton kernels against mpmath."""

from __future__ import annotations

import mpmath
import pytest

from amd_fused.kernels import amd_series

GRID = [mpmath.mpf(k) / 400 for k in range(1, 401)]
DIGITS = 30


def polynomial(coefficients: tuple[float, ...], x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.polyval([mpmath.mpf(c) for c in reversed(coefficients)], x)


@pytest.mark.parametrize(("name", "bound"), [("ATANH_32", 2e-10), ("ATANH_64", 3e-16)])
def test_atanh_series(name: str, bound: float) -> None:
    """log1p(e) = 2 atanh(w), w = e / (2 + e) in (0, 1/3]."""
    coefficients = getattr(amd_series, name)
    with mpmath.workdps(DIGITS):
        for x in GRID:
            w = x / 3
            error = polynomial(coefficients, w * w) * w / mpmath.atanh(w) - 1
            assert abs(error) < bound


@pytest.mark.parametrize(("name", "bound"), [("ARCCOS_32", 1e-9), ("ARCCOS_64", 3e-16)])
def test_arccos_series(name: str, bound: float) -> None:
    """theta = arccos(1 - n) = sqrt(2 n) * series(2 n - 1) for n in (0, 1]."""
    coefficients = getattr(amd_series, name)
    with mpmath.workdps(DIGITS):
        for n in GRID:
            theta = mpmath.sqrt(2 * n) * polynomial(coefficients, 2 * n - 1)
            assert abs(theta / mpmath.acos(1 - n) - 1) < bound
