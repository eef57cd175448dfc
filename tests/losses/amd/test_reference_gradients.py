"""reference.amd_loss has right first and second derivatives, also where theta or a map is 0."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from amd_fused.reference import amd_loss, cos_margin

MARGINS = [0.5, 1.0, 1.35, 2.0, 3.7, 9.3]
OPTIONS = {
    "defaults": {},
    "global": {"local_weight": 0.0},
    "released": {"formula": "released"},
    "masked": {"mask_threshold": 0.5},
    "batchmean": {"reduction": "batchmean", "margin": 3.7, "scale": 8.0},
    "none": {"reduction": "none", "component_weights": (0.5, 2.0, 3.0), "eps": 0.1},
}


def pair(height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    student = torch.randn(batch, 2, height, width, dtype=torch.float64, generator=g)
    teacher = torch.randn(batch, 1, height, width, dtype=torch.float64, generator=g)
    return student.requires_grad_(), teacher.requires_grad_()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_first_derivatives_by_both_sides(options):
    # scale: the default of 64 bends g within gradcheck's step of 1e-6 more than it allows for.
    options = {"scale": 16.0, **options}
    batch = 2 if options.get("reduction") == "none" else 1
    assert gradcheck(lambda s, t: amd_loss(s, t, **options), pair(3, 2, batch))


@pytest.mark.parametrize(
    ("options", "entry_by_entry"),
    [
        (OPTIONS["defaults"], True),
        *((options, False) for name, options in OPTIONS.items() if name != "defaults"),
        *(
            pytest.param(options, True, marks=pytest.mark.exhaustive)
            for name, options in OPTIONS.items()
            if name != "defaults"
        ),
    ],
)
def test_second_derivatives_by_both_sides(options, entry_by_entry):
    options = {"scale": 16.0, **options}
    batch = 2 if options.get("reduction") == "none" else 1
    assert gradgradcheck(
        lambda s, t: amd_loss(s, t, **options),
        pair(2, 2, batch),
        fast_mode=not entry_by_entry,  # along one random direction
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_second_derivatives_are_finite_where_a_map_or_a_quadrant_is_0(options):
    student, teacher = (a.detach() for a in pair(4, 4))
    student[0] = 0
    student[1, :, :2, :2] = 0
    student.requires_grad_()
    loss = amd_loss(student, teacher, **options).sum()
    (first,) = torch.autograd.grad(loss, student, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), student)
    assert second.isfinite().all()
    assert second[1].any()


def test_torch_func_transforms_give_the_same_derivatives():
    student, teacher = pair(3, 2)
    teacher = teacher.detach()

    def loss(a: Tensor) -> Tensor:
        return amd_loss(a, teacher)

    (first,) = torch.autograd.grad(loss(student), student, create_graph=True)
    (along,) = torch.autograd.grad(first.sum(), student)
    point = student.detach()
    torch.testing.assert_close(torch.func.grad(loss)(point), first.detach())
    torch.testing.assert_close(
        torch.func.grad(lambda a: torch.func.grad(loss)(a).sum())(point), along
    )
    each = torch.func.vmap(lambda s, t: amd_loss(s[None], t[None]))(point, teacher)
    torch.testing.assert_close(each, amd_loss(point, teacher, reduction="none"))


@pytest.mark.parametrize("margin", MARGINS)
def test_cos_margin_has_its_limits_at_q_1(margin):
    q = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = cos_margin(q, margin)
    (first,) = torch.autograd.grad(value, q, create_graph=True)
    (second,) = torch.autograd.grad(first, q)
    assert value.item() == 1
    # T_m(q) = cos(m arccos q): T_m'(1) = m^2, T_m''(1) = m^2 (m^2 - 1) / 3.
    assert first.item() == pytest.approx(margin**2, rel=1e-14)
    assert second.item() == pytest.approx(margin**2 * (margin**2 - 1) / 3, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("margin", MARGINS)
def test_cos_margin_is_smooth_from_q_0_to_q_1(margin):
    # Among them both sides of where the slope changes from its series to sines, 1 - q = 1e-3 / m^2.
    change = 1e-3 / max(1.0, margin**2)
    gaps = [1e-15, 1e-9, 1e-6, change * (1 - 1e-9), change * (1 + 1e-9), 0.01, 0.3, 0.7, 0.999, 1]
    q = 1 - torch.tensor(gaps, dtype=torch.float64)
    q.requires_grad_()
    value = cos_margin(q, margin)
    (first,) = torch.autograd.grad(value.sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), q)
    m = mpf(margin)
    for i, x in enumerate(map(mpf, q.tolist())):
        with mp.workdps(60):  # the differences below lose half of them at q = 1 - 1e-15
            theta, sine = mp.acos(x), mp.sqrt(1 - x * x)
            # T = cos(m theta): T' = m sin(m theta) / sin(theta), (1 - q^2) T'' = q T' - m^2 T.
            slope = m * mp.sin(m * theta) / sine
            bend = (x * slope - m**2 * mp.cos(m * theta)) / sine**2
        assert value[i].item() == pytest.approx(float(mp.cos(m * theta)), abs=1e-14)
        assert first[i].item() == pytest.approx(float(slope), abs=1e-14 * margin**2 + 1e-14)
        assert second[i].item() == pytest.approx(float(bend), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("margin", MARGINS)
def test_cos_margin_takes_q_an_ulp_above_1(margin):
    q = torch.tensor(1 + 2**-52, dtype=torch.float64, requires_grad=True)
    value = cos_margin(q, margin)
    value.backward()
    assert value.item() == pytest.approx(1, abs=1e-13)
    assert q.grad is not None
    assert q.grad.item() == pytest.approx(margin**2, rel=1e-12)


@pytest.mark.parametrize("local_weight", [0.0, 0.2])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_gradient_is_finite_and_right_with_one_hot_position(local_weight, eps):
    student, teacher = np.zeros((1, 2, 4, 4)), np.random.RandomState(0).randn(1, 3, 4, 4)
    student[0, :, 1, 2] = 0.3, -1.2
    options = {"local_weight": local_weight, "eps": eps}
    a_s = torch.from_numpy(student).requires_grad_()
    loss = amd_loss(a_s, torch.from_numpy(teacher), **options)
    loss.backward()
    assert a_s.grad is not None
    entries = [(0, 0, 1, 2), (0, 1, 1, 2), (0, 0, 0, 0), (0, 1, 3, 2)]
    expected = oracle.gradient(student, teacher, entries, **options)
    assert loss.item() == pytest.approx(float(oracle.amd_loss(student, teacher, **options)))
    for entry, slope in expected.items():
        assert a_s.grad[entry].item() == pytest.approx(slope, rel=1e-8, abs=1e-15)
    # Elsewhere the features, and with them the gradient by them, are 0.
    assert torch.count_nonzero(a_s.grad) == 2


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("local_weight", [0.0, 0.2])
@pytest.mark.parametrize("options", [{}, {"formula": "released"}, {"mask_threshold": 0.5}])
def test_all_zero_maps_have_a_finite_loss_and_no_gradient(eps, local_weight, options):
    options = {"eps": eps, "local_weight": local_weight, **options}
    zeros, other = np.zeros((1, 2, 3, 4)), np.random.RandomState(1).randn(1, 2, 3, 4)
    for values in (other, zeros):
        student = torch.from_numpy(zeros.copy()).requires_grad_()
        loss = amd_loss(student, torch.from_numpy(values), **options)
        loss.backward()
        expected = oracle.amd_loss(zeros, values, **options)
        assert loss.item() == pytest.approx(float(expected), rel=1e-12, abs=1e-30)
        assert student.grad is not None
        assert torch.count_nonzero(student.grad) == 0


def test_an_all_zero_sample_leaves_the_gradient_of_the_others_alone():
    student, teacher = (a.detach() for a in pair(3, 4))
    alone = student[1:].clone().requires_grad_()
    amd_loss(alone, teacher[1:]).backward()
    student[0] = 0
    student.requires_grad_()
    amd_loss(student, teacher, reduction="none").sum().backward()
    assert student.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(student.grad[1:], alone.grad, rtol=1e-12, atol=0)
