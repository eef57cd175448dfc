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


@triton.jit
def operators_kernel(source, other, target, rows: tl.constexpr, columns: tl.constexpr):
    row, column = tl.arange(0, rows)[:, None], tl.arange(0, columns)[None, :]
    at, size = row * columns + column, rows * columns
    x, y = tl.load(source + at), tl.load(other + row)
    inside = (row > 0) & (column < columns - 1) | (row == 2)
    tl.store(target + at, x + y)
    tl.store(target + size + at, 2 - x)
    tl.store(target + 2 * size + at, x * 3 - y * x)
    tl.store(target + 3 * size + at, tl.where(inside, x, y))
    tl.store(target + 4 * size + at, tl.where((x <= y) | (y >= 1), 1, x))
    tl.store(target + 5 * size + at, tl.where((x != y) & (y < x), x, 0))
    if x.dtype.is_floating():
        tl.store(target + 6 * size + at, x / y + 1 / x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64], ids=str)
def test_operators_are_torchs_whether_their_types_are_new_or_known(dtype: torch.dtype) -> None:
    rows, columns = 4, 8
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    inside = (row > 0) & (column < columns - 1) | (row == 2)
    for _ in range(2):
        x, y = ((5 * torch.randn(rows, n)).to(dtype) for n in (columns, 1))
        expected = [
            x + y,
            2 - x,
            x * 3 - y * x,
            torch.where(inside, x, y),
            torch.where((x <= y) | (y >= 1), 1, x),
            torch.where((x != y) & (y < x), x, 0),
            *([x / y + 1 / x] if dtype.is_floating_point else []),
        ]
        target = torch.empty(len(expected), rows, columns, dtype=dtype)
        operators_kernel[(1,)](x, y, target, rows=rows, columns=columns)
        assert torch.equal(target, torch.stack(expected))


@triton.jit
def offset_kernel(source, target, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(target + at, tl.load(source + 1 + at + (size - 1 - 2 * at)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_pointers_are_moved_by_elements(dtype: torch.dtype) -> None:
    for _ in range(2):
        source, target = torch.randn(9).to(dtype), torch.empty(8, dtype=dtype)
        offset_kernel[(1,)](source, target, size=8)
        assert torch.equal(target, source[1:].flip(0))
