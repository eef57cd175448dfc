"""SP's C++ kernels give what the formulas do, for sizes that fill no block and any threads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from measures import run
from torch import Tensor

from amd_fused import backends, reference, sp_loss

pytestmark = pytest.mark.skipif(backends()["cpp"] != "usable", reason=backends()["cpp"])
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Below and above a block of 4 or 8 rows, a panel of 32, two panels, the 256 rows of a group; a
# vector, a span of 1024 columns, several.
SIZES = [(1, 1), (2, 15), (5, 17), (33, 1025), (70, 40), (8, 5000), (270, 3)]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "window": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
}


def rows(size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size[0])).to(dtype)


def close(found: Tensor, exact: Tensor, sizes: Tensor) -> None:
    """To rounding of sums whose terms' sizes add up to ``sizes``, and of the result's dtype."""
    eps = torch.finfo(torch.float64 if exact.dtype == found.dtype else torch.float32).eps
    limit = 32 * eps * sizes + torch.finfo(found.dtype).eps * exact.abs() + 1e-7 * (eps > 1e-10)
    assert ((found.double() - exact).abs() <= limit).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_inner_products_and_mixtures_of_rows(dtype: torch.dtype, layout: str) -> None:
    for size in SIZES:
        x = LAYOUTS[layout](rows(size, dtype))
        wide, double = x.double(), dtype == torch.float64
        gram = torch.ops.amd_fused.sp_gram_cpp(x, double)
        assert gram.dtype == (torch.float64 if double else torch.float32)
        close(gram, wide @ wide.T, wide.abs() @ wide.abs().T)
        assert torch.equal(gram, gram.T)

        factors = torch.randn(size[0], size[0], dtype=gram.dtype)
        out = torch.full_like(x, torch.nan)
        torch.ops.amd_fused.sp_mix_cpp(factors, x, out)
        close(out, factors.double() @ wide, factors.double().abs() @ wide.abs())


def test_bitwise_the_same_for_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    for size, dtype in product([(5, 9000), (70, 3000), (270, 40)], (torch.float32, torch.float16)):
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            result = run(sp_loss, rows(size, dtype), rows((size[0], 77), dtype))
            found.append([result.loss, *result.grads])
        torch.set_num_threads(before)
        for other in found[1:]:
            assert all(map(torch.equal, other, found[0]))


@pytest.mark.parametrize("norm_p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e8])
def test_norms_below_their_floor_and_powers_beyond_float32(norm_p: float, scale: float) -> None:
    """Rows of a Gram matrix count as at least 1e-12 long; at a scale of 1e8 its numbers' powers are
    1e51."""
    student, teacher = scale * rows((6, 40), torch.float32), rows((6, 30), torch.float32)
    student[2] = 0
    found = run(sp_loss, student, teacher, norm_p=norm_p)
    exact = run(reference.sp_loss, student.double(), teacher.double(), norm_p=norm_p)
    torch.testing.assert_close(found.loss.double(), exact.loss, rtol=1e-5, atol=0)
    for mine, truth in zip(found.grads, exact.grads, strict=True):
        atol = 2e-5 * float(truth.abs().max())
        torch.testing.assert_close(mine.double(), truth, rtol=0, atol=atol)


def test_a_tensor_may_be_both_sides_of_a_second_derivative() -> None:
    leaf = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: sp_loss(x, x.flip(0)), leaf)
    assert torch.autograd.gradgradcheck(lambda x: sp_loss(x, x), leaf)


def test_opcheck_passes() -> None:
    grams = [rows((4, 4), torch.float32) for _ in range(2)]
    operator = torch.ops.amd_fused.sp_distance_cpp.default
    for needs_grad in ([True, True], [True, False], [False, False]):
        found = torch.library.opcheck(operator, (*grams, 2.0, needs_grad))
        assert set(found.values()) == {"SUCCESS"}
