"""The interpreter that Triton's kernels run in here: a device's bfloat16, sums in its own order."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

import triton
from triton import language as tl

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="Triton's kernels run on the GPU"
)


@triton.jit
def cast_kernel(source, target, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(target + at, tl.load(source + at).to(target.dtype.element_ty))


def cast(source: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    target = torch.empty_like(source, dtype=dtype)
    cast_kernel[(1,)](source, target, size=source.numel())
    return target


# All that there are: subnormal ones, both zeros, infinities.
EVERY = torch.arange(1 << 16).to(torch.int32).to(torch.uint16).view(torch.bfloat16)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, of signalling NaN
@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
def test_every_bfloat16_is_what_it_is_when_wider_and_comes_back(wide: torch.dtype) -> None:
    widened = cast(EVERY, wide)
    torch.testing.assert_close(widened, EVERY.to(wide), rtol=0, atol=0, equal_nan=True)
    back = cast(widened, torch.bfloat16)
    torch.testing.assert_close(back, EVERY, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
def test_what_lies_between_is_rounded_to_the_nearest_and_halfway_to_even(
    wide: torch.dtype,
) -> None:
    finite = EVERY[EVERY.isfinite()].to(wide)
    above = torch.cat([finite[1 : 1 << 14], -finite[1 : 1 << 14]]) * (1 + 2.0**-9)
    halfway = (finite[: 1 << 14] + finite[1 : (1 << 14) + 1]) / 2
    largest = torch.tensor([torch.finfo(torch.float32).max], dtype=wide)  # past bfloat16's
    given = torch.cat([above, halfway, largest])
    padded = torch.nn.functional.pad(given, (0, (1 << 16) - len(given)))
    assert torch.equal(cast(padded, torch.bfloat16), padded.to(torch.bfloat16))


@triton.jit
def _add(a, b, to_a, to_b):
    return a + to_a, b + to_b


@triton.jit
def two_sums_kernel(source, target, rows: tl.constexpr, columns: tl.constexpr):
    column = tl.arange(0, columns)
    a = tl.load(source + tl.arange(0, rows)[:, None] * columns + column[None, :])
    first, second = tl.reduce((a, 2 * a), 0, _add)
    tl.store(target + column, first)
    tl.store(target + columns + column, second)


def test_a_reduction_by_a_kernels_own_function_goes_row_by_row() -> None:
    source, target = torch.randn(64, 4), torch.empty(2, 4)
    two_sums_kernel[(1,)](source, target, rows=64, columns=4)
    total = source[0]
    for row in source[1:]:
        total = total + row
    assert torch.equal(target, torch.stack([total, 2 * total]))
