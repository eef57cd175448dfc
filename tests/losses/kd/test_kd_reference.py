"""reference.kd_loss and reference.spherical_kd_loss are their formulas, with exact derivatives."""

from __future__ import annotations

import math
from typing import Any

import kd_oracle
import pytest
import released
import torch
from kd_oracle import FORMS
from measures import relative_error
from torch.autograd import gradcheck, gradgradcheck

from amd_fused import reference

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.3])
@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (7, 67)])
@forms
def test_value_and_gradients_are_the_formula_s(
    form: dict[str, Any], shape: tuple[int, int], temperature: float
) -> None:
    z_s, z_t = kd_oracle.logits(shape, "float64")
    exact = kd_oracle.oracle(form, z_s, z_t, temperature)
    ours = kd_oracle.run(form, z_s, z_t, temperature)
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("case", released.cases("kd"), ids=released.name)
def test_values_of_released_code(case: dict[str, Any]) -> None:
    student = released.tensor(case["student"]).requires_grad_()
    loss = reference.kd_loss(student, released.tensor(case["teacher"]), **case["options"])
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(case["value"], rel=1e-12)
    assert grad.norm().item() == pytest.approx(case["grad_norm"], rel=1e-12)
    assert grad.flatten()[:6].tolist() == pytest.approx(case["grad_first"], rel=1e-11)


def test_two_classes_by_hand() -> None:
    """Teacher (ln 3, 0): p = (3/4, 1/4); student (0, 0): q = (1/2, 1/2), at temperature 1 and, with
    logits twice as large, at 2, where tau^2 makes it four times as much."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert reference.kd_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)
    assert reference.kd_loss(student, 2 * teacher, 2.0).item() == pytest.approx(
        4 * expected, rel=1e-6
    )


def test_spherical_logits_by_hand() -> None:
    """Student (3, 4): norm 5, deviation sqrt(1/2); teacher (0, 2): norm 2, deviation sqrt 2."""
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    by_norm = reference.spherical_logits(student, teacher, norm="l2")
    by_std = reference.spherical_logits(student, teacher, norm="std")
    fixed = reference.spherical_logits(student, teacher, norm="l2", multiplier=10.0)
    torch.testing.assert_close(by_norm, (torch.tensor([[1.2, 1.6]]), teacher))
    torch.testing.assert_close(by_std, (torch.tensor([[6.0, 8.0]]), teacher))
    torch.testing.assert_close(fixed, (torch.tensor([[6.0, 8.0]]), torch.tensor([[0.0, 10.0]])))


@forms
def test_derivatives_of_both_orders(form: dict[str, Any]) -> None:
    z_s, z_t = (z.requires_grad_() for z in kd_oracle.logits((2, 4), "float64"))
    loss = kd_oracle.loss_of(form, reference)
    assert gradcheck(lambda s, t: loss(s, t, 2.0, **form), (z_s, z_t))
    assert gradgradcheck(lambda s, t: loss(s, t, 2.0, **form), (z_s, z_t))


@pytest.mark.parametrize("multiplier", [None, 3.0])
@pytest.mark.parametrize("norm", ["std", "l2"])
def test_second_derivatives_are_finite_where_a_norm_is_0(
    norm: str, multiplier: float | None
) -> None:
    student = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    loss = reference.spherical_kd_loss(student, teacher, norm=norm, multiplier=multiplier)
    grads = torch.autograd.grad(loss, (student, teacher), create_graph=True)
    assert loss == 0
    assert all((grad == 0).all() for grad in grads)
    total = sum((grad.sum() for grad in grads), torch.zeros(()))
    for second in torch.autograd.grad(total, (student, teacher)):
        assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    z_s, z_t = (z.to(dtype) for z in kd_oracle.logits((3, 20)))
    loss = reference.kd_loss(z_s, z_t)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, reference.kd_loss(z_s.float(), z_t.float()))
