"""attention_map behaves as PyTorch's own operators do; errors; contracts around the mathematics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import cases
import pytest
import torch
from exhaustive import every_compiler
from measures import relative_error
from operator_checks import every_part, passes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from amd_fused import amd_loss, attention_map, reference

FUSED = ["cpp", "cuda", "triton"]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)


def features(layout: str = "nchw", dtype: torch.dtype = torch.float32) -> Tensor:
    return cases.features((2, 6, 4, 7, 5), (dtype, dtype), layout)[0]


def map_and_gradient(function: Callable[[Tensor], Tensor], a: Tensor) -> tuple[Tensor, Tensor]:
    leaf = a.detach().requires_grad_()
    found = function(leaf)
    upstream = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view(found.shape)
    return found.detach(), torch.autograd.grad(found, leaf, upstream)[0]


@every_part(
    ("backend", "layout", "in_double"),
    product(FUSED, ["nchw", "channels_last", "window"], [False, True]),
)
def test_opcheck_passes(backend: str, layout: str, in_double: bool, part: str) -> None:
    operator = getattr(torch.ops.amd_fused, f"attention_map_{backend}").default
    assert passes(operator, (features(layout), in_double), part)


@every_compiler
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("cpp", None),
        ("cpp", torch.float16),
        ("triton", None),
        pytest.param("triton", torch.float16, marks=pytest.mark.exhaustive),
    ],
    indirect=["backend"],
)
def test_compiles_to_one_graph_with_the_same_result(
    backend: str, dtype: torch.dtype | None, compiler: str
) -> None:
    def function(a: Tensor) -> Tensor:
        return attention_map(a, dtype, backend=backend)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=compiler)
    for shape in ((2, 6, 4, 7, 5), (3, 6, 4, 8, 6)):
        a = cases.features(shape)[0]
        found, expected = map_and_gradient(compiled, a), map_and_gradient(function, a)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=0)


class Map(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return attention_map(a, backend="cpp")


@pytest.mark.parametrize("strict", [False, True])
def test_exports(strict: bool) -> None:
    program = torch.export.export(Map(), (features(),), strict=strict)
    assert "amd_fused.attention_map_cpp" in str(program.graph)
    assert torch.equal(program.module()(features()), Map()(features()))


def test_tensors_without_values_have_maps_without_values() -> None:
    with FakeTensorMode():
        a = torch.randn(2, 6, 7, 5, dtype=torch.float16, requires_grad=True)
        found = attention_map(a, torch.bfloat16)
        found.sum().backward()
        assert (found.shape, found.dtype) == ((2, 1, 7, 5), torch.bfloat16)
        assert a.grad is not None
        assert (a.grad.shape, a.grad.dtype) == (a.shape, a.dtype)


@every_backend
def test_features_of_inference_mode_have_maps(backend: str) -> None:
    with torch.inference_mode():
        a = features()
    expected = attention_map(features(), backend=backend)
    assert torch.equal(attention_map(a, backend=backend), expected)
    student = cases.features((2, 6, 4, 7, 5), seed=1)[0].requires_grad_()
    with torch.inference_mode():
        teacher = attention_map(a, backend=backend)
    amd_loss(student, teacher, backend=backend).backward()
    assert student.grad is not None


def test_autocast_changes_nothing() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_map(features())
    assert found.dtype == torch.float32
    assert torch.equal(found, attention_map(features()))


def test_without_gradients_there_is_no_graph() -> None:
    with torch.no_grad():
        assert not attention_map(features().requires_grad_()).requires_grad
    assert not attention_map(features()).requires_grad


UPSTREAM: dict[str, Callable[[], Tensor]] = {
    "one number expanded": lambda: torch.tensor(3.0).expand(2, 1, 7, 5),
    "height and width swapped": lambda: torch.randn(2, 1, 5, 7).mT,
    "every other": lambda: torch.randn(2, 2, 14, 10)[:, :1, ::2, ::2],
}


@pytest.mark.parametrize("upstream", UPSTREAM)
@every_backend
def test_upstream_gradients_of_any_stride(backend: str, upstream: str) -> None:
    a, given = features().requires_grad_(), UPSTREAM[upstream]()
    (found,) = torch.autograd.grad(attention_map(a, backend=backend), a, given)
    wide = features().double().requires_grad_()
    root = wide.square().sum(1, keepdim=True).sqrt()
    (exact,) = torch.autograd.grad(root, wide, given.double())
    assert relative_error(found, exact) < 5e-7


@every_backend
def test_a_second_derivative_raises_and_names_the_remedy(backend: str) -> None:
    a = features().requires_grad_()
    found = attention_map(a, backend=backend)
    (grad,) = torch.autograd.grad(found.sum(), a, create_graph=True)
    message = f"^attention_map: backend '{backend}' has no second derivatives; use backend="
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(grad.sum(), a)


def test_transforms_of_a_fused_map_are_refused_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match=r'^attention_map: .*torch.func .*backend="reference"'):
        torch.func.vmap(lambda a: attention_map(a, backend="cpp"))(features()[None])
    found = torch.func.vmap(lambda a: attention_map(a, backend="reference"))(features()[None])
    assert torch.equal(found[0], reference.attention_map(features()))
    a = features().requires_grad_()
    with pytest.raises(RuntimeError, match=r"^attention_map: .*is_grads_batched=True"):
        torch.autograd.grad(attention_map(a), a, torch.ones(3, 2, 1, 7, 5), is_grads_batched=True)


def test_features_changed_before_backward_are_noticed() -> None:
    a = features().requires_grad_() * 2
    found = attention_map(a)
    a.mul_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@every_backend
def test_no_input_is_written_and_no_memory_read_that_nobody_wrote(
    backend: str, layout: str, poisoned: None
) -> None:
    a = features(layout)
    before = a.clone()
    found, grad = map_and_gradient(lambda x: attention_map(x, backend=backend), a)
    assert torch.equal(a, before)
    assert found.isfinite().all()
    assert grad.isfinite().all()
    assert grad.stride() == torch.empty_like(a).stride()


def test_nothing_of_the_features_size_is_allocated_but_the_gradient() -> None:
    a = cases.features((8, 64, 1, 12, 12))[0].requires_grad_()
    size, map_size = a.numel() * 4, 8 * 12 * 12 * 4

    def allocations(function: Callable[[], Any]) -> list[int]:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            function()
        events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
        return [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]

    assert allocations(lambda: attention_map(a)) == [map_size]
    total = attention_map(a).sum()
    backward = allocations(lambda: torch.autograd.grad(total, a))
    assert [n for n in backward if n >= size] == [size]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(5, 40, 1, 13, 17), (1, 300, 1, 40, 52)], ids=str)
def test_bitwise_equal_for_any_number_of_threads(shape: Any, layout: str, threads: None) -> None:
    a = cases.features(shape, layout=layout)[0]
    results = []
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        results.append(map_and_gradient(attention_map, a))
    assert all(map(torch.equal, results[0], other) for other in results[1:])


def test_a_samples_map_on_the_cpu_does_not_depend_on_its_neighbours() -> None:
    a = cases.features((6, 96, 1, 14, 14))[0]
    together = attention_map(a)
    assert torch.equal(together, torch.cat([attention_map(a[b : b + 1]) for b in range(6)]))


def test_auto_is_the_fused_kernel() -> None:
    assert torch.equal(attention_map(features()), attention_map(features(), backend="cpp"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), TypeError, "features must be a tensor, got NoneType"),
        (([features()],), TypeError, "features must be a tensor, got list"),
        ((features().int(),), TypeError, r"features must have dtype float32, .* got torch.int32"),
        ((features().to_sparse(),), TypeError, r"dense \(strided\) tensor, .* with \.to_dense"),
        ((features()[0],), ValueError, r"must be 4-D \[B, C, H, W\], got 3-D: shape \(6, 7, 5\)"),
        ((features()[:, :0],), ValueError, r"must have C >= 1, got shape \(2, 0, 7, 5\)"),
        ((features(), torch.int8), ValueError, r"dtype must be None, .*, got torch.int8"),
        ((features(), "float16"), ValueError, "dtype must be None, .*, got 'float16'"),
    ],
)
def test_bad_arguments_are_named(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^attention_map: .*{message}"):
        attention_map(*arguments)


def test_backends_are_named() -> None:
    with pytest.raises(ValueError, match=r"^attention_map: backend must be one of 'auto', .*'gpu'"):
        attention_map(features(), backend="gpu")
    with pytest.raises(RuntimeError, match=r"^attention_map: backend 'cpp' runs on cpu tensors"):
        attention_map(features().to("meta"), backend="cpp")
