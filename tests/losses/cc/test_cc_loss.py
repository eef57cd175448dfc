"""cc_loss and CCLoss: both formulas, published values, layers that learn, errors."""

from __future__ import annotations

from typing import Any

import pytest
import released
import torch
import torch.nn.functional as F
import trained_oracle
from torch import Tensor

from amd_fused import CCLoss, cc_loss


def rows(width: int, batch: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("batch", [2, 5])
def test_released_is_the_formula_and_depends_on_the_order(batch: int) -> None:
    student, teacher = rows(7, batch), rows(7, batch, 1)
    loss = cc_loss(student, teacher)
    torch.testing.assert_close(loss.item(), trained_oracle.cc_released(student, teacher))
    order = torch.tensor([1, 0] if batch == 2 else [2, 0, 4, 1, 3])
    shuffled = cc_loss(student[order], teacher[order])
    assert torch.isclose(shuffled, loss) == (batch == 2)


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.5, 1), (0.2, 6)])
def test_paper_is_the_formula_whatever_order_and_length(gamma: float, order: int) -> None:
    student, teacher = rows(7), rows(4, seed=1)
    loss = cc_loss(student, teacher, "paper", gamma=gamma, order=order)
    exact = trained_oracle.cc_paper(student, teacher, gamma, order)
    torch.testing.assert_close(loss.item(), exact)
    other = 3 * student.flip(0), 0.1 * teacher.flip(0)
    torch.testing.assert_close(cc_loss(*other, "paper", gamma=gamma, order=order), loss)


def test_papers_series_nears_the_gaussian_kernel() -> None:
    student, teacher = (F.normalize(rows(3, seed=seed)) for seed in (0, 1))
    kernels = [torch.exp(-0.4 * torch.cdist(e, e) ** 2) for e in (student, teacher)]
    loss = cc_loss(student, teacher, "paper", order=20)
    torch.testing.assert_close(loss, (kernels[0] - kernels[1]).square().mean())


@pytest.mark.parametrize("case", released.cases("cc"), ids=released.name)
def test_values_and_gradients_of_the_released_code(case: dict[str, Any]) -> None:
    student, teacher = released.tensor(case["student"]), released.tensor(case["teacher"])
    released.check(
        case | {"parameter_grad_norms": []},
        [],
        lambda s, t: cc_loss(s, t, **case["options"]),
        student,
        teacher,
    )


def test_an_all_zero_sample_has_no_gradient() -> None:
    student, teacher = rows(7), rows(7, seed=1)
    student[2] = 0
    student.requires_grad_()
    cc_loss(student, teacher, "paper").backward()
    assert student.grad is not None
    assert (student.grad[2] == 0).all()
    assert student.grad.isfinite().all()
    assert (student.grad[[0, 1, 3, 4]] != 0).any(1).all()


@pytest.mark.parametrize("formula", ["released", "paper"])
def test_module_maps_both_sides_and_trains_both_maps(formula: str) -> None:
    criterion = CCLoss(7, 4, formula, embed_features=3).double()
    student, teacher = rows(7), rows(4, seed=1)
    sides = [
        x @ layer.weight.T + layer.bias
        for x, layer in ((student, criterion.embed_student), (teacher, criterion.embed_teacher))
    ]
    loss = criterion(student, teacher)
    torch.testing.assert_close(loss, cc_loss(*sides, formula))
    loss.backward()
    assert all((p.grad != 0).any() for p in criterion.parameters())
    assert CCLoss(7, 4).embed_teacher.weight.shape == (128, 4)


def test_a_teacher_of_inference_mode_serves_the_module() -> None:
    criterion = CCLoss(7, 4)
    with torch.inference_mode():
        teacher = rows(4, seed=1).float()
    criterion(rows(7).float(), teacher).backward()
    assert criterion.embed_teacher.weight.grad is not None


ROWS = torch.ones(3, 4)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a map": ({"student": torch.ones(3, 4, 2, 2)}, ValueError, r"student must be 2-D \[B, D\]"),
    "other widths": ({"student": torch.ones(3, 5)}, ValueError, "same shape, .* as CCLoss does"),
    "other batches": ({"teacher": torch.ones(2, 4)}, ValueError, "teacher must have the batch"),
    "one sample": (
        {"student": ROWS[:1], "teacher": ROWS[:1]}, ValueError, "at least 2 samples, .* got B = 1",
    ),
    "elsewhere": ({"teacher": ROWS.to("meta")}, ValueError, "teacher must be on the device of stu"),
    "a formula": ({"formula": "code"}, ValueError, "formula must be one of 'released', 'paper'"),
    "gamma": ({"gamma": 0}, ValueError, "gamma must be finite and > 0, got 0"),
    "order": ({"order": 0}, ValueError, "order must be >= 1, got 0"),
    "a long series": ({"order": 101}, ValueError, "order must be <= 100, got 101"),
    "half an order": ({"order": 1.5}, TypeError, "order must be an integer, got float"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_message_names_argument_rule_and_value(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^cc_loss: .*{message}"):
        cc_loss(**({"student": ROWS, "teacher": ROWS} | changes))


def test_module_names_options_and_widths() -> None:
    for option in ("student_features", "teacher_features", "embed_features"):
        with pytest.raises(ValueError, match=f"^CCLoss: {option} must be >= 1, got 0"):
            CCLoss(**({"student_features": 4, "teacher_features": 4} | {option: 0}))
    with pytest.raises(ValueError, match=r"^CCLoss: formula must be one of"):
        CCLoss(4, 4, "code")
    with pytest.raises(
        ValueError, match=r"^CCLoss: teacher must have the width teacher_features = 5"
    ):
        CCLoss(4, 5)(ROWS, ROWS)
