"""vid_loss and VIDLoss: formula, published values, regressors and variances that learn, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import released
import torch
import torch.nn.functional as F
import trained_oracle
from torch import Tensor

from amd_fused import VIDLoss, vid_loss


def features(channels: int, height: int = 4, width: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_is_the_formula_and_torchs_gaussian(eps: float) -> None:
    mean, target, rho = features(5), features(5, seed=1), 3 * features(5, seed=2)[0, :, 0, 0]
    loss = vid_loss(mean, target, rho, eps=eps)
    torch.testing.assert_close(loss.item(), trained_oracle.vid(mean, target, rho, eps))
    variance = (F.softplus(rho) + eps)[:, None, None].expand_as(mean)
    torch.testing.assert_close(loss, F.gaussian_nll_loss(mean, target, variance, eps=0.0))


def test_layers_are_added_up_with_their_weights() -> None:
    means, targets = [features(5), features(2, 7)], [features(5, seed=1), features(2, 7, seed=1)]
    rhos = [features(5, seed=2)[0, :, 0, 0], features(2, seed=2)[0, :, 0, 0]]
    alone = [vid_loss(*layer) for layer in zip(means, targets, rhos, strict=True)]
    torch.testing.assert_close(vid_loss(means, targets, rhos), alone[0] + alone[1])
    weighted = vid_loss(means, targets, rhos, layer_weights=[0.5, 3.0])
    torch.testing.assert_close(weighted, 0.5 * alone[0] + 3 * alone[1])


@pytest.mark.parametrize("rho", [-200.0, 0.0, 200.0])
def test_any_raw_variance_has_a_finite_loss_and_gradient(rho: float) -> None:
    raw = torch.full((5,), rho, requires_grad=True)
    loss = vid_loss(features(5).float(), features(5, seed=1).float(), raw)
    loss.backward()
    assert torch.isfinite(loss)
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("case", released.cases("vid"), ids=released.name)
def test_values_and_gradients_of_the_released_code(case: dict[str, Any]) -> None:
    student, teacher = released.tensor(case["student"]), released.tensor(case["teacher"])
    criterion = VIDLoss(student.shape[1], teacher.shape[1]).double()
    convolutions = [criterion.regressors[0][i].weight for i in (0, 2, 4)]
    released.check(case, [criterion.rhos[0], *convolutions], criterion, student, teacher)


def test_each_side_is_pooled_where_it_is_larger() -> None:
    criterion = VIDLoss(2, 5).double()
    student, teacher = features(2, 6, 3), features(5, 4, 6)
    pooled = F.adaptive_avg_pool2d(student, (4, 3)), F.adaptive_avg_pool2d(teacher, (4, 3))
    torch.testing.assert_close(criterion(student, teacher), criterion(*pooled))


def test_begins_with_the_variance_and_the_layers_that_were_asked_for() -> None:
    criterion = VIDLoss([2, 3], [5, 4], hidden_channels=7, initial_variance=900.0, eps=0.5)
    variances = [F.softplus(rho) + 0.5 for rho in criterion.rhos]
    assert all(v == pytest.approx(900.0) for variance in variances for v in variance.tolist())
    shapes = [p.shape[:2] for p in criterion.regressors.parameters()]
    assert shapes == [(7, 2), (7, 7), (5, 7), (7, 3), (7, 7), (4, 7)]
    default = VIDLoss(2, 5)
    assert default.rhos[0].tolist() == pytest.approx([math.log(math.expm1(5 - 1e-5))] * 5)
    assert [p.shape[:2] for p in default.regressors.parameters()] == [(5, 2), (5, 5), (5, 5)]


def test_learns_means_and_variances_of_a_teacher() -> None:
    criterion = VIDLoss(3, 2)
    optimiser = torch.optim.Adam(criterion.parameters(), 0.05)
    student = torch.randn(64, 3, 2, 2)
    noise = torch.tensor([0.1, 2.0])[:, None, None]
    teacher = student[:, :2] + noise * torch.randn(64, 2, 2, 2)
    for _ in range(200):
        optimiser.zero_grad()
        criterion(student, teacher).backward()
        optimiser.step()
    quiet, loud = (F.softplus(criterion.rhos[0]) + criterion.eps).tolist()
    assert quiet < 0.3
    assert 2 < loud < 6


MAP, RHO = torch.ones(2, 4, 3, 3), torch.ones(4)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "other channels": (
        {"student": torch.ones(2, 3, 3, 3)}, ValueError,
        r"same shape, got \(2, 3, 3, 3\) and \(2, 4, 3, 3\); a regressor .* as VIDLoss has them",
    ),
    "a sequence of one side": ({"student": [MAP]}, TypeError, "must both be a tensor or both a"),
    "rhos of one layer": ({"rho": [RHO]}, TypeError, r"rho must be a tensor \[C\], as student is"),
    "a long rho": ({"rho": torch.ones(5)}, ValueError, r"rho must be \[C\] = \(4,\), .* \(5,\)"),
    "an integer rho": ({"rho": RHO.int()}, TypeError, "rho must have dtype float32"),
    "rho elsewhere": ({"rho": RHO.to("meta")}, ValueError, "rho must be on the device of student"),
    "no least variance": ({"eps": 0.0}, ValueError, "eps must be finite and > 0, got 0.0"),
    "weights": ({"layer_weights": [1, 2]}, ValueError, "layer_weights must have one weight"),
    "backend": ({"backend": "c++"}, ValueError, "backend must be one of 'auto', .* got 'c\\+\\+'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_message_names_argument_rule_and_value(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^vid_loss: .*{message}"):
        vid_loss(**({"student": MAP, "teacher": MAP, "rho": RHO} | changes))


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no channels": ({"student_channels": 0}, ValueError, "student_channels must be >= 1, got 0"),
    "a fraction": ({"teacher_channels": [2.5]}, TypeError, r"teacher_channels\[0\] must be an int"),
    "none": ({"student_channels": []}, ValueError, "student_channels must have at least one"),
    "other lengths": (
        {"student_channels": [2, 3]}, ValueError,
        "teacher_channels must have one entry for each of the 2 layers, got 1",
    ),
    "weights": ({"layer_weights": [1, 2]}, ValueError, "layer_weights must have one entry"),
    "hidden": ({"hidden_channels": -1}, ValueError, "hidden_channels must be >= 1, got -1"),
    "a variance below eps": (
        {"initial_variance": 0.1, "eps": 0.1}, ValueError,
        "initial_variance must be finite and > eps = 0.1, got 0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_message_names_the_option(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^VIDLoss: {message}"):
        VIDLoss(**({"student_channels": 3, "teacher_channels": 4} | changes))


def test_message_names_features_that_the_layers_were_not_made_for() -> None:
    criterion = VIDLoss([3, 3], [4, 4])
    with pytest.raises(ValueError, match=r"^VIDLoss: student must have one feature map for"):
        criterion([MAP], [MAP])
    with pytest.raises(ValueError, match=r"student\[0\] must have student_channels = 3 channels"):
        criterion([MAP, MAP], [MAP, MAP])
