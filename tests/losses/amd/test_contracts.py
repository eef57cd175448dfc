"""Memory, determinism, numbers that must reach the loss: contracts around the mathematics."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import product
from typing import Any

import cases
import pytest
import torch
from measures import Result, run
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from amd_fused import amd_loss

cpp = functools.partial(amd_loss, backend="cpp")
# The fixture `backend` loads it, or skips where it cannot run.
FUSED = ["cpp", "cuda", "triton"]
FAST = ["cpp", "cuda"]


def same(a: Result, b: Result) -> bool:
    return torch.equal(a.loss, b.loss) and all(map(torch.equal, a.grads, b.grads))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def allocations(function: Any) -> list[int]:
    """Sizes in bytes of the blocks that torch's CPU allocator handed out meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    return [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
def test_nothing_of_a_features_size_is_allocated_but_the_gradient(layout: str) -> None:
    student, teacher = cases.features((8, 64, 96, 12, 12), layout=layout)
    student.requires_grad_()
    feature_bytes = student.numel() * 4
    maps = 8 * 12 * 12 * 4

    forward = allocations(lambda: cpp(student, teacher))
    assert forward, "the profiler saw no allocation"
    assert max(forward) < feature_bytes
    assert sum(forward) < 24 * maps  # two attention maps, one d_f, buffers of a few samples

    loss = cpp(student, teacher)
    backward = allocations(lambda: torch.autograd.grad(loss, student))
    assert sorted(n for n in backward if n >= feature_bytes) == [feature_bytes]


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_inputs_are_never_written_to(backend: str) -> None:
    student, teacher = cases.features((3, 8, 5, 9, 7))
    before = student.clone(), teacher.clone()
    run(amd_loss, student, teacher, backend=backend)
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_gradient_keeps_the_memory_format_of_its_input(backend: str, layout: str) -> None:
    student, teacher = cases.features((2, 6, 4, 5, 8), layout=layout)
    grad = run(amd_loss, student, teacher, backend=backend).grads[0]
    assert grad.stride() == torch.empty_like(student).stride()


# The last: one sample of a large map, where threads share the chunks of a pass.
SHARED = [(5, 40, 24, 13, 17), (1, 300, 200, 40, 52), (2, 8, 8, 200, 210), (1, 4, 4, 512, 300)]


@pytest.mark.parametrize("shape", SHARED, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_bitwise_equal_for_any_number_of_threads(shape: Any, layout: str, threads: None) -> None:
    student, teacher = cases.features(shape, layout=layout)
    results = []
    for count in (1, 2, 3, 8, 1):
        torch.set_num_threads(count)
        results.append(run(cpp, student, teacher))
    assert all(same(results[0], other) for other in results[1:])


@pytest.mark.parametrize("backend", FAST, indirect=True)
def test_a_sample_does_not_depend_on_its_neighbours(backend: str) -> None:
    loss = functools.partial(amd_loss, backend=backend, reduction="none")
    student, teacher = cases.features((6, 16, 8, 14, 14))
    together = loss(student, teacher)
    alone = [loss(student[b : b + 1], teacher[b : b + 1]) for b in range(len(student))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("options", [{}, {"mask_threshold": 0.5}, {"margin": 8.0}])
def test_nan_and_inf_reach_the_loss_of_their_sample_only(
    bad: float, side: int, dtype: torch.dtype, layout: str, options: dict[str, Any]
) -> None:
    features = cases.features((3, 5, 6, 7, 5), (dtype, dtype), layout)
    features[side][1, 2, 6, 4] = bad
    loss = cpp(*features, reduction="none", **options)
    assert torch.isnan(loss).tolist() == [False, True, False]
    assert torch.isnan(cpp(*features, **options))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("backend", "size"),
    [("cuda", (7, 5)), ("cuda", (70, 90)), ("triton", (7, 5)), ("triton", (11, 9))],
    indirect=["backend"],
    ids=["cuda-fused", "cuda-chunked", "triton-fused", "triton-chunked"],
)
@pytest.mark.parametrize("options", [{}, {"mask_threshold": 0.5}, {"margin": 8.0}])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
def test_nan_and_inf_reach_the_loss_through_both_forms(
    bad: float, size: tuple[int, int], options: dict[str, Any], backend: str, small_chunks: None
) -> None:
    features = cases.features((3, 5, 6, *size))
    features[0][1, 2, 6, 4] = bad
    loss = amd_loss(*features, reduction="none", backend=backend, **options)
    assert torch.isnan(loss).tolist() == [False, True, False]


@pytest.mark.parametrize("eps", [1e-6, 0.0])
@pytest.mark.parametrize("side", [0, 1, None], ids=["student", "teacher", "both"])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_all_zero_maps_have_finite_loss_and_zero_gradient(
    backend: str, side: int | None, eps: float
) -> None:
    features = cases.features((2, 5, 6, 6, 6))
    for i in (0, 1):
        if side in (i, None):
            features[i][1] = 0
    result = run(amd_loss, *features, eps=eps, reduction="none", backend=backend)
    exact = run(
        functools.partial(amd_loss, backend="reference"), *features, eps=eps, reduction="none"
    )
    torch.testing.assert_close(result.loss, exact.loss, rtol=1e-5, atol=1e-9)
    for i in (0, 1):
        if side in (i, None):
            assert (result.grads[i][1] == 0).all()
        assert torch.isfinite(result.grads[i]).all()


def of_layout_and_options() -> Iterator[Any]:
    """In the interpreter every layout once, with the one options or the other."""
    options = ({}, {"local_weight": 0.0, "formula": "released"})
    for backend, (i, layout), j in product(FUSED, enumerate(cases.LAYOUTS), range(2)):
        marks = [pytest.mark.exhaustive] if backend == "triton" and i % 2 != j else []
        yield pytest.param(backend, layout, options[j], marks=marks, id=f"{backend}-{layout}-{j}")


@pytest.mark.parametrize(
    ("backend", "layout", "options"), list(of_layout_and_options()), indirect=["backend"]
)
def test_uninitialised_memory_is_never_read(
    backend: str, layout: str, options: Any, poisoned: None, small_chunks: None
) -> None:
    assert torch.isnan(torch.empty(5)).all()
    chunked = (1, 4, 2, 11, 9) if backend == "triton" else (1, 4, 2, 90, 70)
    for shape in ((2, 5, 6, 7, 5), chunked):
        student, teacher = cases.features(shape, layout=layout)
        result = run(amd_loss, student, teacher, **options, backend=backend)
        assert torch.isfinite(result.loss)
        assert all(torch.isfinite(grad).all() for grad in result.grads)


@pytest.mark.parametrize("backend", FAST, indirect=True)
def test_memory_beyond_the_tensor_is_never_used(backend: str, poisoned: None) -> None:
    """Rows and pixels are read a vector at a time: what lies behind the last one must not count."""
    loss = functools.partial(amd_loss, backend=backend)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for channels, height, width in ((3, 3, 5), (17, 3, 3), (20, 7, 7), (1, 2, 9)):
            inside = torch.randn(2, channels, height, width)
            larger = torch.full((4, channels, height, width), torch.nan)
            larger = larger.contiguous(memory_format=memory_format)
            window = larger[1:3]
            window.copy_(inside)
            teacher = torch.randn(2, 3, height, width)
            assert same(
                run(loss, window, teacher),
                run(loss, inside.contiguous(memory_format=memory_format), teacher),
            )


@pytest.mark.parametrize("backend", FAST, indirect=True)
def test_expanded_features_are_right(backend: str) -> None:
    """Stride 0: one channel shown C times, one sample shown B times."""
    base = torch.randn(1, 1, 6, 6)
    teacher = torch.randn(3, 2, 6, 6)
    expanded = base.expand(3, 4, 6, 6)
    loss = functools.partial(amd_loss, backend=backend)
    assert torch.equal(loss(expanded, teacher), loss(expanded.clone(), teacher))


def _grads(student: Tensor, teacher: Tensor) -> Tensor:
    student = student.detach().requires_grad_()
    return torch.autograd.grad(cpp(student, teacher), student)[0]


def test_large_gradients_written_past_the_caches_are_the_same() -> None:
    """Above 8 MiB of gradients the stores are non-temporal, and above 32 MiB the gradient's pages
    are asked for as huge ones; one sample at a time neither."""
    for memory_format, channels in ((torch.contiguous_format, 220), (torch.channels_last, 64)):
        student, teacher = torch.randn(48, channels, 29, 30), torch.randn(48, 4, 29, 30)
        student = student.contiguous(memory_format=memory_format)
        assert student.numel() * 4 > 8 << 20
        together = _grads(student, teacher) * 48
        for b in (0, 17, 47):
            alone = _grads(student[b : b + 1], teacher[b : b + 1])
            torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-5, atol=1e-12)
