"""rkd_loss compares distances and angles between samples, in memory that grows with B^2 alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import released
import torch
import torch.nn.functional as F
from measures import relative_error, run
from rkd_oracle import formula
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from amd_fused import RKDLoss, reference, rkd_loss

BOTH = pytest.mark.parametrize("loss", [rkd_loss, reference.rkd_loss], ids=["public", "reference"])


def eager(student: Any, teacher: Any) -> Tensor:
    """The released code's lines, of one pair."""

    def distances(e: Tensor) -> Tensor:
        square = e.pow(2).sum(dim=1)
        d = (square[:, None] + square[None, :] - 2 * e @ e.t()).clamp(min=1e-12).sqrt().clone()
        d[range(len(e)), range(len(e))] = 0
        return d / d[d > 0].mean()

    def cosines(e: Tensor) -> Tensor:
        direction = F.normalize(e[None] - e[:, None], p=2, dim=2)
        return torch.bmm(direction, direction.transpose(1, 2))

    (s,), (t,) = student, teacher
    distance = F.smooth_l1_loss(distances(s), distances(t))
    return 25 * distance + 50 * F.smooth_l1_loss(cosines(s), cosines(t))


@BOTH
@pytest.mark.parametrize("case", released.cases("rkd"), ids=released.name)
def test_values_and_gradients_of_the_released_code(case: dict[str, Any], loss: Any) -> None:
    student, teacher = released.tensor(case["student"]), released.tensor(case["teacher"])
    result = run(loss, student, teacher, **case["options"])
    assert result.loss.item() == pytest.approx(case["value"], rel=1e-12)
    assert result.grads[0].norm().item() == pytest.approx(case["grad_norm"], rel=1e-12)
    first = result.grads[0].flatten()[:6].tolist()
    assert first == pytest.approx(case["grad_first"], rel=1e-9)


@BOTH
def test_worked_by_hand(loss: Any) -> None:
    # An equilateral triangle against half a square. Distances: 1, 1, 1 and 1, 1, sqrt(2), in units
    # of their mean. Cosines: 1/2 three times; 0, and 1 / sqrt(2) twice. Every pair counts twice.
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    mean = (2 + math.sqrt(2)) / 3
    distance = (2 * (1 - 1 / mean) ** 2 + (1 - math.sqrt(2) / mean) ** 2) / 9
    angle = (0.5**2 + 2 * (0.5 - 1 / math.sqrt(2)) ** 2) / 27
    assert loss(student, teacher).item() == pytest.approx(25 * distance + 50 * angle)
    alone = loss(student, teacher, distance_weight=1, angle_weight=0)
    assert alone.item() == pytest.approx(distance)
    alone = loss(student, teacher, distance_weight=0, angle_weight=2)
    assert alone.item() == pytest.approx(2 * angle)


@BOTH
@pytest.mark.parametrize("weights", [(25, 50), (3, 0), (0, 7)])
def test_is_the_formula(weights: tuple[float, float], loss: Any) -> None:
    # Far apart and close together, so that both branches of smooth L1 are taken.
    student = torch.randn(9, 3, 2, 2, dtype=torch.float64).exp() ** 2
    teacher = torch.randn(9, 4, dtype=torch.float64)
    found = loss(student, teacher, distance_weight=weights[0], angle_weight=weights[1])
    assert found.item() == pytest.approx(formula(student, teacher, *weights), rel=1e-12)


@BOTH
def test_gradients_reach_both_sides(loss: Any) -> None:
    leaves = [
        torch.randn(5, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(5, 2, 2, 2, dtype=torch.float64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t), leaves)


def test_second_derivatives_are_the_references() -> None:
    leaves = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradgradcheck(reference.rkd_loss, leaves)
    (grad,) = torch.autograd.grad(rkd_loss(*leaves), leaves[0], create_graph=True)
    message = "^rkd_loss: it has no second derivatives; use amd_fused.reference.rkd_loss"
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(grad.sum(), leaves[0])


def test_samples_in_one_place_have_no_gradient_between_them() -> None:
    student, teacher = (torch.randn(6, 4, dtype=torch.float64) for _ in range(2))
    student[4] = student[1]
    teacher[5] = teacher[0]
    expected = formula(student, teacher, 25, 50)
    results = [run(loss, student, teacher) for loss in (rkd_loss, reference.rkd_loss)]
    for result in results:
        assert result.loss.item() == pytest.approx(expected, rel=1e-12)
        assert all(torch.isfinite(grad).all() for grad in result.grads)
    for mine, theirs in zip(results[0].grads, results[1].grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_all_samples_in_one_place_have_a_finite_loss_and_no_gradient(
    dtype: torch.dtype, loss: Any
) -> None:
    student = torch.randn(1, 7).expand(5, 7).to(dtype)
    teacher = torch.randn(5, 3).to(dtype)
    result = run(loss, student, teacher)
    assert result.loss.item() == pytest.approx(formula(student, teacher, 25, 50), rel=1e-3)
    assert (result.grads[0] == 0).all()
    assert torch.isfinite(result.grads[1]).all()


@BOTH
@pytest.mark.filterwarnings("ignore:rkd_loss. the gradient is 0")
def test_two_samples_are_always_alike(loss: Any) -> None:
    result = run(loss, torch.randn(2, 5), torch.randn(2, 3))
    assert result.loss.item() == pytest.approx(0, abs=1e-12)
    assert all(grad.abs().max() < 1e-5 for grad in result.grads)


def test_samples_close_together_keep_their_digits() -> None:
    """A thousandth of the others' distance apart: squares of float32 would cancel."""
    student, teacher = (torch.randn(12, 16) + 3 for _ in range(2))
    student[1] = student[0] + 1e-3 * torch.randn(16)
    exact = run(reference.rkd_loss, student.double(), teacher.double())
    found = run(rkd_loss, student, teacher)
    assert relative_error(found.loss, exact.loss) < 1e-6
    assert relative_error(found.grads[0], exact.grads[0]) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_no_larger_than_that_of_eager_pytorch(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(16, 24).to(dtype), torch.randn(16, 40).to(dtype)
    exact = run(reference.rkd_loss, student.double(), teacher.double())
    found, plain = run(rkd_loss, student, teacher), run(eager, student, teacher)
    assert found.loss.dtype == torch.float32
    # In float16 eager PyTorch is NaN: its floor of 1e-12 under a norm is 0 there.
    eager_works = dtype != torch.float16
    assert bool(torch.isfinite(plain.loss)) is eager_works
    limit = 1e-6 + (relative_error(plain.loss, exact.loss) if eager_works else 0)
    assert relative_error(found.loss, exact.loss) <= limit
    for mine, theirs, truth in zip(found.grads, plain.grads, exact.grads, strict=True):
        limit = torch.finfo(dtype).eps + (relative_error(theirs, truth) if eager_works else 0)
        assert relative_error(mine, truth) <= limit


def test_blocks_of_triplets_add_up_to_one_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from amd_fused.losses.rkd import operator as rkd

    student, teacher = torch.randn(11, 6), torch.randn(11, 4)
    whole = run(rkd_loss, student, teacher)
    for triplets in (1, 50, 121, 5 * 121):  # a row, some rows, an anchor, some anchors
        monkeypatch.setitem(rkd._CHUNK, "cpu", triplets)
        parts = run(rkd_loss, student, teacher)
        torch.testing.assert_close(parts.loss, whole.loss)
        torch.testing.assert_close(parts.grads, whole.grads)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_memory_is_sixteen_matrices_of_the_batchs_square(one_thread: None) -> None:
    """And a constant. The angles would be 131 MB in float32, and their gradient as much again."""
    batch, width = 320, 8
    student = torch.randn(batch, width, requires_grad=True)
    teacher = torch.randn(batch, width)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        rkd_loss(student, teacher).backward()
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = peak = 0
    for _, change in sorted(changes):
        now += change
        peak = max(peak, now)
    matrix = batch * batch * 8
    assert matrix < peak <= 16 * matrix + 6 * (8 << 17)
    assert max(change for _, change in changes) <= matrix
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("needs_grad", [[True, True], [True, False], [False, False]])
def test_opcheck_passes(needs_grad: list[bool]) -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 2, 2)
    operators = torch.ops.amd_fused
    arguments = (student, teacher, torch.tensor([25.0, 50.0]).double(), needs_grad)
    forward = torch.library.opcheck(operators.rkd_fwd.default, arguments)
    d_square = torch.randn(4, 4, dtype=torch.float64)
    backward = torch.library.opcheck(
        operators.rkd_bwd.default, (torch.tensor(2.0), student, d_square)
    )
    assert {*forward.values(), *backward.values()} == {"SUCCESS"}


def test_one_sample_has_no_relations() -> None:
    message = r"^rkd_loss: the batch must have at least 2 samples, .* got B = 1; .*drop_last"
    with pytest.raises(ValueError, match=message):
        rkd_loss(torch.ones(1, 4), torch.ones(1, 3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"distance_weight": -1}, ValueError, "distance_weight must be finite and >= 0, got -1"),
        ({"angle_weight": math.inf}, ValueError, "angle_weight must be finite and >= 0, got inf"),
        ({"angle_weight": "50"}, TypeError, "angle_weight must be a number, got str"),
        (
            {"distance_weight": 0, "angle_weight": 0},
            ValueError,
            "distance_weight or angle_weight must be > 0",
        ),
    ],
)
def test_bad_options_are_named(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^rkd_loss: {message}"):
        rkd_loss(torch.ones(2, 3), torch.ones(2, 3), **options)
    with pytest.raises(error, match=f"^RKDLoss: {message}"):
        RKDLoss(**options)
