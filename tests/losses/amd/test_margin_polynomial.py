"""cos(m arccos(1 - n)) as a polynomial is accurate in value and slope, or is not used at all."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from amd_fused import amd_loss, backends
from amd_fused.losses.amd.margin import margin_polynomial

mp.dps = 30
DTYPES = [np.float32, np.float64]
needs_cpp = pytest.mark.skipif(
    backends()["cpp"] != "usable", reason=f"backend cpp is {backends()['cpp']}"
)
# The paper's range, finely, with its own 1.35, the integers (where the series ends) and what is
# next to them; below 1; above, as far as there are polynomials.
TENTHS = [float(m) for m in np.linspace(1, 4, 31)]
PAPER = [
    *TENTHS[::2], 1.35, 1 + 1e-9, 2 - 1e-6, 3.141592653589793,
    *(pytest.param(m, marks=pytest.mark.exhaustive) for m in TENTHS[1::2]),
]  # fmt: skip
BELOW = [1e-6, 0.05, 0.1, 0.25, 0.5, 0.75, 0.99]
ABOVE = [4.2, 4.5, 4.9, 5.0, 5.3, 5.5, 5.6, 5.7, 5.8]
# Dense at both ends, where theta is 0 and pi/2; all are exact in float32 as well.
GAPS = np.unique(
    np.float32([0, 1e-30, 1e-12, 1e-7, 1e-5, 1e-3, *np.linspace(0.01, 1, 28), 1 - 1e-3, 1 - 1e-6])
)


@cache
def exact(margin: float) -> list[tuple[mpf, mpf]]:
    """cos(m theta) and its derivative by q, m sin(m theta) / sin(theta), at q = 1 - n."""
    m, pairs = mpf(margin), []
    with mp.workdps(50):
        for n in map(float, GAPS):
            theta = mp.acos(1 - mpf(n))
            slope = m * mp.sin(m * theta) / mp.sin(theta) if n else m * m
            pairs.append((mp.cos(m * theta), slope))
    return pairs


def errors(margin: float, value, slope) -> tuple[float, float]:
    """Largest errors over GAPS; that of the slope in units of max(1, m^2), its own size."""
    wanted = exact(margin)
    of_value = max(abs(mpf(float(x)) - v) for x, (v, _) in zip(value, wanted, strict=True))
    of_slope = max(abs(mpf(float(x)) - s) for x, (_, s) in zip(slope, wanted, strict=True))
    return float(of_value), float(of_slope) / max(1.0, margin**2)


def horner(coefficients: list[float], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Value and slope as the kernels get them: in one run, in v = 2 n - 1, in their precision."""
    c = np.array(coefficients, dtype=dtype)
    n = GAPS.astype(dtype)
    v = n + n - dtype(1)
    value, slope = np.full_like(n, c[-1]), np.zeros_like(n)
    for x in c[-2::-1]:
        slope = slope * v + value
        value = value * v + x
    assert value.dtype == slope.dtype == dtype
    return value, slope * dtype(-2)


def rounding(coefficients: list[float], dtype: type) -> float:
    """What rounding may do to the sum: half an ulp of 1, and as much of each term."""
    return float(np.finfo(dtype).eps) * (0.5 + sum(map(abs, coefficients)) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margin", PAPER + BELOW + ABOVE)
def test_is_exact_to_rounding_in_the_kernels_arithmetic(margin, dtype):
    coefficients = margin_polynomial(margin, dtype is np.float64)
    if coefficients is None:
        assert margin > 5.5
        return
    of_value, of_slope = errors(margin, *horner(coefficients, dtype))
    assert of_value <= rounding(coefficients, dtype) * 1.5
    assert of_slope <= 3 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margin", PAPER)
def test_costs_the_paper_s_margins_at_most_a_few_ulps(margin, dtype):
    coefficients = margin_polynomial(margin, dtype is np.float64)
    assert coefficients is not None
    of_value, of_slope = errors(margin, *horner(coefficients, dtype))
    eps = np.finfo(dtype).eps
    assert of_value <= (1 if margin < 1.5 else 4) * eps
    assert of_slope <= 2 * eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margin", PAPER + BELOW)
def test_leaves_out_nothing_that_counts_before_rounding(margin, dtype):
    """The coefficients in exact arithmetic: what the degree leaves out, and their own rounding."""
    coefficients = margin_polynomial(margin, dtype is np.float64)
    assert coefficients is not None
    value, slope = [], []
    for n in map(float, GAPS):
        of_value, by_v = mp.polyval([mpf(c) for c in reversed(coefficients)], 2 * mpf(n) - 1, True)
        value.append(of_value)
        slope.append(-2 * by_v)
    differences = [
        (abs(v - wanted_v), abs(s - wanted_s))
        for v, s, (wanted_v, wanted_s) in zip(value, slope, exact(margin), strict=True)
    ]
    eps = float(np.finfo(dtype).eps)
    # The coefficients come in double precision.
    stored = 2.0**-53 * sum(map(abs, coefficients))
    assert max(v for v, _ in differences) <= eps / 8 + stored
    assert max(s for _, s in differences) <= eps * max(1.0, margin**2)


@pytest.mark.parametrize("double", [False, True])
def test_exists_up_to_the_margins_that_need_the_direct_form(double):
    for margin in (5e-324, 1e-6, 0.05, 1, 1.35, 4, 5, 5.5):
        assert margin_polynomial(margin, double) is not None
    for margin in (7.5, 9.3, 15.99, 16.0, 16.01, 25, 40, 1e6, 1e308):
        assert margin_polynomial(margin, double) is None


def test_is_short():
    for margin in np.linspace(0.01, 17, 40):
        for double, most in ((False, 12), (True, 24)):
            coefficients = margin_polynomial(float(margin), double)
            assert coefficients is None or 1 <= len(coefficients) <= most
    # Integers: Chebyshev polynomials of that degree in q.
    for margin in (1, 2, 3, 4, 5):
        coefficients = margin_polynomial(margin, True)
        assert coefficients is not None
        assert len(coefficients) == margin + 1


def test_by_hand_margins_1_and_2():
    # v = 2 n - 1 = 1 - 2 q: q = (1 - v) / 2, and 2 q^2 - 1 = (v^2 - 2 v - 1) / 2.
    assert margin_polynomial(1, True) == pytest.approx([0.5, -0.5], abs=1e-16)
    assert margin_polynomial(2.0, True) == pytest.approx([-0.5, -1.0, 0.5], abs=1e-16)


def test_takes_an_int_as_its_float():
    assert margin_polynomial(3, False) == margin_polynomial(3.0, False)


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """With q near 1 and rows where q = 0."""
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(3, 3, 5, 6, generator=g), torch.randn(3, 5, 5, 6, generator=g)
    student[1, :, 2, 3] *= 10
    teacher[0, :, 4, 1] *= 9
    student[2, :, 1] = 0
    return student, teacher


TERMS = {
    "all": {},
    "g": {"component_weights": (1.0, 0.0, 0.0)},
    "t": {"component_weights": (0.0, 1.0, 0.0), "formula": "released"},
}
# Polynomial and direct form, and where one gives way to the other, with margins far from any use.
OVER_ALL = [0.05, 0.2, 0.5, 1, 1.35, 2, 3.7, 5.2, 5.5, 5.7, 5.9, 6, 9.3, 15.9, 16.1, 25, 40]


@needs_cpp
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("margin", OVER_ALL)
def test_loss_and_gradient_are_right_whichever_form_is_taken(margin, terms, dtype):
    results = []
    for backend, of in (("cpp", dtype), ("reference", torch.float64)):
        student, teacher = (a.to(of, copy=True).requires_grad_() for a in features())
        loss = amd_loss(student, teacher, margin=margin, backend=backend, **terms)
        loss.backward()
        results.append((loss.item(), student.grad.double(), teacher.grad.double()))
    (loss, *gradients), (wanted, *wanted_gradients) = results
    # An error of q by eps turns t by up to m^2 eps; and t = 1 - O(m^2) says little for a small m.
    tolerance = 16 * torch.finfo(dtype).eps * (margin**2 + 1 / margin**2)
    assert loss == pytest.approx(wanted, rel=tolerance)
    for gradient, right in zip(gradients, wanted_gradients, strict=True):
        assert (gradient - right).abs().max() <= tolerance * right.abs().max()
