"""vid_loss's kernels: the formula in every dtype, layout and size, and operators' behaviour."""

from __future__ import annotations

from itertools import product

import cases
import pytest
import torch
from exhaustive import every_size
from measures import relative_error
from operator_checks import every_part, passes
from torch import Tensor
from vid_oracle import EPS, inputs, oracle, run

from amd_fused import reference, vid_loss

FUSED = ["cpp", "triton", "cuda"]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)


def check(backend: str, given: list[Tensor]) -> None:
    eager, ours = run("reference", given), run(backend, given)
    rounding = torch.finfo(reference.compute_dtype(given[:2])).eps
    for value, same, truth in zip(ours, eager, oracle(given), strict=True):
        assert (value.dtype, value.shape) == (same.dtype, same.shape)
        assert relative_error(value, truth) <= 1.5 * relative_error(same, truth) + 8 * rounding


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@every_size(FUSED, cases.SHAPES)
def test_is_the_formula_for_every_size(backend: str, shape: str, layout: str) -> None:
    check(backend, inputs(shape, layout=layout))


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtypes", cases.DTYPES)
@every_backend
def test_is_the_formula_for_every_dtype_and_layout(backend: str, dtypes: str, layout: str) -> None:
    check(backend, inputs("7x7", dtypes, layout))


@pytest.mark.parametrize("backend", ["reference", *FUSED], indirect=True)
def test_gradcheck_in_float64(backend: str) -> None:
    leaves = tuple(a.double().requires_grad_() for a in inputs("2x2", "float64"))
    assert torch.autograd.gradcheck(
        lambda *tensors: vid_loss(*tensors, backend=backend),
        leaves,
        fast_mode=backend != "reference",  # one random direction: the oracle has every entry
    )


@every_part(("backend",), product(FUSED))
def test_opcheck_passes_without_an_eps(backend: str, part: str) -> None:
    student, teacher, _ = inputs("3x5")
    forward = getattr(torch.ops.amd_fused, f"afds_fwd_{backend}").default
    assert passes(forward, (student, teacher, None), part)


@every_backend
def test_gradient_goes_to_whichever_input_requires_one(backend: str) -> None:
    given = inputs("7x7")
    _, *truth = run(backend, given)
    for side in range(3):
        leaves = [a.detach().requires_grad_(i == side) for i, a in enumerate(given)]
        vid_loss(*leaves, eps=EPS, backend=backend).backward()
        for i, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (i == side)
        assert torch.equal(leaves[side].grad, truth[side])  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_bitwise_equal_for_any_number_of_threads(layout: str) -> None:
    before, given = torch.get_num_threads(), inputs("many channels", layout=layout)
    given = [*(a.repeat(20, 1, 3, 2) for a in given[:2]), given[2]]
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run("cpp", given))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("backend", ["reference", *FUSED], indirect=True)
def test_nan_and_inf_reach_the_loss(backend: str, bad: float) -> None:
    for side in range(2):
        given = inputs("3x5")
        given[side][1, 1, 2, 3] = bad
        assert not vid_loss(*given, backend=backend).isfinite()


def test_the_fused_have_no_second_derivatives_and_say_so() -> None:
    student, teacher, rho = inputs("3x5")
    loss = vid_loss(student.requires_grad_(), teacher, rho, backend="cpp")
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'vid_loss: .* second derivatives; use backend="refer'):
        grad.square().sum().backward()
