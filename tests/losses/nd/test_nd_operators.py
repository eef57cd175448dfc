"""The ND loss behaves as PyTorch's own do: gradients, checks, compile, autocast, state."""

from __future__ import annotations

from itertools import product

import embeddings
import pytest
import torch
from exhaustive import every_compiler
from measures import relative_error
from nd_oracle import Inputs, inputs, oracle, run
from operator_checks import assert_compiles, every_part, passes

from amd_fused import NDLoss, nd_loss, reference

FUSED = ["cpp", "triton"]
ALL = ["reference", *FUSED]


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_gradcheck_in_float64(backend: str) -> None:
    given = inputs("narrow", "float64")
    assert torch.autograd.gradcheck(
        lambda s, t: nd_loss(s, t, given.target, given.class_means, backend=backend),
        (given.student.requires_grad_(), given.teacher.requires_grad_()),
        fast_mode=backend == "triton",  # one random direction: the interpreter is slow
    )


def test_reference_has_second_derivatives_and_the_fused_raise() -> None:
    given = inputs("narrow", "float64")
    student, teacher = given.student.requires_grad_(), given.teacher.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda s, t: nd_loss(s, t, given.target, given.class_means, backend="reference"),
        (student, teacher),
    )
    loss = nd_loss(*given, backend="cpp")
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'nd_loss: .* second derivatives; use backend="refer'):
        grad.square().sum().backward()


@every_part(("backend",), product(FUSED))
def test_opcheck_passes(backend: str, part: str) -> None:
    for dtypes, needs_grad in (("float32", [True, False]), ("float16 and float64", [True, True])):
        given = inputs("narrow", dtypes)
        dtype = reference.compute_dtype(given[:2])
        forward = getattr(torch.ops.amd_fused, f"nd_fwd_{backend}").default
        assert passes(forward, tuple(given), part)
        backward = getattr(torch.ops.amd_fused, f"nd_bwd_{backend}").default
        arguments = (torch.randn(3, dtype=dtype), *given, torch.randn(3, 3, dtype=dtype))
        assert passes(backward, (*arguments, needs_grad), part)


@every_compiler
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_module_compiles_to_one_graph_with_the_same_result(backend: str, compiler: str) -> None:
    given = inputs("odd")
    criterion = NDLoss(given.class_means, backend=backend)
    # Inductor takes the mean, and the reference's own sums, in another order.
    assert_compiles(criterion, compiler, *given[:3], rtol=1e-6, atol=1e-6)


def test_compiles_with_dynamic_shapes() -> None:
    given = inputs("many samples")
    criterion = NDLoss(given.class_means)
    compiled = torch.compile(criterion, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (131, 5, 64):
        student = given.student[:batch].detach().requires_grad_()
        rest = given.teacher[:batch], given.target[:batch]
        (grad,) = torch.autograd.grad(compiled(student, *rest), student)
        (truth,) = torch.autograd.grad(criterion(student, *rest), student)
        assert torch.equal(grad, truth)


def test_bitwise_equal_for_any_number_of_threads() -> None:
    before, given = torch.get_num_threads(), inputs("many samples")
    given = given._replace(student=given.student.repeat(1, 40), teacher=given.teacher.repeat(1, 40))
    given = given._replace(class_means=given.class_means.repeat(1, 40))
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run("cpp", given))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_nothing_uninitialised_is_read(backend: str, poisoned: None) -> None:
    for result in run(backend, inputs("tiles")):
        assert result.isfinite().all()


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_bitwise_the_same_again_and_inputs_untouched(backend: str) -> None:
    given = inputs("many samples" if backend == "cpp" else "odd")
    before = [a.clone() for a in given]
    first, second = run(backend, given), run(backend, given)
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, before, given))


def test_gradient_goes_to_whichever_input_requires_one() -> None:
    given = inputs("odd")
    _, by_s, by_t = run("cpp", given)
    for side, truth in ((0, by_s), (1, by_t)):
        leaves = [a.detach().requires_grad_(i == side) for i, a in enumerate(given[:2])]
        nd_loss(*leaves, given.target, given.class_means).backward()
        assert torch.equal(leaves[side].grad, truth)  # type: ignore[arg-type]
        assert leaves[1 - side].grad is None


def test_scaling_happens_before_the_cast_to_half() -> None:
    """With 16384 samples gradients are around 1e-6 and below; scaled upstream they keep digits."""
    student, teacher = embeddings.pair((512, 64), "float16")
    student, teacher = student * 30, teacher * 30
    given = Inputs(student, teacher, torch.zeros(512, dtype=torch.int64), torch.ones(1, 64))
    _, exact, _ = oracle(given)
    student.requires_grad_()
    loss = nd_loss(*given._replace(student=student), backend="cpp")
    (grad,) = torch.autograd.grad(loss * 2.0**16, student)
    assert relative_error(grad, exact * 2.0**16) < 1e-3


def test_autocast_needs_no_cast_by_the_caller() -> None:
    given = inputs("odd", "bfloat16")
    for backend in ("cpp", "reference"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = nd_loss(*given, backend=backend)
        assert relative_error(loss, oracle(given)[0]) < 1e-6


def test_buffer_is_in_the_state_and_follows_the_embeddings() -> None:
    given = inputs("odd")
    criterion = NDLoss(given.class_means)
    assert list(criterion.state_dict()) == ["class_means"]
    assert not list(criterion.parameters())
    copy = NDLoss(torch.ones_like(given.class_means))
    copy.load_state_dict(criterion.state_dict())
    assert torch.equal(copy(*given[:3]), nd_loss(*given))
    # Another device than the CPU that every machine has; no loss is computed on it.
    with pytest.warns(UserWarning, match="plain PyTorch reference"):
        loss = criterion(*(a.to("meta") for a in given[:3]))
    assert loss.device.type == criterion.class_means.device.type == "meta"
    assert "num_classes=6, in_features=67" in repr(copy)
