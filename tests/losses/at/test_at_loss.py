"""at_loss is attention transfer: the released values, the formula, and the AMD loss's p-term."""

from __future__ import annotations

from typing import Any

import cases
import pytest
import released
import torch
import torch.nn.functional as F
from at_oracle import formula
from measures import relative_error, run
from torch import Tensor

from amd_fused import ATLoss, amd_loss, at_loss, reference

FUSED = ["cpp", "cuda", "triton"]
SHAPES = {name: cases.SHAPES[name] for name in ("7x7", "3x5", "2x2", "one channel", "56x56")}
SHAPES["1x1"] = (3, 4, 2, 1, 1)


def eager(student: Any, teacher: Any) -> Tensor:
    """The released code's lines."""

    def attention(f: Tensor) -> Tensor:
        return F.normalize(f.pow(2).mean(1).view(f.size(0), -1))

    pairs = zip(student, teacher, strict=True)
    return sum((attention(s) - attention(t)).pow(2).mean() for s, t in pairs)


@pytest.mark.parametrize("case", released.cases("at"), ids=released.name)
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_values_and_gradients_of_the_released_code(backend: str, case: dict[str, Any]) -> None:
    student, teacher = released.tensor(case["student"]), released.tensor(case["teacher"])
    for name in (backend, "reference"):
        result = run(at_loss, student, teacher, backend=name, **case["options"])
        assert result.loss.item() == pytest.approx(case["value"], rel=1e-12)
        assert result.grads[0].norm().item() == pytest.approx(case["grad_norm"], rel=1e-12)
        first = result.grads[0].flatten()[:6].tolist()
        assert first == pytest.approx(case["grad_first"], rel=1e-9)


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4])
def test_is_the_formula_for_every_power(p: float, mode: str) -> None:
    pairs = [cases.features(shape, (torch.float64, torch.float64)) for shape in SHAPES.values()]
    pairs = [(s[:1], t[:1]) for s, t in pairs]
    students, teachers = [s for s, _ in pairs], [t for _, t in pairs]
    expected = formula(students, teachers, p, mode)
    for loss in (at_loss, reference.at_loss):
        found = loss(students, teachers, p=p, mode=mode)
        assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
@pytest.mark.filterwarnings("ignore:at_loss. the gradient is 0")
def test_kernels_agree_with_the_formula_and_its_gradient(
    backend: str, mode: str, name: str
) -> None:
    student, teacher = cases.features(SHAPES[name], (torch.float64, torch.float64))
    found = run(at_loss, student, teacher, mode=mode, backend=backend)
    exact = run(reference.at_loss, student, teacher, mode=mode)
    expected = formula([student], [teacher], mode=mode)
    assert found.loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    for grad, exact_grad in zip(found.grads, exact.grads, strict=True):
        torch.testing.assert_close(grad, exact_grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_is_the_second_term_of_the_amd_loss(backend: str) -> None:
    student, teacher = cases.features((3, 8, 5, 9, 7), (torch.float64, torch.float64))
    for mode, reduction in (("code", "mean"), ("paper", "batchmean")):
        of_amd = amd_loss(
            student,
            teacher,
            local_weight=0.0,
            component_weights=(0, 3, 0),
            eps=0.0,
            reduction=reduction,
            backend="reference",
        )
        found = at_loss(student, teacher, mode=mode, backend=backend)
        torch.testing.assert_close(found, of_amd, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_all_zero_samples_have_finite_loss_and_zero_gradient(backend: str) -> None:
    for side in (0, 1):
        features = cases.features((2, 5, 6, 6, 6))
        features[side][1] = 0
        for name in (backend, "reference"):
            result = run(at_loss, *features, backend=name)
            expected = formula([features[0]], [features[1]])
            assert result.loss.item() == pytest.approx(expected, rel=1e-5)
            assert (result.grads[side][1] == 0).all()
            assert all(torch.isfinite(grad).all() for grad in result.grads)


@pytest.mark.parametrize("p", [1, 3])
def test_a_map_with_zeros_has_finite_gradients_for_other_powers(p: float) -> None:
    student, teacher = (a.relu() for a in cases.features((2, 5, 6, 6, 6)))
    student[1] = 0
    result = run(at_loss, student, teacher, p=p)
    assert torch.isfinite(result.loss)
    assert (result.grads[0][1] == 0).all()
    assert all(torch.isfinite(grad).all() for grad in result.grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_error_is_no_larger_than_that_of_eager_pytorch(backend: str, dtype: torch.dtype) -> None:
    student, teacher = cases.features((3, 12, 20, 14, 14), (dtype, dtype))
    exact = run(reference.at_loss, student.double(), teacher.double())
    found = run(at_loss, student, teacher, backend=backend)
    plain = run(eager, student, teacher)
    assert found.loss.dtype == torch.float32
    limit = relative_error(plain.loss, exact.loss) + 1e-6
    assert relative_error(found.loss, exact.loss) <= limit
    for mine, theirs, truth in zip(found.grads, plain.grads, exact.grads, strict=True):
        limit = relative_error(theirs, truth) + 2 * torch.finfo(dtype).eps
        assert relative_error(mine, truth) <= limit


@pytest.mark.parametrize("p", [2, 4])
def test_half_precision_does_not_overflow(p: float) -> None:
    student, teacher = cases.features((2, 6, 6, 8, 8), (torch.float16, torch.float16))
    student, teacher = 300 * student, 300 * teacher
    expected = formula([student], [teacher], p)
    assert at_loss(student, teacher, p).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("p", [1.5, 2, 3])
def test_reference_gradients_of_both_orders(p: float) -> None:
    features = cases.features((2, 3, 2, 3, 2), (torch.float64, torch.float64))
    leaves = [a.requires_grad_() for a in features]
    assert torch.autograd.gradcheck(lambda s, t: reference.at_loss(s, t, p=p), leaves)
    assert torch.autograd.gradgradcheck(lambda s, t: reference.at_loss(s, t, p=p), leaves)


def test_unequal_sizes_are_pooled_on_request() -> None:
    student, teacher = torch.randn(2, 3, 8, 6), torch.randn(2, 5, 4, 3)
    expected = at_loss(F.avg_pool2d(student, 2), teacher)
    torch.testing.assert_close(at_loss(student, teacher, align="adaptive_avg"), expected)
    torch.testing.assert_close(
        ATLoss(align="adaptive_avg")(teacher, student), at_loss(teacher, F.avg_pool2d(student, 2))
    )
    with pytest.raises(ValueError, match=r"^at_loss: .* same height and width, .*adaptive_avg"):
        at_loss(student, teacher)


def test_only_squares_have_kernels() -> None:
    student, teacher = cases.features((2, 3, 3, 4, 4))
    with pytest.raises(RuntimeError, match=r"^at_loss: backend 'cpp' has kernels for p = 2 alone"):
        at_loss(student, teacher, 3, backend="cpp")
    named = at_loss(student, teacher, 3, backend="reference")
    assert torch.equal(named, at_loss(student, teacher, 3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"p": 0.5}, ValueError, "p must be finite and >= 1, got 0.5"),
        ({"p": "2"}, TypeError, "p must be a number, got str"),
        ({"p": float("nan")}, ValueError, "p must be finite and >= 1, got nan"),
        ({"mode": "mean"}, ValueError, "mode must be one of 'code', 'paper', got 'mean'"),
        ({"align": "pool"}, ValueError, "align must be one of"),
        ({"backend": "gpu"}, ValueError, "backend must be one of"),
        ({"layer_weights": [-1.0]}, ValueError, r"layer_weights\[0\] must be finite and >= 0"),
    ],
)
def test_bad_options_are_named(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^at_loss: {message}"):
        at_loss(torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4), **options)
    with pytest.raises(error, match=f"^ATLoss: {message}"):
        ATLoss(**options)
