"""AFD's operators behave as PyTorch's own do: gradients, opcheck, compile, threads, autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import cases
import pytest
import torch
from afd_oracle import Inputs, inputs, oracle, reduce, reduced, run, upstreams
from exhaustive import every_compiler, one_backend
from measures import relative_error
from operator_checks import assert_compiles, every_part, passes
from torch import Tensor

from amd_fused import AFDLoss, afd_loss
from amd_fused.losses.afd import operator

FUSED = ["cpp", "triton", "cuda"]
ALL = ["reference", *FUSED]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@every_backend
def test_gradcheck_of_both_means_in_float64(backend: str, layout: str) -> None:
    features = cases.features((2, 3, 5, 4, 3), cases.DTYPES["float64"], layout)

    def both(*leaves: Tensor) -> tuple[Tensor, ...]:
        maps, means = operator.afd_fwd(backend, leaves, True)
        return *maps, *means

    assert torch.autograd.gradcheck(
        both,
        tuple(a.requires_grad_() for a in features),
        fast_mode=True,  # one random direction: the oracle has every entry
    )


@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_gradcheck_of_the_loss_in_float64(backend: str) -> None:
    students, teachers = cases.features((2, 3, 2, 4, 3), cases.DTYPES["float64"])
    attention = torch.rand(2, 1, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s, t, a: afd_loss(s, [t], a, backend=backend),
        tuple(a.requires_grad_() for a in (students, teachers, attention)),
        fast_mode=True,
    )


@every_backend
def test_the_fused_have_no_second_derivatives_and_say_so(backend: str) -> None:
    students, teachers, attention = inputs("3x5")
    leaf = students[0].requires_grad_()
    loss = afd_loss(students, teachers, attention, backend=backend)
    (grad,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r'afd_loss: .* second derivatives; use backend="refer'):
        grad.square().sum().backward()


@every_part(("backend", "layout"), product(FUSED, ["nchw", "channels_last"]))
def test_opcheck_passes(backend: str, layout: str, part: str) -> None:
    for dtypes in ("float32", "float16 and float64"):
        features = list(cases.features((3, 5, 4, 3, 5), cases.DTYPES[dtypes], layout))
        in_double = "float64" in dtypes
        forward = getattr(torch.ops.amd_fused, f"afd_fwd_{backend}").default
        assert passes(forward, (features, in_double), part)
        dtype = torch.float64 if in_double else torch.float32
        grads = [[g.contiguous() for g in upstreams(a, dtype)] for a in features]
        backward = getattr(torch.ops.amd_fused, f"afd_bwd_{backend}").default
        arguments = ([g[0] for g in grads], [g[1] for g in grads], features)
        assert passes(backward, arguments, part)


def one_map_a_side(given: Inputs) -> Inputs:
    """Maps are reduced one by one; to trace several takes several times as long."""
    return Inputs(given.students[:1], given.teachers[:1], given.attention[:, :1, :1])


TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


@every_compiler
@pytest.mark.parametrize("backend", ALL, indirect=True)
def test_compiles_to_one_graph_with_the_same_result(backend: str, compiler: str) -> None:
    loss = functools.partial(afd_loss, backend=backend)
    assert_compiles(loss, compiler, *one_map_a_side(inputs("3x5")), **TOLERANCE)


@every_compiler
@one_backend(ALL)
def test_module_compiles_to_one_graph_with_the_same_result(backend: str, compiler: str) -> None:
    students, teachers, _ = inputs("3x5")
    torch.manual_seed(1)
    criterion = AFDLoss([5, 5], [3, 3], attention_features=4, backend=backend).eval()
    assert_compiles(criterion, compiler, students, teachers, **TOLERANCE)


def test_compiles_with_dynamic_shapes() -> None:
    given = one_map_a_side(inputs("many samples"))
    compiled = torch.compile(afd_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (130, 5, 64):
        some = Inputs(*([a[:batch] for a in side] for side in given[:2]), given.attention[:batch])
        leaves = [a.detach().requires_grad_() for a in some.students]
        loss = compiled(leaves, some.teachers, some.attention, backend="cpp")
        torch.testing.assert_close(torch.autograd.grad(loss, leaves)[0], run("cpp", some)[1])


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
def test_bitwise_equal_for_any_number_of_threads(layout: str) -> None:
    """A map of several units."""
    before = torch.get_num_threads()
    a, _ = cases.features((3, 70, 1, 90, 80), layout=layout)
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(reduce("cpp", a))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])
    for ours, exact in zip(results[0], reduced(a), strict=True):
        assert relative_error(ours, exact) < 1e-6


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@every_backend
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
@every_backend
def test_gradients_lie_as_their_inputs(backend: str, layout: str) -> None:
    _, *by_features, _ = run(backend, inputs("7x7", layout=layout))
    assert all(map(MEMORY[layout], by_features))


@every_backend
def test_bitwise_the_same_again_and_inputs_untouched(backend: str) -> None:
    given = inputs("9x4")
    tensors = [*given.students, *given.teachers, given.attention]
    before = [a.clone() for a in tensors]
    assert all(map(torch.equal, run(backend, given), run(backend, given)))
    assert all(map(torch.equal, before, tensors))


@every_backend
def test_gradient_goes_to_whichever_input_requires_one(backend: str) -> None:
    given = inputs("7x7")
    _, *truth = run(backend, given)
    for wanted in range(5):
        tensors = [*given.students, *given.teachers, given.attention]
        leaves = [a.detach().requires_grad_(i == wanted) for i, a in enumerate(tensors)]
        afd_loss(leaves[:2], leaves[2:4], leaves[4], backend=backend).backward()
        assert [leaf.grad is not None for leaf in leaves] == [i == wanted for i in range(5)]
        torch.testing.assert_close(leaves[wanted].grad, truth[wanted])


def test_a_frozen_map_of_a_side_costs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs("7x7")
    asked: list[int] = []
    original = operator._operator

    def spied(step: str, backend: str) -> Any:
        def call(*arguments: Any) -> Any:
            if step == "bwd":
                asked.append(len(arguments[-1]))
            return original(step, backend)(*arguments)

        return call

    monkeypatch.setattr(operator, "_operator", spied)
    given.students[1].requires_grad_()
    afd_loss(*given, backend="cpp").backward()
    assert asked == [1]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_large_gradients_are_written_whole_around_the_caches(layout: str) -> None:
    """9 MB, of rows and pixels that are whole cache lines and that are not."""
    for channels, side in ((80, 60), (67, 65), (530, 23)):
        shape = (8, channels, 1, side, side)
        a, _ = cases.features(shape, layout=layout)
        for ours, exact in zip(reduce("cpp", a), reduced(a), strict=True):
            assert relative_error(ours, exact) < 1e-6


@every_backend
def test_scaling_happens_before_the_cast_to_half(backend: str) -> None:
    """Gradients are below float16's smallest number here; scaled upstream they keep digits."""
    given = inputs("many samples", "float16")
    exact = oracle(given)[1:5]
    for grad, truth in zip(run(backend, given, scale=2.0**16)[1:5], exact, strict=True):
        assert relative_error(grad, truth * 2.0**16) < 5e-4


def test_autocast_needs_no_cast_by_the_caller() -> None:
    given = inputs("7x7", "bfloat16")
    for backend in ("cpp", "reference"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = afd_loss(*given, backend=backend)
        assert relative_error(loss, oracle(given)[0]) < 1e-5


def test_features_are_read_once_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's means and maps come from one call a side."""
    given = inputs("7x7")
    calls: list[int] = []
    original = operator.afd_fwd

    def counted(backend: str, features: list[Tensor], in_double: bool) -> Any:
        calls.append(len(features))
        return original(backend, features, in_double)

    monkeypatch.setattr(operator, "afd_fwd", counted)
    AFDLoss([12, 12], [20, 20], backend="cpp")(given.students, given.teachers)
    assert calls == [2, 2]
