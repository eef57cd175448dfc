"""The angle, the margin and the cosine as one polynomial: cos(m arccos(1 - n)) for n in [0, 1].

derived: the function is analytic in n on the whole interval, so a short Chebyshev fit reaches
rounding error, and its coefficients depend on the margin alone (test_margin_polynomial.py
checks value and slope against mpmath). The powers are of v = 2 n - 1, not of n: centred, the
coefficients stay small and little is lost in the sum (margin 4: absolute sum 6 instead of 97).
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import lru_cache

from amd_fused._compiler import constant_result

# Rounding error of the sum is about eps times the sum of absolute coefficients. Past this bound the
# direct form (trigonometric functions) is the more accurate one: margins above about 5.
_MAX_ABSOLUTE_SUM = 16.0
# Terms of the power series in u = n / 2 <= 1/2: what is left out is below 2**-96.
_TERMS = 96


@constant_result
def margin_polynomial(margin: float, double: bool) -> list[float] | None:
    """Coefficients c with ``cos(margin * arccos(1 - n)) = sum_k c[k] * (2 n - 1)**k`` on [0, 1].

    Args:
        margin: m of Eq. 6, positive and finite.
        double: accurate to float64's rounding; otherwise to float32's.

    Returns:
        The coefficients, lowest power first; None where a polynomial would lose accuracy (large
        margins), and then the caller must use the direct form.
    """
    return list(_fit(float(margin), double)) or None


@lru_cache(maxsize=64)
def _fit(margin: float, double: bool) -> tuple[float, ...]:
    if (
        margin > _MAX_ABSOLUTE_SUM
    ):  # the sum below grows faster than m, and the series needs m small
        return ()
    with localcontext() as context:
        context.prec = 60
        chebyshev = _chebyshev_coefficients(Decimal(margin))
        degree = _degree(chebyshev, margin, 2.0**-52 if double else 2.0**-23)
        powers = [float(c) for c in _to_powers(chebyshev[: degree + 1])]
    return tuple(powers) if sum(map(abs, powers)) <= _MAX_ABSOLUTE_SUM else ()


def _chebyshev_coefficients(m: Decimal) -> list[Decimal]:
    """Coefficients b of ``sum_k b_k T_k(v)``, from the power series in u = n / 2 = (1 + v) / 4.

    ``cos(m arccos(1 - 2u)) = sum_k c_k u^k``, ``c_{k+1} = c_k (k-m)(k+m) / ((k+1/2)(k+1))``, summed
    by Horner's rule in Chebyshev form: v T_k = (T_{k+1} + T_{|k-1|}) / 2.
    """
    series = [Decimal(1)]
    for k in range(_TERMS - 1):
        series.append(series[-1] * (k - m) * (k + m) / ((k + Decimal("0.5")) * (k + 1)))
    b = [Decimal(0)] * (_TERMS + 1)
    for c in reversed(series):
        times_v = [Decimal(0)] * (_TERMS + 1)
        for k in range(_TERMS):
            times_v[k + 1] += b[k] / 2
            times_v[abs(k - 1)] += b[k] / 2
        b = [(x + y) / 4 for x, y in zip(b, times_v, strict=True)]
        b[0] += c
    return b[:_TERMS]


def _degree(chebyshev: list[Decimal], margin: float, eps: float) -> int:
    """The lowest degree whose neglected terms are below rounding, in value and in slope.

    |T_k| <= 1 and |dT_k/dn| <= 2 k^2; the slope is measured against its size, margin^2.
    """
    value_tail = slope_tail = 0.0
    for k in range(len(chebyshev) - 1, 0, -1):
        value_tail += abs(float(chebyshev[k]))
        slope_tail += 2 * k * k * abs(float(chebyshev[k]))
        if value_tail > eps / 8 or slope_tail > eps * max(1.0, margin * margin):
            return k
    return 0


def _to_powers(chebyshev: list[Decimal]) -> list[Decimal]:
    """sum_k b_k T_k(v) as sum_k c_k v^k, by T_{k+1} = 2 v T_k - T_{k-1}."""
    size = len(chebyshev)
    powers = [Decimal(0)] * size
    previous, current = [0] * size, [1] + [0] * (size - 1)
    for k, b in enumerate(chebyshev):
        powers = [p + b * t for p, t in zip(powers, current, strict=True)]
        shifted = [0, *current[:-1]]
        factor = 1 if k == 0 else 2
        following = [factor * s - p for s, p in zip(shifted, previous, strict=True)]
        previous, current = current, following
    return powers
