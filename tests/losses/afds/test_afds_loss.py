"""afds_loss and AFDSLoss: formula, published values, both predictors, zeros, errors."""

from __future__ import annotations

from typing import Any

import pytest
import released
import torch
import trained_oracle
from torch import Tensor

from amd_fused import AFDSLoss, afds_loss


def maps(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_is_the_formula(eps: float) -> None:
    student, teacher = maps(3, 5, 4, 2), maps(3, 5, 4, 2, seed=1)
    importance = maps(3, 5, seed=2).softmax(1)
    loss = afds_loss(student, teacher, importance, eps=eps)
    exact = trained_oracle.afds(student, teacher, importance, eps)
    torch.testing.assert_close(loss.item(), exact)


def test_layers_are_averaged_with_their_weights() -> None:
    students = [maps(3, 5, 4, 2), maps(3, 2, 6, 6)]
    teachers = [maps(3, 5, 4, 2, seed=1), maps(3, 2, 6, 6, seed=1)]
    rhos = [maps(3, 5, seed=2).softmax(1), maps(3, 2, seed=2).softmax(1)]
    alone = [afds_loss(*layer) for layer in zip(students, teachers, rhos, strict=True)]
    torch.testing.assert_close(afds_loss(students, teachers, rhos), (alone[0] + alone[1]) / 2)
    weighted = afds_loss(students, teachers, rhos, layer_weights=[0.5, 3.0])
    torch.testing.assert_close(weighted, (0.5 * alone[0] + 3 * alone[1]) / 2)


@pytest.mark.parametrize("case", released.cases("afds"), ids=released.name)
def test_values_and_gradients_of_the_released_code(case: dict[str, Any]) -> None:
    student, teacher = released.tensor(case["student"]), released.tensor(case["teacher"])
    criterion = AFDSLoss(tuple(student.shape[1:]), **case["options"]).double()
    block = criterion.predictors[0]
    in_order = [block.squeeze.weight, block.squeeze.bias, block.excite.weight, block.excite.bias]
    released.check(case, in_order, criterion, student, teacher)


IMPORTANCE = {"softmax": trained_oracle.softmax_importance, "se": trained_oracle.se_importance}


@pytest.mark.parametrize("predictor", IMPORTANCE)
@pytest.mark.parametrize("batch", [1, 3])
def test_module_weighs_channels_as_its_predictors_say(predictor: str, batch: int) -> None:
    criterion = AFDSLoss([(5, 4, 2), (2, 6, 6)], predictor).double()
    students = [maps(batch, 5, 4, 2), maps(batch, 2, 6, 6)]
    teachers = [a.flip(1) + 0.5 for a in students]
    for p in criterion.parameters():  # biases begin at 0
        p.data += 0.1
    exact = [
        trained_oracle.afds(
            a_s, a_t, torch.from_numpy(IMPORTANCE[predictor](a_t, layer.state_dict()))
        )
        for a_s, a_t, layer in zip(students, teachers, criterion.predictors, strict=True)
    ]
    loss = criterion(students, teachers)
    torch.testing.assert_close(loss.item(), sum(exact) / 2)
    loss.backward()
    # Of the softmax a bias that all channels share is no gradient's direction.
    assert all((p.grad != 0).any() for p in criterion.parameters())


def test_predictors_begin_as_published() -> None:
    layer = AFDSLoss((64, 32, 16)).predictors[0]
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        "weight": (32,), "bias": (64,), "hidden.weight": (32, 512), "hidden.bias": (32,),
    }  # fmt: skip
    assert layer.hidden.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    assert layer.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.4)
    block = AFDSLoss((64, 8, 8), "se").predictors[0]
    assert block.excite.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    zeros = (layer.bias, layer.hidden.bias, block.squeeze.bias, block.excite.bias)
    assert all((p == 0).all() for p in zeros)


def test_a_channel_that_is_off_has_no_gradient() -> None:
    student, teacher = maps(3, 5, 4, 2), maps(3, 5, 4, 2, seed=1)
    student[1, 2] = 0
    student.requires_grad_()
    afds_loss(student, teacher, torch.full((3, 5), 0.2, dtype=torch.float64)).backward()
    assert student.grad is not None
    assert (student.grad[1, 2] == 0).all()
    assert (student.grad[1, 3] != 0).any()
    assert student.grad.abs().max() < 1


@pytest.mark.parametrize("predictor", IMPORTANCE)
def test_a_teacher_of_inference_mode_serves_the_module(predictor: str) -> None:
    criterion = AFDSLoss((5, 4, 2), predictor).double()
    with torch.inference_mode():
        teacher = maps(3, 5, 4, 2, seed=1)
    criterion(maps(3, 5, 4, 2), teacher).backward()
    assert all(p.grad is not None for p in criterion.parameters())


MAP, RHO = torch.ones(2, 4, 3, 3), torch.ones(2, 4)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "other channels": (
        {"student": torch.ones(2, 5, 3, 3)}, ValueError,
        r"same shape, got \(2, 5, 3, 3\) and \(2, 4, 3, 3\); the loss compares channel by channel",
    ),
    "other sizes": ({"student": torch.ones(2, 4, 3, 2)}, ValueError, "take layers of equal shapes"),
    "a list": (
        {"importance": [RHO]}, TypeError, r"importance must be a tensor \[B, C\], as student is",
    ),
    "too few": ({"importance": RHO[:, :3]}, ValueError, r"must be \[B, C\] = \(2, 4\), as teacher"),
    "no floor": ({"eps": 0}, ValueError, "eps must be finite and > 0, got 0"),
    "weights": ({"layer_weights": [1.0, 2.0]}, ValueError, "layer_weights must have one weight"),
    "a backend": ({"backend": "cpu"}, ValueError, "backend must be one of 'auto', .* got 'cpu'"),
    "on a CPU": ({"backend": "cuda"}, RuntimeError, "backend 'cuda' (is not u|runs on cu)"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_message_names_argument_rule_and_value(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^afds_loss: .*{message}"):
        afds_loss(**({"student": MAP, "teacher": MAP, "importance": RHO} | changes))


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a number": ({"feature_shapes": 3}, TypeError, r"feature_shapes must be \(C, H, W\), or"),
    "nothing": ({"feature_shapes": []}, TypeError, r"feature_shapes must be .* got nothing"),
    "two sizes": ({"feature_shapes": [(3, 4)]}, TypeError, r"feature_shapes must be .*\(3, 4\)"),
    "no channels": ({"feature_shapes": (0, 4, 4)}, ValueError, "C of feature_shapes must be >= 1"),
    "a predictor": ({"predictor": "SE"}, ValueError, "predictor must be one of 'softmax', 'se'"),
    "weights": ({"layer_weights": [1, 1]}, ValueError, "layer_weights must have one entry"),
    "a backend": ({"backend": None}, ValueError, "backend must be one of"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_message_names_the_option(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^AFDSLoss: {message}"):
        AFDSLoss(**({"feature_shapes": (4, 3, 3)} | changes))


def test_message_names_features_that_the_predictors_were_not_made_for() -> None:
    with pytest.raises(ValueError, match=r"^AFDSLoss: teacher must have one feature map for each"):
        AFDSLoss([(4, 3, 3)] * 2)(MAP, MAP)
    with pytest.raises(
        ValueError, match=r"^AFDSLoss: teacher must be .* = \(4, 3, 2\) of feature_"
    ):
        AFDSLoss((4, 3, 2))(MAP, MAP)
