"""crd_loss's kernels, which read rows: the formula in float64, and the behaviour of operators."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from crd_oracle import inputs, oracle, run
from cuda_on_host import build
from measures import relative_error
from operator_checks import every_part, passes
from torch import Tensor

from amd_fused import backends, crd_loss, reference
from amd_fused.losses.crd import operator
from amd_fused.losses.crd import triton as crd_triton

FUSED = ["cpp", "triton", "cuda"]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)
of_cuda = pytest.mark.parametrize("backend", ["cuda"], indirect=True)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several a sample, and the last part short: Triton's interpreter is slow."""
    monkeypatch.setattr(crd_triton, "STRETCH", 32)


def check(backend: str, given: dict[str, Any]) -> None:
    dtype = reference.compute_dtype([given["student"], given["teacher"]])
    ours = run(backend, given)
    assert ours[0].dtype == dtype
    for value, truth in zip(ours, oracle(given), strict=True):
        rounding = torch.finfo(dtype).eps * 8
        if value.ndim:
            assert value.dtype == given["student"].dtype
            rounding += torch.finfo(value.dtype).eps / 2
        assert relative_error(value, truth) <= rounding


SIZES = {
    "rows of less than a vector": {},
    "whole vectors": {"width": 32, "negatives": 64},
    "a vector and some": {"width": 19, "negatives": 33},
    "one number, one negative": {"width": 1, "negatives": 1, "rows": 2},
    "wider than a warp holds": {"width": 530, "negatives": 40},
    "wider, whole vectors": {"width": 544, "negatives": 40},
    "one sample": {"batch": 1, "width": 16, "rows": 3, "negatives": 100},
}


@pytest.mark.parametrize("size", SIZES)
@every_backend
def test_is_the_formula_for_every_size(backend: str, size: str) -> None:
    check(backend, inputs(**SIZES[size]))


@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@every_backend
def test_is_the_formula_for_every_dtype(
    backend: str, dtype: torch.dtype, bank_dtype: torch.dtype
) -> None:
    check(backend, inputs(width=17, dtype=dtype, bank_dtype=bank_dtype))


@every_backend
def test_any_strides_and_integers_of_32_bits(backend: str) -> None:
    given = inputs()
    expected = run(backend, given)
    for name in ("student", "student_bank", "teacher_bank"):
        given[name] = given[name].T.contiguous().T
    given["samples"] = given["samples"].int().T.contiguous().T
    given["log_normalizers"] = given["log_normalizers"].repeat_interleave(2)[::2]
    torch.testing.assert_close(run(backend, given), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("backend", "negatives"), [("cpp", 5000), ("cuda", 600)], indirect=["backend"]
)
def test_candidates_of_several_stretches(
    backend: str, negatives: int, bank_dtype: torch.dtype
) -> None:
    check(backend, inputs(rows=500, width=16, negatives=negatives, bank_dtype=bank_dtype))


@pytest.mark.parametrize("width", [32, 288])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@of_cuda
def test_16_bytes_at_a_time_only_where_rows_begin_at_them(
    backend: str, dtype: torch.dtype, width: int
) -> None:
    """Otherwise running on the CPU fails; likewise where rows are wider than a warp holds."""
    given = inputs(width=width, dtype=dtype, bank_dtype=dtype)
    expected = run(backend, given)
    for first, more in ((1, 0), (0, 1), (0, 32)):
        for name in ("student_bank", "teacher_bank"):
            bank = given[name]
            apart = torch.full((len(bank), width + more), torch.nan, dtype=dtype)
            moved = torch.cat([torch.full((first,), torch.nan, dtype=dtype), apart.flatten()])
            moved = moved[first:].view(len(bank), -1)[:, :width].copy_(bank)
            given[name] = moved
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype != torch.bfloat16 else {}
        torch.testing.assert_close(run(backend, given), expected, **tolerance)


@pytest.mark.parametrize("width", [9, 300])
@of_cuda
def test_the_order_of_threads_and_blocks_changes_no_bit(
    backend: str, width: int, monkeypatch: pytest.MonkeyPatch, poisoned: None
) -> None:
    """What two threads write and read without a barrier between them would come out otherwise."""
    given = inputs(width=width, negatives=600)
    results = []
    build.launched()
    for order in ("forward", "reverse"):
        monkeypatch.setenv("AMD_FUSED_HOST_ORDER", order)
        results.append(run(backend, given))
        assert build.launched() == ["crd_fwd_kernel", "crd_sums_kernel"]
    assert all(map(torch.equal, *results))
    assert all(a.isfinite().all() for a in results[0])


@every_backend
def test_gradcheck_in_float64(backend: str) -> None:
    given = inputs(batch=2, negatives=5, dtype=torch.float64)
    leaves = tuple(given.pop(side).requires_grad_() for side in ("student", "teacher"))
    assert torch.autograd.gradcheck(
        lambda s, t: crd_loss(s, t, **given, temperature=0.3, backend=backend),
        leaves,
        fast_mode=True,
    )


@every_part(("backend",), product(FUSED))
def test_opcheck_passes(backend: str, part: str) -> None:
    function = getattr(torch.ops.amd_fused, f"crd_fwd_{backend}").default
    numbers = torch.tensor([0.2, 1e-7], dtype=torch.float64)
    for needs_grad in ([True, False], [True, True]):
        arguments = (*inputs().values(), numbers, needs_grad)
        assert passes(function, arguments, part)


@every_backend
def test_gradient_goes_to_whichever_side_requires_one(backend: str) -> None:
    given = inputs()
    _, *truth = run(backend, given)
    for name, expected in zip(("student", "teacher"), truth, strict=True):
        leaf = given[name].detach().requires_grad_()
        crd_loss(**(given | {name: leaf}), temperature=0.2, backend=backend).backward()
        assert torch.equal(leaf.grad, expected)  # type: ignore[arg-type]


def test_bitwise_equal_for_any_number_of_threads() -> None:
    before, given = torch.get_num_threads(), inputs(5, 3000, 40, 9000)
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run("cpp", given))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@every_backend
def test_nothing_uninitialised_is_read_and_banks_are_not_read_again(
    backend: str, poisoned: None
) -> None:
    given = inputs()
    leaf = given["student"].requires_grad_()
    loss = crd_loss(**given, backend=backend)
    assert loss.isfinite()
    given["teacher_bank"].fill_(torch.nan)
    loss.backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@every_backend
def test_no_temperature_overflows(backend: str) -> None:
    assert all(a.isfinite().all() for a in run(backend, inputs(), 1e-3))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@every_backend
def test_nan_and_inf_reach_the_loss(backend: str, bad: float) -> None:
    for side in ("student", "teacher"):
        given = inputs()
        given[side][1, 3] = bad
        assert not crd_loss(**given, backend=backend).isfinite()


def call(backend: str, given: dict[str, Any]) -> Tensor:
    """The operator, which a compiled graph calls without looking at the samples."""
    numbers = torch.tensor([0.2, 1e-7], dtype=torch.float64)
    function = getattr(torch.ops.amd_fused, f"crd_fwd_{backend}").default
    return function(*given.values(), numbers, [True, True])[0]


@pytest.mark.parametrize("bad", [-1, 40])
@every_backend
def test_a_row_that_is_not_there_is_an_error_or_nan(backend: str, bad: int) -> None:
    given = inputs()
    given["samples"][2, 7] = bad
    if backend == "cpp":
        with pytest.raises(RuntimeError, match=f"samples must be between 0 and 39, .* got {bad}"):
            call(backend, given)
    else:
        assert call(backend, given).isnan()


@pytest.mark.parametrize("bad", [-1, 40])
@of_cuda
def test_nor_is_a_samples_own_row_read_past_the_bank(backend: str, bad: int) -> None:
    given = inputs()
    given["samples"][2, 0] = bad
    assert call(backend, given).isnan()


def test_second_derivatives_are_refused_with_the_remedy() -> None:
    given = inputs()
    student = given["student"].requires_grad_()
    loss = crd_loss(**given, backend="cpp")
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'crd_loss: .* second derivatives; use backend="refer'):
        grad.sum().backward()


@pytest.mark.parametrize(("rows", "form"), [(255, operator.PRODUCTS), (256, "crd_fwd_cpp")])
def test_large_banks_are_read_by_rows(rows: int, form: str) -> None:
    """5 (1 + 50) rows are the most that are multiplied with."""
    if backends()["cpp"] != "usable":
        pytest.skip(backends()["cpp"])
    given = inputs(rows=rows)
    with torch.profiler.profile() as profile:
        value = crd_loss(**given)
    called = {event.key.removeprefix("amd_fused::") for event in profile.key_averages()}
    assert ("crd_fwd_cpp" in called) == (form == "crd_fwd_cpp")
    assert ("crd_fwd" in called) == (form == operator.PRODUCTS)
    assert math.isclose(value.item(), crd_loss(**given, backend="reference").item(), rel_tol=1e-5)
