"""The C++ kernel is as accurate as eager PyTorch, for every option, dtype, layout and odd size.

Claim: its error against float64 is at most eager's own in the same dtype plus a tolerance: rounding
of a few float32 operations (float64 for float64). In half precision both round the gradient to the
same dtype last, so the same tolerance holds there.
"""

from __future__ import annotations

import functools
from typing import Any

import cases
import pytest
import torch
from measures import oracle, relative_error, run

from amd_fused import amd_loss, reference

# Beyond eager's own error: (loss, gradient), relative in the L2 norm.
TOLERANCE = {torch.float32: (2e-6, 5e-6), torch.float64: (1e-13, 1e-12)}
cpp = functools.partial(amd_loss, backend="cpp")


def check(shape: str, dtypes: str, layout: str, options: dict[str, Any], seed: int = 0) -> None:
    student, teacher = cases.features(cases.SHAPES[shape], cases.DTYPES[dtypes], layout, seed)
    exact = oracle(student, teacher, **options)
    eager = run(reference.amd_loss, student, teacher, **options)
    fused = run(cpp, student, teacher, **options)

    computed_in = reference.compute_dtype([student, teacher])
    assert fused.loss.dtype == eager.loss.dtype == computed_in
    loss_tolerance, grad_tolerance = TOLERANCE[computed_in]
    eager_error = relative_error(eager.loss, exact.loss)
    assert relative_error(fused.loss, exact.loss) <= eager_error + loss_tolerance
    for leaf, ours, theirs, truth in zip(
        (student, teacher), fused.grads, eager.grads, exact.grads, strict=True
    ):
        assert ours.dtype == leaf.dtype
        assert ours.shape == leaf.shape
        eager_error = relative_error(theirs, truth)
        assert relative_error(ours, truth) <= eager_error + grad_tolerance


@pytest.mark.parametrize("options", cases.OPTIONS.values(), ids=cases.OPTIONS.keys())
@pytest.mark.parametrize("dtypes", cases.DTYPES)
def test_every_option_in_every_dtype(options: dict[str, Any], dtypes: str) -> None:
    check("7x7", dtypes, "nchw", options)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("shape", cases.SHAPES)
@pytest.mark.parametrize("dtypes", cases.DTYPES)
def test_every_layout_of_every_size(shape: str, layout: str, dtypes: str) -> None:
    check(shape, dtypes, layout, {})


@pytest.mark.parametrize("options", cases.OPTIONS.values(), ids=cases.OPTIONS.keys())
@pytest.mark.parametrize("shape", [s for s in cases.SHAPES if s != "2x2"])
def test_every_option_at_every_size(shape: str, options: dict[str, Any]) -> None:
    check(shape, "float32", "channels_last", options, seed=1)


def test_2x2_map_has_no_local_loss() -> None:
    """Every quadrant is one position: its unit vector is its sign, equal on either side."""
    student, teacher = cases.features(cases.SHAPES["2x2"])
    fused = run(cpp, student, teacher, local_weight=1.0)
    assert fused.loss == 0
    assert all((grad == 0).all() for grad in fused.grads)


def test_1x1_map_has_no_loss() -> None:
    """p and n are unit vectors, exactly 0 apart; g = -exp(-64) is under the norm's floor: 1e-32."""
    student, teacher = cases.features((3, 8, 5, 1, 1))
    fused = run(cpp, student, teacher, local_weight=0.0)
    assert 0 <= fused.loss < 1e-30
    assert all((grad.abs() < 1e-30).all() for grad in fused.grads)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(("height", "width"), [(1, 40), (40, 1)])
def test_one_row_or_one_column(height: int, width: int, layout: str) -> None:
    student, teacher = cases.features((3, 8, 5, height, width), layout=layout)
    exact = oracle(student, teacher, local_weight=0.0)
    fused = run(cpp, student, teacher, local_weight=0.0)
    assert relative_error(fused.loss, exact.loss) < 2e-6
    assert all(relative_error(g, t) < 5e-6 for g, t in zip(fused.grads, exact.grads, strict=True))


def test_512x512_map() -> None:
    """262,144 positions: long sums, and the chunks of one sample shared by the threads."""
    student, teacher = cases.features((1, 2, 3, 512, 512))
    exact = oracle(student, teacher)
    fused = run(cpp, student, teacher)
    assert relative_error(fused.loss, exact.loss) < 2e-6
    assert all(relative_error(g, t) < 5e-6 for g, t in zip(fused.grads, exact.grads, strict=True))


def test_layers_of_different_sizes_dtypes_and_layouts_in_one_call() -> None:
    pairs = [
        cases.features((4, 6, 9, 8, 8)),
        cases.features((4, 12, 5, 7, 5), (torch.bfloat16, torch.float32), "channels_last"),
        cases.features((4, 3, 3, 4, 4), (torch.float16, torch.float16), "window"),
    ]
    students, teachers = [s for s, _ in pairs], [t for _, t in pairs]
    options = {"layer_weights": (1.0, 0.5, 3.0), "local_weight": 0.3}
    exact = oracle(students, teachers, **options)
    eager = run(reference.amd_loss, students, teachers, **options)
    fused = run(cpp, students, teachers, **options)
    assert relative_error(fused.loss, exact.loss) < 2e-6
    for ours, theirs, truth in zip(fused.grads, eager.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= relative_error(theirs, truth) + 5e-6


def test_nearly_equal_maps_lose_no_more_digits_than_eager() -> None:
    """A trained student: D_x is a small difference of large numbers, 2 - 2 cos would be noise."""
    student, _ = cases.features((4, 16, 16, 14, 14))
    teacher = student * (1 + 1e-3 * torch.randn(student.shape, generator=torch.manual_seed(3)))
    exact = oracle(student, teacher)
    eager = run(reference.amd_loss, student, teacher)
    fused = run(cpp, student, teacher)
    assert relative_error(fused.loss, exact.loss) <= relative_error(eager.loss, exact.loss) + 1e-5
    for ours, theirs, truth in zip(fused.grads, eager.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= relative_error(theirs, truth) + 1e-4


def test_angles_near_zero() -> None:
    """One bright position: q is 1 to rounding there, where autograd through acos gives NaN."""
    student, teacher = cases.features((2, 4, 4, 6, 6))
    student[:, :, 2, 3] *= 1e3
    teacher[:, :, 2, 3] *= 1e3
    exact = oracle(student, teacher)
    eager = run(reference.amd_loss, student, teacher)
    fused = run(cpp, student, teacher)
    assert relative_error(fused.loss, exact.loss) <= relative_error(eager.loss, exact.loss) + 2e-6
    for ours, theirs, truth in zip(fused.grads, eager.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= relative_error(theirs, truth) + 5e-6


@pytest.mark.parametrize("released", [False, True])
def test_gradcheck_in_float64(released: bool) -> None:
    student, teacher = cases.features((2, 3, 2, 4, 5), (torch.float64, torch.float64))
    formula = "released" if released else "paper"
    assert torch.autograd.gradcheck(
        lambda s, t: cpp(s, t, formula=formula, reduction="none"),
        (student.requires_grad_(), teacher.requires_grad_()),
    )
