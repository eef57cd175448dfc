"""sp_loss compares the batch's similarity matrices, without copies of the features."""

from __future__ import annotations

from itertools import product
from typing import Any

import cases
import pytest
import released
import torch
import torch.nn.functional as F
from measures import relative_error, run
from operator_checks import every_part, passes
from sp_oracle import formula
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from amd_fused import SPLoss, backends, reference, sp_loss


def eager(student: Any, teacher: Any) -> Tensor:
    """The released code's lines, but for the shape of its result."""

    def similarity(f: Tensor) -> Tensor:
        x = f.reshape(f.shape[0], -1)
        return F.normalize(torch.mm(x, x.t()))

    (s,), (t,) = student, teacher
    return (similarity(t) - similarity(s)).square().sum() / s.shape[0] ** 2


def allocations(function: Any) -> list[int]:
    """Sizes in bytes of the blocks that torch's CPU allocator handed out meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    return [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]


@pytest.mark.parametrize("loss", [sp_loss, reference.sp_loss], ids=["public", "reference"])
@pytest.mark.parametrize("case", released.cases("sp"), ids=released.name)
def test_values_and_gradients_of_the_released_code(case: dict[str, Any], loss: Any) -> None:
    student, teacher = released.tensor(case["student"]), released.tensor(case["teacher"])
    result = run(loss, student, teacher, **case["options"])
    assert result.loss.shape == ()
    assert result.loss.item() == pytest.approx(case["value"], rel=1e-12)
    assert result.grads[0].norm().item() == pytest.approx(case["grad_norm"], rel=1e-12)
    first = result.grads[0].flatten()[:6].tolist()
    assert first == pytest.approx(case["grad_first"], rel=1e-9)


@pytest.mark.parametrize("loss", [sp_loss, reference.sp_loss], ids=["public", "reference"])
@pytest.mark.parametrize("norm_p", [1, 1.5, 2, 3])
def test_is_the_formula_for_every_norm(norm_p: float, loss: Any) -> None:
    student = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    teacher = torch.randn(5, 17, dtype=torch.float64)
    found = loss(student, teacher, norm_p=norm_p)
    assert found.item() == pytest.approx(formula(student, teacher, norm_p), rel=1e-12)


def test_worked_by_hand() -> None:
    # Two samples at 45 degrees against two at right angles: rows (2, 1) / sqrt(5), (1, 1) / sqrt(2)
    # and (1, 0), (0, 1).
    student, teacher = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.eye(2)
    rows = [(2 / 5**0.5 - 1) ** 2, 1 / 5, 1 / 2, (1 / 2**0.5 - 1) ** 2]
    assert sp_loss(student, teacher).item() == pytest.approx(sum(rows) / 4)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_strides_give_the_same_loss_and_gradient(layout: str, dtype: torch.dtype) -> None:
    plain = cases.features((4, 6, 5, 7, 5), (dtype, dtype))
    strided = [cases.LAYOUTS[layout](a) for a in plain]
    expected, found = run(eager, *(a.double() for a in plain)), run(sp_loss, *strided)
    torch.testing.assert_close(found.loss, expected.loss.float(), rtol=1e-5, atol=1e-9)
    for a, grad, exact in zip(strided, found.grads, expected.grads, strict=True):
        torch.testing.assert_close(grad, exact.to(dtype), rtol=1e-3, atol=1e-5)
        assert grad.stride() == torch.empty_like(a).stride()


def test_half_precision_features_are_summed_beyond_the_range_of_half_precision() -> None:
    student, teacher = 60 * torch.randn(4, 40_000), 60 * torch.randn(4, 30_000)
    student, teacher = student.half(), teacher.half()
    assert not torch.isfinite(eager([student], [teacher]))
    found = sp_loss(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(formula(student, teacher), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_no_larger_than_that_of_eager_pytorch(dtype: torch.dtype) -> None:
    student, teacher = cases.features((8, 12, 20, 14, 14), (dtype, dtype))
    exact = run(reference.sp_loss, student.double(), teacher.double())
    found, plain = run(sp_loss, student, teacher), run(eager, student, teacher)
    limit = relative_error(plain.loss, exact.loss) + 1e-5
    assert relative_error(found.loss, exact.loss) <= limit
    for mine, theirs, truth in zip(found.grads, plain.grads, exact.grads, strict=True):
        limit = relative_error(theirs, truth) + 2 * torch.finfo(dtype).eps
        assert relative_error(mine, truth) <= limit


@pytest.mark.parametrize("products", ["kernels", "torch"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_copy_of_a_features_size_is_made_besides_the_gradient(
    dtype: torch.dtype, layout: str, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products == "torch":
        monkeypatch.setenv("AMD_FUSED_BACKEND", "reference")
    shape = (8, 64, 64, 64, 64)  # two chunks of half precision
    student, teacher = cases.features(shape, (dtype, dtype), layout)
    student.requires_grad_()
    numbers, chunk = student.numel(), 1 << 20
    kernels = products == "kernels" and backends()["cpp"] == "usable"
    widening = 1 if (dtype == torch.float16 and not kernels) or layout == "window" else 0

    forward = allocations(lambda: sp_loss(student, teacher))
    assert forward, "the profiler saw no allocation"
    assert max(forward) <= max(1 << 16, widening * chunk * 4)
    loss = sp_loss(student, teacher)
    backward = allocations(lambda: torch.autograd.grad(loss, student))
    own = numbers * student.element_size()
    assert backward.count(own) >= 1
    assert all(n <= widening * chunk * 4 for n in backward if n > 1 << 16 and n != own)
    if widening == 0:
        assert backward.count(own) == 1


def test_all_zero_samples_have_no_direction_and_give_no_gradient() -> None:
    student, teacher = torch.randn(4, 3, 5, 5), torch.randn(4, 6, 5, 5)
    student[1] = 0
    for loss in (sp_loss, reference.sp_loss):
        result = run(loss, student, teacher)
        assert result.loss.item() == pytest.approx(formula(student, teacher), rel=1e-5)
        assert all(torch.isfinite(grad).all() for grad in result.grads)
        # Through other rows alone, where the sample stands beside others: no 1e12 times anything.
        assert result.grads[0][1].abs().max() < 1
    nothing = run(sp_loss, torch.zeros(3, 4), torch.zeros(3, 4))
    assert nothing.loss == 0
    assert all((grad == 0).all() for grad in nothing.grads)


@pytest.mark.filterwarnings("ignore:sp_loss. the gradient is 0")
def test_one_sample_is_like_itself() -> None:
    result = run(sp_loss, torch.randn(1, 8), torch.randn(1, 5))
    assert result.loss == 0
    assert all((grad == 0).all() for grad in result.grads)


@pytest.mark.parametrize("loss", [sp_loss, reference.sp_loss], ids=["public", "reference"])
@pytest.mark.parametrize("norm_p", [2, 3])
def test_gradients_of_both_orders(norm_p: float, loss: Any) -> None:
    leaves = [
        torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(3, 5, dtype=torch.float64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, norm_p=norm_p), leaves)
    assert torch.autograd.gradgradcheck(lambda s, t: loss(s, t, norm_p=norm_p), leaves)


@every_part(
    ("dtype", "layout"),
    product([torch.float32, torch.float16], ["nchw", "channels_last", "window"]),
)
def test_opcheck_passes(dtype: torch.dtype, layout: str, part: str) -> None:
    features, _ = cases.features((3, 4, 4, 5, 6), (dtype, dtype), layout)
    operators = torch.ops.amd_fused
    assert passes(operators.sp_gram_fwd.default, (features, False), part)
    assert passes(operators.sp_gram_bwd.default, (torch.randn(3, 3), features), part)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm_p": 0}, ValueError, "norm_p must be finite and >= 1, got 0"),
        ({"norm_p": None}, TypeError, "norm_p must be a number, got NoneType"),
        ({"layer_weights": 1.0}, TypeError, "layer_weights must be a list or tuple"),
    ],
)
def test_bad_options_are_named(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^sp_loss: {message}"):
        sp_loss(torch.ones(2, 3), torch.ones(2, 3), **options)
    with pytest.raises(error, match=f"^SPLoss: {message}"):
        SPLoss(**options)
