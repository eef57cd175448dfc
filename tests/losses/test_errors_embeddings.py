"""Every wrong argument of the losses on embeddings is refused, and the message says what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amd_fused import NDLoss, lsh_loss, nd_loss

MEANS, LABELS, EMBEDDING = torch.ones(3, 4), torch.zeros(2, dtype=torch.int64), torch.ones(2, 4)
ND_ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a list": ({"student": [1.0]}, TypeError, "student must be a tensor, got list"),
    "an integer": ({"teacher": LABELS}, TypeError, "teacher must have dtype float32"),
    "a feature map": (
        {"student": torch.ones(2, 4, 3, 3)}, ValueError,
        r"student must be 2-D \[B, D\], got 4-D: shape \(2, 4, 3, 3\); pool and flatten",
    ),
    "no samples": ({"student": torch.ones(0, 4)}, ValueError, "must have B, D >= 1"),
    "other widths": (
        {"student": torch.ones(2, 5)}, ValueError,
        r"same shape, got \(2, 5\) and \(2, 4\); project the student",
    ),
    "other batches": ({"teacher": torch.ones(3, 4)}, ValueError, r"got \(2, 4\) and \(3, 4\)$"),
    "other device": (
        {"teacher": EMBEDDING.to("meta")}, ValueError,
        r"teacher must be on the device of student \(cpu\), got meta; move it",
    ),
    "target elsewhere": ({"target": LABELS.to("meta")}, ValueError, "target must be on the device"),
    "soft labels": ({"target": torch.ones(2)}, TypeError, "target must have an integer dtype"),
    "one-hot": (
        {"target": torch.zeros(2, 3, dtype=torch.int64)}, ValueError,
        r"target must be class indices \[B\] with B = 2, got shape \(2, 3\)",
    ),
    "a vector of means": (
        {"class_means": torch.ones(4)}, ValueError, r"class_means must be \[K, D\]",
    ),
    "means of another width": (
        {"class_means": torch.ones(3, 5)}, ValueError,
        r"class_means must have the embeddings' width 4, got shape \(3, 5\)",
    ),
    "means that want a gradient": (
        {"class_means": torch.ones(3, 4, requires_grad=True)}, ValueError,
        r"must not require a gradient.*pass class_means.detach\(\)",
    ),
    "an unknown backend": ({"backend": "opencl"}, ValueError, "backend must be one of"),
    "no kernels of CUDA": ({"backend": "cuda"}, RuntimeError, "nd_loss: backend 'cuda'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), ND_ERRORS.values(), ids=ND_ERRORS.keys())
def test_nd_message_names_argument_rule_and_value(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "student": EMBEDDING, "teacher": EMBEDDING, "target": LABELS, "class_means": MEANS,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        nd_loss(**(arguments | changes))


def test_nd_module_refuses_means_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="NDLoss: class_means must be finite, got NaN or Inf"):
        NDLoss(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(TypeError, match="NDLoss: class_means must be a tensor, got dict"):
        NDLoss({"0": [1.0]})  # type: ignore[arg-type]


WEIGHT = torch.ones(3, 4)
LSH_ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "other widths": (
        {"student": torch.ones(2, 5)}, ValueError,
        r"got \(2, 5\) and \(2, 4\); project .* LSHLoss\(student_features=\.\.\.\)",
    ),
    "a vector": ({"teacher": torch.ones(4)}, ValueError, r"teacher must be 2-D \[B, D\], got 1-D"),
    "an unknown kind": ({"kind": "hinge"}, ValueError, "kind must be one of 'bce', 'l2', 'l1'"),
    "a negative weight": ({"l2_weight": -1}, ValueError, "l2_weight must be finite and >= 0"),
    "a flat weight": ({"weight": torch.ones(4)}, ValueError, r"weight must be \[H, D\]"),
    "a weight of another width": (
        {"weight": torch.ones(3, 5)}, ValueError, r"weight must have the embeddings' width 4",
    ),
    "a trained weight": (
        {"weight": torch.ones(3, 4, requires_grad=True)}, ValueError, "weight must not require",
    ),
    "a weight elsewhere": (
        {"weight": WEIGHT.to("meta")}, ValueError, "weight must be on the device of student",
    ),
    "a bias too long": (
        {"bias": torch.ones(4)}, ValueError, r"bias must have one number a hash, \[3\], got",
    ),
    "an integer bias": ({"bias": torch.ones(3).int()}, TypeError, "bias must have dtype float32"),
    "no kernels of CUDA": ({"backend": "cuda"}, RuntimeError, "lsh_loss: backend 'cuda'"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"), LSH_ERRORS.values(), ids=LSH_ERRORS.keys()
)
def test_lsh_message_names_argument_rule_and_value(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"student": EMBEDDING, "teacher": EMBEDDING, "weight": WEIGHT}
    with pytest.raises(error, match=message):
        lsh_loss(**(arguments | changes))
