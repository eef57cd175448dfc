"""attention_map is the formula, in every backend, and stands for the features in the losses.

Claim: its error against float64 is at most eager PyTorch's own in the same dtype plus a few
roundings; losses and gradients of maps are those of the features.
"""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
import torch
from cuda_on_host import build
from exhaustive import every_size
from measures import oracle, relative_error, run
from torch import Tensor

from amd_fused import amd_loss, at_loss, attention_map, reference

# The fixture `backend` loads it, or skips where it cannot run.
FUSED = ["cpp", "cuda", "triton"]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)
with_reference = pytest.mark.parametrize("backend", ["reference", *FUSED], indirect=True)


def formula(features: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The map and the gradient by the features, in NumPy's float64."""
    a = features.detach().double().numpy()
    root = np.sqrt((a**2).sum(1, keepdims=True))
    slope = np.divide(upstream.double().numpy(), root, out=np.zeros_like(root), where=root > 0)
    return torch.from_numpy(root), torch.from_numpy(a * slope)


def map_and_gradient(features: Tensor, upstream: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = features.detach().requires_grad_()
    a = attention_map(leaf, **options)
    (grad,) = torch.autograd.grad(a, leaf, upstream.to(a.dtype))
    return a.detach(), grad


def upstream_of(features: Tensor) -> Tensor:
    batch, _, height, width = features.shape
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(4))


def check(backend: str, features: Tensor) -> None:
    upstream = upstream_of(features)
    exact, true = formula(features, upstream)
    eager, eager_grad = map_and_gradient(features, upstream, backend="reference")
    a, grad = map_and_gradient(features, upstream, backend=backend)
    computed_in = reference.compute_dtype([features])
    assert (a.dtype, a.shape) == (computed_in, exact.shape)
    assert a.is_contiguous()
    assert (grad.dtype, grad.shape) == (features.dtype, features.shape)
    eps = torch.finfo(computed_in).eps
    assert relative_error(a, exact) <= relative_error(eager, exact) + eps
    assert relative_error(grad, true) <= relative_error(eager_grad, true) + eps


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@every_size(FUSED, cases.SHAPES)
def test_is_the_formula_for_every_size(backend: str, shape: str, layout: str) -> None:
    check(backend, cases.features(cases.SHAPES[shape], layout=layout)[0])


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@every_backend
def test_is_the_formula_for_every_dtype_and_layout(backend: str, dtype: str, layout: str) -> None:
    check(backend, cases.features(cases.SHAPES["7x7"], cases.DTYPES[dtype], layout)[0])


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1)])
@every_backend
def test_maps_of_one_row_or_column(backend: str, height: int, width: int, layout: str) -> None:
    check(backend, cases.features((3, 8, 5, height, width), layout=layout)[0])


@with_reference
def test_is_worked_out_by_hand(backend: str) -> None:
    features = torch.tensor([3.0, 0.0, -4.0, 0.0]).view(1, 2, 1, 2)
    a, grad = map_and_gradient(features, torch.tensor([[[[2.0, 2.0]]]]), backend=backend)
    assert a.flatten().tolist() == [5.0, 0.0]
    assert grad.flatten().tolist() == pytest.approx([1.2, 0.0, -1.6, 0.0], rel=1e-7)


@pytest.mark.parametrize(
    ("dtype", "digits"),
    [(torch.float32, 24), (torch.float16, 11), (torch.bfloat16, 8), (torch.float64, 53)],
)
@with_reference
def test_dtype_is_that_of_the_map(backend: str, dtype: torch.dtype, digits: int) -> None:
    features = cases.features((2, 12, 3, 7, 7))[0]
    exact, true = formula(features, upstream := upstream_of(features).to(dtype))
    a, grad = map_and_gradient(features, upstream, dtype=dtype, backend=backend)
    assert (a.dtype, grad.dtype) == (dtype, torch.float32)
    # Half of the last digit, and rounding in float32 before it.
    error = ((a.double() - exact) / exact).abs().max()
    assert error <= 2.0**-digits * (2 if digits == 53 else 1) + (4e-7 if digits <= 24 else 0.0)
    assert relative_error(grad, true) < 5e-7


def of_maps(loss: Any, pair: tuple[Tensor, Tensor], backend: str, **options: Any) -> Any:
    def through_maps(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        sides = [[attention_map(a, backend=backend) for a in side] for side in (students, teachers)]
        return loss(*sides, backend=backend, **options)

    return run(through_maps, *pair)


@pytest.mark.parametrize("options", ["default", "released", "global", "batchmean", "none"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@with_reference
def test_stands_for_the_features_in_amd_loss(backend: str, layout: str, options: str) -> None:
    """Value and gradients by the features, in float64 to its rounding."""
    doubles = (torch.float64, torch.float64)
    pair = cases.features((2, 12, 20, 7, 7), doubles, layout)
    exact = oracle(*pair, **cases.OPTIONS[options])
    found = of_maps(amd_loss, pair, backend, **cases.OPTIONS[options])
    assert relative_error(found.loss, exact.loss) < 1e-12
    for grad, true in zip(found.grads, exact.grads, strict=True):
        assert relative_error(grad, true) < 1e-11


@pytest.mark.parametrize("mode", ["code", "paper"])
@with_reference
def test_stands_for_the_features_in_at_loss(backend: str, mode: str) -> None:
    pair = cases.features((2, 12, 20, 7, 7), (torch.float64, torch.float64))
    exact = run(reference.at_loss, *pair, mode=mode)
    found = of_maps(at_loss, pair, backend, mode=mode)
    assert relative_error(found.loss, exact.loss) < 1e-12
    for grad, true in zip(found.grads, exact.grads, strict=True):
        assert relative_error(grad, true) < 1e-11


@every_backend
def test_a_teachers_map_in_float32_costs_a_few_roundings(backend: str) -> None:
    student, teacher = cases.features((4, 16, 24, 14, 14))
    exact = oracle(student, teacher)
    a = attention_map(teacher, backend=backend)
    found = run(lambda s, t: amd_loss(s, t, backend=backend), student, a)
    assert relative_error(found.loss, exact.loss) < 2e-6
    assert relative_error(found.grads[0], exact.grads[0]) < 5e-6


@pytest.mark.parametrize(
    ("dtype", "of_loss", "of_gradient"),
    [(None, 1e-6, 4e-6), (torch.float16, 4e-3, 1e-2), (torch.bfloat16, 3e-2, 8e-2)],
)
def test_a_teachers_map_costs_what_the_docstring_says(
    dtype: torch.dtype | None, of_loss: float, of_gradient: float
) -> None:
    for shape in ((8, 16, 48, 32, 32), (8, 512, 512, 7, 7)):
        student, teacher = cases.features(shape)
        exact = run(amd_loss, student, teacher)
        found = run(amd_loss, student, attention_map(teacher, dtype))
        assert relative_error(found.loss, exact.loss.double()) <= of_loss
        assert relative_error(found.grads[0], exact.grads[0].double()) <= of_gradient


@every_backend
def test_zeros_have_a_map_of_zero_and_no_gradient(backend: str) -> None:
    features = cases.features((2, 5, 3, 6, 6))[0]
    features[1] = 0
    features[0, :, 2, 3] = 0
    a, grad = map_and_gradient(features, upstream_of(features), backend=backend)
    assert not a[1].any()
    assert not grad[1].any()
    assert a[0, 0, 2, 3] == 0
    assert not grad[0, :, 2, 3].any()
    check(backend, features)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@with_reference
def test_nan_and_inf_reach_the_map_of_their_position_only(
    backend: str, layout: str, bad: float
) -> None:
    features = cases.features((2, 5, 3, 7, 5), layout=layout)[0]
    features[1, 2, 6, 4] = bad
    a = attention_map(features, backend=backend)
    wrong = ~a.isfinite()
    assert wrong.nonzero().tolist() == [[1, 0, 6, 4]]
    assert a[wrong].isnan().item() == (bad != bad)


@pytest.mark.parametrize("size", [1e18, 1e-18])
@with_reference
def test_sums_of_squares_keep_their_digits_where_the_docstring_says_so(
    backend: str, size: float
) -> None:
    features = cases.features((2, 9, 3, 6, 6))[0] * size
    exact, _ = formula(features, upstream_of(features))
    assert relative_error(attention_map(features, backend=backend), exact) < 1e-6


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy, in the interpreter
@with_reference
def test_beyond_its_range_the_map_is_infinite_or_zero(backend: str) -> None:
    for size, expected in ((3e19, torch.inf), (1e-23, 0.0)):
        features = torch.full((1, 1, 2, 2), size)
        assert (attention_map(features, backend=backend) == expected).all()


def launched(backend: str, features: Tensor) -> list[str]:
    if backend == "cuda":
        build.launched()
        attention_map(features, backend="cuda")
        return build.launched()
    from amd_fused.losses.attention_map.triton import attention_map_triton

    collected: list[Any] = []
    attention_map_triton(features, False, submit=collected.extend)
    return [launch.kernel.fn.__name__ for launch in collected]


@pytest.mark.parametrize(
    ("backend", "second"),
    [("cuda", "amd_layers_fwd_kernel"), ("triton", "attention_map_groups_kernel")],
    indirect=["backend"],
)
def test_features_are_read_once(backend: str, second: str) -> None:
    """By one launch; where channels are shared out, another adds up what each group came to."""
    many, few = torch.ones(130, 4, 8, 8), torch.ones(1, 300, 9, 10)
    assert launched(backend, many) == ["amd_map_fwd_kernel"]
    assert launched(backend, few) == ["amd_map_fwd_kernel", second]


@every_backend
def test_gradcheck_in_float64(backend: str) -> None:
    features = cases.features((2, 3, 1, 3, 4), (torch.float64, torch.float64))[0]
    assert torch.autograd.gradcheck(
        lambda a: attention_map(a, backend=backend),
        features.requires_grad_(),
        fast_mode=backend == "triton",  # one random direction: the interpreter is slow
    )


def test_the_reference_has_derivatives_of_second_order_and_in_forward_mode() -> None:
    features = cases.features((1, 2, 1, 2, 3), (torch.float64, torch.float64))[0].requires_grad_()
    assert torch.autograd.gradcheck(reference.attention_map, features, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(reference.attention_map, features)
