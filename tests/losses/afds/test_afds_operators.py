"""AFDS's operators behave as PyTorch's own do: gradients, opcheck, compile, threads, autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product

import pytest
import torch
from afds_oracle import Inputs, inputs, oracle, run
from exhaustive import every_compiler, one_backend
from measures import relative_error
from operator_checks import assert_compiles, every_part, passes
from torch import Tensor

from amd_fused import AFDSLoss, afds_loss, reference

FUSED = ["cpp", "triton", "cuda"]
ALL = ["reference", *FUSED]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_gradcheck_in_float64(backend: str, layout: str) -> None:
    given = inputs("2x2", "float64", layout)
    given.student[0, 1] += 1  # nothing is smooth at a channel of zeros
    given.teacher[-1, 2] += 1
    assert torch.autograd.gradcheck(
        lambda *tensors: afds_loss(*tensors, eps=0.1, backend=backend),
        tuple(a.double().requires_grad_() for a in given),
        fast_mode=backend != "reference",  # one random direction: the oracle has every entry
    )


def test_the_fused_have_no_second_derivatives_and_say_so() -> None:
    student, teacher, importance = inputs("3x5")
    loss = afds_loss(student.requires_grad_(), teacher, importance, backend="cpp")
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match=r'afds_loss: .* second derivatives; use backend="refer'):
        grad.square().sum().backward()


@every_part(("backend", "layout"), product(FUSED, ["nchw", "channels_last"]))
def test_opcheck_passes(backend: str, layout: str, part: str) -> None:
    for dtypes, needs_grad in (("float32", [True, False]), ("float16 and float64", [True, True])):
        student, teacher, importance = inputs("3x5", dtypes, layout)
        dtype = reference.compute_dtype([student, teacher])
        forward = getattr(torch.ops.amd_fused, f"afds_fwd_{backend}").default
        assert passes(forward, (student, teacher, 1e-6), part)
        backward = getattr(torch.ops.amd_fused, f"afds_bwd_{backend}").default
        numbers = torch.randn(*importance.shape, 4, dtype=dtype)
        arguments = (importance.to(dtype), student, teacher, numbers, needs_grad)
        assert passes(backward, arguments, part)


TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@every_compiler
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_compiles_to_one_graph_with_the_same_result(backend: str, compiler: str) -> None:
    loss = functools.partial(afds_loss, backend=backend)
    assert_compiles(loss, compiler, *inputs("3x5"), **TOLERANCE)


@every_compiler
@one_backend(ALL)
def test_module_compiles_to_one_graph_with_the_same_result(backend: str, compiler: str) -> None:
    criterion = AFDSLoss((5, 3, 5), "se", backend=backend)
    assert_compiles(criterion, compiler, *inputs("3x5")[:2], **TOLERANCE)


def test_compiles_with_dynamic_shapes() -> None:
    given = inputs("many samples")
    compiled = torch.compile(afds_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (130, 5, 64):
        some = Inputs(*(a[:batch] for a in given))
        leaf = some.student.detach().requires_grad_()
        (grad,) = torch.autograd.grad(compiled(leaf, *some[1:], backend="cpp"), leaf)
        assert torch.equal(grad, run("cpp", some)[1])


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_bitwise_equal_for_any_number_of_threads(layout: str) -> None:
    before, given = torch.get_num_threads(), inputs("many channels", layout=layout)
    repeated = [a.repeat(20, 1, 3, 2) for a in given[:2]]
    given = Inputs(*repeated, given.importance.repeat(20, 1))
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run("cpp", given))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_nothing_uninitialised_is_read(backend: str, layout: str, poisoned: None) -> None:
    for result in run(backend, inputs("many channels", layout=layout)):
        assert result.isfinite().all()


MEMORY: dict[str, Callable[[Tensor], bool]] = {
    "nchw": Tensor.is_contiguous,
    "channels_last": lambda a: a.is_contiguous(memory_format=torch.channels_last),
    "channels of a larger channels_last": lambda a: a.is_contiguous(
        memory_format=torch.channels_last
    ),
}


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_gradients_lie_as_their_inputs(backend: str, layout: str) -> None:
    _, by_s, by_t, _ = run(backend, inputs("7x7", layout=layout))
    assert MEMORY[layout](by_s)
    assert MEMORY[layout](by_t)


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_bitwise_the_same_again_and_inputs_untouched(backend: str) -> None:
    given = inputs("9x4")
    before = [a.clone() for a in given]
    assert all(map(torch.equal, run(backend, given), run(backend, given)))
    assert all(map(torch.equal, before, given))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_gradient_goes_to_whichever_input_requires_one(backend: str, layout: str) -> None:
    given = inputs("7x7", layout=layout)
    _, *truth = run(backend, given)
    for side in range(3):
        leaves = [a.detach().requires_grad_(i == side) for i, a in enumerate(given)]
        afds_loss(*leaves, backend=backend).backward()
        for i, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (i == side)
        assert torch.equal(leaves[side].grad, truth[side])  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_large_gradients_are_written_whole_around_the_caches(layout: str) -> None:
    """9 MB, of rows and pixels that are whole cache lines and that are not."""
    for channels, side in ((80, 60), (67, 65)):
        shape = (8, channels, side, side)
        a = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        memory_format = torch.contiguous_format if layout == "nchw" else torch.channels_last
        pair = [x.contiguous(memory_format=memory_format) for x in (a, a.flip(0))]
        given = Inputs(*pair, torch.full(shape[:2], 1 / channels))
        wide = run("reference", Inputs(*(x.double() for x in given)))
        for ours, exact in zip(run("cpp", given), wide, strict=True):
            assert relative_error(ours, exact) < 1e-6


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_scaling_happens_before_the_cast_to_half(backend: str) -> None:
    """Gradients are around 1e-7 here; scaled upstream they keep digits."""
    given = inputs("many samples", "float16")
    given = given._replace(student=given.student * 30)
    exact = oracle(given)[1]
    grad = run(backend, given, scale=2.0**16)[1]
    assert relative_error(grad, exact * 2.0**16) < 5e-4


def test_autocast_needs_no_cast_by_the_caller() -> None:
    given = inputs("7x7", "bfloat16")
    for backend in ("cpp", "reference"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = afds_loss(*given, backend=backend)
        assert relative_error(loss, oracle(given)[0]) < 1e-6
