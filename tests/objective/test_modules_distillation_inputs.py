"""DistillationLoss names what is wrong with its weights and with what it is called with."""

from __future__ import annotations

import math

import pytest
import torch
from distillation_batch import batch

from amd_fused import AMDLoss, DistillationLoss

pytestmark = pytest.mark.filterwarnings("ignore:.*_loss. no fused backend")


@pytest.mark.parametrize(
    ("missing", "weight"),
    [
        ("student_logits", "ce_weight"),
        ("target", "ce_weight"),
        ("teacher_logits", "kd_weight"),
        ("student_features", "feature_weight"),
        ("teacher_features", "feature_weight"),
    ],
)
def test_a_missing_input_is_named_with_the_weight_that_needs_it(missing, weight):
    message = (
        f"^DistillationLoss: {missing} must be given while {weight} > 0, got None; .*{weight}=0"
    )
    with pytest.raises(ValueError, match=message):
        DistillationLoss()(**{**batch(), missing: None})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student_logits": torch.ones(4)}, ValueError, r"student_logits must be \[B, K\]"),
        (
            {"student_logits": torch.ones(4, 10, 2)},
            ValueError,
            r"target must be class indices .* of shape \(4, 10, 2\), got shape \(4,\)",
        ),
        (
            {"student_logits": torch.ones(0, 10)},
            ValueError,
            r"with B >= 1 and K >= 2, got shape \(0, 10\)",
        ),
        ({"student_logits": [1.0]}, TypeError, "student_logits must be a tensor, got list"),
        ({"teacher_logits": torch.ones(4, 10).int()}, TypeError, "floating dtype, got torch.int32"),
        (
            {"teacher_logits": torch.ones(4, 9)},
            ValueError,
            r"same shape, got \(4, 10\) and \(4, 9\)",
        ),
        (
            {"target": torch.ones(3).long()},
            ValueError,
            r"class indices \[B, \.\.\.\] with shape \(4,\)",
        ),
        ({"target": torch.ones(4, 9)}, ValueError, r"\[B, K, \.\.\.\] with shape \(4, 10\)"),
        ({"target": [1, 2, 3, 4]}, TypeError, "target must be a tensor, got list"),
    ],
)
def test_bad_logits_and_targets_are_named(change, error, message):
    with pytest.raises(error, match=f"^DistillationLoss: .*{message}"):
        DistillationLoss()(**{**batch(), **change})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ce_weight": -0.1}, ValueError, "ce_weight must be finite and >= 0, got -0.1"),
        ({"kd_weight": math.nan}, ValueError, "kd_weight must be finite and >= 0, got nan"),
        ({"feature_weight": math.inf}, ValueError, "feature_weight must be finite and >= 0"),
        ({"feature_weight": "1"}, TypeError, "feature_weight must be a number, got str"),
        ({"temperature": 0}, ValueError, "temperature must be finite and > 0, got 0"),
        ({"feature_loss": "amd"}, TypeError, "feature_loss must be a module or function"),
        (
            {"ce_weight": 0, "kd_weight": 0, "feature_weight": 0},
            ValueError,
            "ce_weight, kd_weight or feature_weight must be > 0",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=f"^DistillationLoss: {message}"):
        DistillationLoss(**arguments)


def test_a_feature_loss_must_return_one_number():
    with pytest.raises(ValueError, match=r"return a 0-d tensor, got shape \(4,\); use reduction"):
        DistillationLoss(feature_loss=AMDLoss(reduction="none"))(**batch())
    with pytest.raises(TypeError, match=r"return a 0-d tensor, got list; wrap it"):
        DistillationLoss(feature_loss=lambda s, t: [s, t])(**batch())
