"""What reference.amd_loss takes: any float dtype, NaN and Inf, 1x1 maps, pairs of two sizes."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor

from amd_fused.reference import amd_loss

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OPTIONS = [{}, {"formula": "released", "mask_threshold": 0.5}, {"reduction": "none"}]


def features(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=g)


@pytest.mark.parametrize("dtype_s", DTYPES)
@pytest.mark.parametrize("dtype_t", DTYPES)
def test_takes_any_float_dtype_and_computes_in_float32_or_float64(dtype_s, dtype_t):
    student, teacher = features(2, 3, 3, 5).to(dtype_s), features(2, 2, 3, 5, seed=1).to(dtype_t)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = amd_loss(student, teacher)
    double = torch.float64 in (dtype_s, dtype_t)
    assert loss.dtype == (torch.float64 if double else torch.float32)
    expected = oracle.amd_loss(student.detach().double().numpy(), teacher.detach().double().numpy())
    assert loss.item() == pytest.approx(float(expected), rel=1e-12 if double else 1e-5)
    loss.backward()
    for a in (student, teacher):
        assert a.grad is not None
        assert a.grad.dtype == a.dtype
        assert a.grad.isfinite().all()
        assert a.grad.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_nan_and_inf_reach_the_loss_and_the_gradient(bad, side, dtype, options):
    pair = [features(2, 3, 4, 4).to(dtype), features(2, 3, 4, 4, seed=1).to(dtype)]
    pair[side][1, 2, 0, 3] = bad
    student = pair[0].requires_grad_()
    loss = amd_loss(student, pair[1], **options)
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad[1].isnan().any()
    if loss.ndim:
        assert loss.isnan().tolist() == [False, True]  # the sound sample stays sound
        assert student.grad[0].isfinite().all()
    else:
        assert loss.isnan()


@pytest.mark.parametrize("formula", ["paper", "released"])
def test_maps_of_one_position_have_no_loss_and_no_gradient(formula):
    student = features(3, 4, 1, 1).requires_grad_()
    teacher = features(3, 2, 1, 1, seed=1)
    loss = amd_loss(student, teacher, local_weight=0.0, formula=formula)
    loss.backward()
    # g is about -e^-64 there, below the floor of the norm, and g^ not quite 1.
    assert loss.item() < 1e-30
    assert student.grad is not None
    # n is about 1e-6 there: what rounding leaves of its normalisation's gradient is 1e-16 / 1e-6.
    assert student.grad.abs().max() < 1e-15


@pytest.mark.parametrize("options", OPTIONS)
def test_is_symmetric_in_student_and_teacher(options):
    a, b = (features(2, 3, 5, 4, seed=seed).requires_grad_() for seed in (0, 1))
    forwards = torch.autograd.grad(amd_loss(a, b, **options).sum(), (a, b))
    backwards = torch.autograd.grad(amd_loss(b, a, **options).sum(), (a, b))
    torch.testing.assert_close(
        amd_loss(a, b, **options), amd_loss(b, a, **options), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(forwards, backwards, rtol=1e-12, atol=1e-18)


def test_is_0_for_equal_features_and_for_multiples_of_them():
    a = features(2, 3, 5, 4)
    assert amd_loss(a, a).item() == 0
    assert amd_loss(a, -3 * a, eps=0.0).item() == pytest.approx(0, abs=1e-28)


def test_one_tensor_is_a_list_of_one():
    a, b = features(2, 3, 5, 4), features(2, 3, 5, 4, seed=1)
    assert torch.equal(amd_loss(a, b), amd_loss([a], (b,)))


def test_the_reductions_agree():
    a, b = features(3, 2, 3, 5), features(3, 2, 3, 5, seed=1)
    each = amd_loss(a, b, reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(each.mean(), amd_loss(a, b), rtol=1e-14, atol=0)
    # Summed over the 15 positions rather than averaged, for the global part alone.
    torch.testing.assert_close(
        amd_loss(a, b, reduction="batchmean", local_weight=0.0),
        15 * amd_loss(a, b, local_weight=0.0),
        rtol=1e-14,
        atol=0,
    )


def pooled(a: np.ndarray, height: int, width: int) -> np.ndarray:
    """Adaptive average pooling: row i covers rows floor(i H / h) to ceil((i + 1) H / h) - 1."""
    rows, cols = a.shape[2:]
    out = np.empty((*a.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            window = a[
                :,
                :,
                i * rows // height : -(-(i + 1) * rows // height),
                j * cols // width : -(-(j + 1) * cols // width),
            ]
            out[:, :, i, j] = window.mean((2, 3))
    return out


@pytest.mark.parametrize(
    ("size_s", "size_t", "common"),
    [
        ((8, 8), (4, 4), (4, 4)),
        ((4, 4), (8, 8), (4, 4)),
        ((7, 7), (3, 5), (3, 5)),
        ((6, 4), (3, 4), (3, 4)),  # larger in height alone
        ((5, 4), (5, 9), (5, 4)),  # larger in width alone
        ((6, 3), (4, 5), (4, 3)),  # each is larger in one
        ((3, 4), (3, 4), (3, 4)),
    ],
)
def test_adaptive_avg_pools_features_to_the_smaller_size(size_s, size_t, common):
    student, teacher = features(2, 2, *size_s), features(2, 3, *size_t, seed=1)
    loss = amd_loss(student, teacher, align="adaptive_avg")
    expected = oracle.amd_loss(pooled(student.numpy(), *common), pooled(teacher.numpy(), *common))
    assert loss.item() == pytest.approx(float(expected), rel=1e-12)
