"""crd_loss's kernels, which read rows: the formula in float64, and the behaviour of operators."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import trained_oracle
from measures import relative_error
from torch import Tensor

from amd_fused import backends, crd_loss, reference
from amd_fused.losses.crd import operator
from amd_fused.losses.crd import triton as crd_triton

FUSED = ["cpp", "triton"]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several a sample, and the last part short: Triton's interpreter is slow."""
    monkeypatch.setattr(crd_triton, "STRETCH", 32)


def given(
    batch: int = 3,
    rows: int = 40,
    width: int = 9,
    negatives: int = 50,
    dtype: torch.dtype = torch.float32,
    bank_dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)

    def unit(count: int) -> Tensor:
        drawn = torch.randn(count, width, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=1)

    return {
        "student": unit(batch).to(dtype),
        "teacher": unit(batch).to(dtype),
        "student_bank": unit(rows).to(bank_dtype),
        "teacher_bank": unit(rows).to(bank_dtype),
        "samples": torch.randint(rows, (batch, 1 + negatives), generator=generator),
        "log_normalizers": torch.tensor([3.0, 2.5], dtype=torch.float64),
    }


def run(backend: str, inputs: dict[str, Any], temperature: float = 0.2) -> list[Tensor]:
    leaves = [inputs[side].detach().requires_grad_() for side in ("student", "teacher")]
    both = dict(zip(("student", "teacher"), leaves, strict=True))
    loss = crd_loss(**(inputs | both), temperature=temperature, backend=backend)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def oracle(inputs: dict[str, Any], temperature: float = 0.2) -> list[Tensor]:
    """Loss, and the gradients with the derivative of each term by its score worked out by hand."""
    s, t, bank_s, bank_t, log_z = (a.double() for name, a in inputs.items() if name != "samples")
    samples, banks = inputs["samples"].long(), (bank_s, bank_t)
    loss = trained_oracle.crd(s, t, banks, samples, log_z, temperature, 1e-7)
    noise = (samples.shape[1] - 1) / len(bank_s) + 1e-7
    grads = []
    for e, bank, z in ((s, bank_t, log_z[0]), (t, bank_s, log_z[1])):
        chosen = bank[samples]
        h = torch.exp((chosen * e[:, None]).sum(2) / temperature - z)
        by_score = h / (h + noise)
        by_score[:, 0] -= 1
        grads.append((by_score[:, :, None] * chosen).sum(1) / temperature / len(e))
    return [torch.tensor(loss, dtype=torch.float64), *grads]


def check(backend: str, inputs: dict[str, Any]) -> None:
    dtype = reference.compute_dtype([inputs["student"], inputs["teacher"]])
    ours = run(backend, inputs)
    assert ours[0].dtype == dtype
    for value, truth in zip(ours, oracle(inputs), strict=True):
        rounding = torch.finfo(dtype).eps * 8
        if value.ndim:
            assert value.dtype == inputs["student"].dtype
            # Triton's interpreter cuts digits off where a GPU rounds.
            rounding += torch.finfo(value.dtype).eps
        assert relative_error(value, truth) <= rounding


SIZES = {
    "rows of less than a vector": {},
    "whole vectors": {"width": 32, "negatives": 64},
    "a vector and some": {"width": 19, "negatives": 33},
    "one number, one negative": {"width": 1, "negatives": 1, "rows": 2},
    "one sample": {"batch": 1, "width": 16, "rows": 3, "negatives": 100},
}


@pytest.mark.parametrize("size", SIZES)
@every_backend
def test_is_the_formula_for_every_size(backend: str, size: str) -> None:
    check(backend, given(**SIZES[size]))


@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@every_backend
def test_is_the_formula_for_every_dtype(
    backend: str, dtype: torch.dtype, bank_dtype: torch.dtype
) -> None:
    check(backend, given(width=17, dtype=dtype, bank_dtype=bank_dtype))


@every_backend
def test_any_strides_and_integers_of_32_bits(backend: str) -> None:
    inputs = given()
    expected = run(backend, inputs)
    for name in ("student", "student_bank", "teacher_bank"):
        inputs[name] = inputs[name].T.contiguous().T
    inputs["samples"] = inputs["samples"].int().T.contiguous().T
    inputs["log_normalizers"] = inputs["log_normalizers"].repeat_interleave(2)[::2]
    torch.testing.assert_close(run(backend, inputs), expected, rtol=1e-6, atol=1e-7)


def test_candidates_of_several_stretches_in_cpp() -> None:
    check("cpp", given(rows=500, width=16, negatives=5000))
    check("cpp", given(rows=500, width=16, negatives=5000, bank_dtype=torch.float16))


@every_backend
def test_gradcheck_in_float64(backend: str) -> None:
    inputs = given(batch=2, negatives=5, dtype=torch.float64)
    leaves = tuple(inputs.pop(side).requires_grad_() for side in ("student", "teacher"))
    assert torch.autograd.gradcheck(
        lambda s, t: crd_loss(s, t, **inputs, temperature=0.3, backend=backend),
        leaves,
        fast_mode=True,
    )


@every_backend
def test_opcheck_passes(backend: str) -> None:
    function = getattr(torch.ops.amd_fused, f"crd_fwd_{backend}").default
    numbers = torch.tensor([0.2, 1e-7], dtype=torch.float64)
    for needs_grad in ([True, False], [True, True]):
        arguments = (*given().values(), numbers, needs_grad)
        assert set(torch.library.opcheck(function, arguments).values()) == {"SUCCESS"}


@every_backend
def test_gradient_goes_to_whichever_side_requires_one(backend: str) -> None:
    inputs = given()
    _, *truth = run(backend, inputs)
    for name, expected in zip(("student", "teacher"), truth, strict=True):
        leaf = inputs[name].detach().requires_grad_()
        crd_loss(**(inputs | {name: leaf}), temperature=0.2, backend=backend).backward()
        assert torch.equal(leaf.grad, expected)  # type: ignore[arg-type]


def test_bitwise_equal_for_any_number_of_threads() -> None:
    before, inputs = torch.get_num_threads(), given(5, 3000, 40, 9000)
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run("cpp", inputs))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@every_backend
def test_nothing_uninitialised_is_read_and_banks_are_not_read_again(
    backend: str, poisoned: None
) -> None:
    inputs = given()
    leaf = inputs["student"].requires_grad_()
    loss = crd_loss(**inputs, backend=backend)
    assert loss.isfinite()
    inputs["teacher_bank"].fill_(torch.nan)
    loss.backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@every_backend
def test_no_temperature_overflows(backend: str) -> None:
    assert all(a.isfinite().all() for a in run(backend, given(), 1e-3))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@every_backend
def test_nan_and_inf_reach_the_loss(backend: str, bad: float) -> None:
    for side in ("student", "teacher"):
        inputs = given()
        inputs[side][1, 3] = bad
        assert not crd_loss(**inputs, backend=backend).isfinite()


def call(backend: str, inputs: dict[str, Any]) -> Tensor:
    """The operator, which a compiled graph calls without looking at the samples."""
    numbers = torch.tensor([0.2, 1e-7], dtype=torch.float64)
    function = getattr(torch.ops.amd_fused, f"crd_fwd_{backend}").default
    return function(*inputs.values(), numbers, [True, True])[0]


@pytest.mark.parametrize("bad", [-1, 40])
def test_a_row_that_is_not_there_is_an_error_or_nan(bad: int) -> None:
    inputs = given()
    inputs["samples"][2, 7] = bad
    if backends()["cpp"] == "usable":
        with pytest.raises(RuntimeError, match=f"samples must be between 0 and 39, .* got {bad}"):
            call("cpp", inputs)
    if backends()["triton"] == "usable":
        assert call("triton", inputs).isnan()


def test_second_derivatives_are_refused_with_the_remedy() -> None:
    inputs = given()
    student = inputs["student"].requires_grad_()
    loss = crd_loss(**inputs, backend="cpp")
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'crd_loss: .* second derivatives; use backend="refer'):
        grad.sum().backward()


@pytest.mark.parametrize(("rows", "form"), [(255, operator.PRODUCTS), (256, "crd_fwd_cpp")])
def test_large_banks_are_read_by_rows(rows: int, form: str) -> None:
    """5 (1 + 50) rows are the most that are multiplied with."""
    if backends()["cpp"] != "usable":
        pytest.skip(backends()["cpp"])
    inputs = given(rows=rows)
    with torch.profiler.profile() as profile:
        value = crd_loss(**inputs)
    called = {event.key.removeprefix("amd_fused::") for event in profile.key_averages()}
    assert ("crd_fwd_cpp" in called) == (form == "crd_fwd_cpp")
    assert ("crd_fwd" in called) == (form == operator.PRODUCTS)
    assert math.isclose(value.item(), crd_loss(**inputs, backend="reference").item(), rel_tol=1e-5)
