"""The LSH loss behaves as PyTorch's own do: gradients, checks, compile, autocast."""

from __future__ import annotations

import functools
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from exhaustive import every_compiler
from lsh_oracle import inputs, oracle, run
from measures import relative_error
from operator_checks import assert_compiles, every_part, passes

from amd_fused import lsh_loss

FUSED = ["cpp", "triton"]
ALL = ["reference", *FUSED]
KINDS = ["bce", "l2", "l1"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_gradcheck_in_float64(backend: str, kind: str) -> None:
    given = inputs((3, 5), 6, "float64")
    # A change of the teacher's embeddings may not change a side: none is nearer than 1e-3.
    assert (F.linear(given.teacher.float(), given.weight, given.bias).abs() > 1e-3).all()
    assert torch.autograd.gradcheck(
        lambda s, t: lsh_loss(s, t, *given[2:], kind=kind, backend=backend),
        (given.student.requires_grad_(), given.teacher.requires_grad_()),
        fast_mode=backend == "triton",  # one random direction: the interpreter is slow
    )


@pytest.mark.parametrize("kind", KINDS)
def test_reference_has_second_derivatives_and_the_fused_raise(kind: str) -> None:
    given = inputs((3, 5), 6, "float64")
    student, teacher = given.student.requires_grad_(), given.teacher.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda s, t: lsh_loss(s, t, *given[2:], kind=kind, backend="reference"), (student, teacher)
    )
    loss = lsh_loss(*given, kind=kind, backend="cpp")
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'lsh_loss: .* second derivatives; use backend="refer'):
        grad.square().sum().backward()


@every_part(
    ("backend", "kind", "needs_grad"),
    product(FUSED, KINDS, map(list, product([True, False], repeat=2))),
)
def test_opcheck_passes(backend: str, kind: str, needs_grad: list[bool], part: str) -> None:
    given = inputs((3, 5), 6)
    operator = getattr(torch.ops.amd_fused, f"lsh_fwd_{backend}").default
    assert passes(operator, (*given, kind, torch.ones(1).double(), needs_grad), part)


def test_opcheck_passes_for_the_kernel_that_writes_in_place() -> None:
    hash_s, hash_t = torch.randn(2, 3, 70)
    results = torch.library.opcheck(
        torch.ops.amd_fused.lsh_bce_cpp.default,
        (hash_s, hash_t, torch.randn(70), True),
        test_utils=("test_schema",),  # it is called below the dispatcher's other keys only
    )
    assert set(results.values()) == {"SUCCESS"}


@every_compiler
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_compiles_to_one_graph_with_the_same_result(backend: str, compiler: str) -> None:
    loss = functools.partial(lsh_loss, backend=backend)
    # Inductor fuses the reference's own operations, in another order.
    tolerance = 1e-5 if backend == "reference" else 0
    assert_compiles(loss, compiler, *inputs(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_nothing_uninitialised_is_read(backend: str, kind: str, poisoned: None) -> None:
    for result in run(backend, inputs(), kind=kind, l2_weight=0.0):
        assert result.isfinite().all()


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_bitwise_the_same_again_and_inputs_untouched(backend: str) -> None:
    given = inputs((131, 33), 70)
    before = [a.clone() for a in given if a is not None]
    assert all(map(torch.equal, run(backend, given), run(backend, given)))
    assert all(map(torch.equal, before, (a for a in given if a is not None)))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_goes_to_whichever_input_requires_one(kind: str) -> None:
    given = inputs()
    both = run("cpp", given, kind=kind)[1:]
    for side in range(2):
        leaves = [a.detach().requires_grad_(i == side) for i, a in enumerate(given[:2])]
        lsh_loss(*leaves, *given[2:], kind=kind).backward()  # type: ignore[arg-type]
        torch.testing.assert_close(leaves[side].grad, both[side])
        assert leaves[1 - side].grad is None


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_autocast_does_not_halve_the_products(backend: str) -> None:
    given = inputs(dtypes="bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        loss, by_s, _ = run(backend, given)
    exact = oracle(given)
    assert relative_error(loss, exact[0]) < 1e-6
    assert by_s.dtype == torch.bfloat16


def test_scaling_happens_before_the_cast_to_half() -> None:
    given = inputs((512, 64), 32, "float16")
    exact = oracle(given)[1] * 2.0**12
    student = given.student.requires_grad_()
    (grad,) = torch.autograd.grad(lsh_loss(*given) * 2.0**12, student)
    assert relative_error(grad, exact) < 1e-3
