"""Every wrong argument of the KD losses is refused, and the message says what to do."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from amd_fused import DistillationLoss, KDLoss, SphericalKDLoss, kd_loss, spherical_kd_loss

Z = torch.ones(2, 4)
DTYPES = "must have dtype float32, float16, bfloat16 or float64"
LOGITS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a list": ({"student_logits": [1.0]}, TypeError, "student_logits must be a tensor, got list"),
    "nothing": ({"teacher_logits": None}, TypeError, "must be a tensor, got NoneType"),
    "labels": (
        {"teacher_logits": torch.zeros(2, 4, dtype=torch.int64)}, TypeError,
        f"teacher_logits {DTYPES}, got torch.int64",
    ),
    "complex": ({"student_logits": Z.cfloat()}, TypeError, f"student_logits {DTYPES}"),
    "sparse": (
        {"student_logits": Z.to_sparse()}, TypeError,
        "student_logits must be a dense (strided) tensor, got layout torch.sparse_coo; "
        "convert it with .to_dense()",
    ),
    "a vector": (
        {"student_logits": torch.ones(4)}, ValueError,
        "student_logits must be [B, K] or [B, K, ...], no size 0, with B >= 1 and K >= 2, got "
        "shape (4,)",
    ),
    "sequences": (
        {"teacher_logits": torch.ones(2, 3, 4)}, ValueError,
        "student_logits and teacher_logits must have the same shape, got (2, 4) and (2, 3, 4)",
    ),
    "no positions": ({"student_logits": torch.ones(2, 4, 0)}, ValueError, "got shape (2, 4, 0)"),
    "no samples": ({"student_logits": torch.ones(0, 4)}, ValueError, "got shape (0, 4)"),
    "no classes": ({"student_logits": torch.ones(2, 0)}, ValueError, "got shape (2, 0)"),
    "other classes": (
        {"teacher_logits": torch.ones(2, 5)}, ValueError,
        "student_logits and teacher_logits must have the same shape, got (2, 4) and (2, 5)",
    ),
    "other device": (
        {"teacher_logits": Z.to("meta")}, ValueError,
        "teacher_logits must be on the device of student_logits (cpu), got meta; move it with",
    ),
}  # fmt: skip
KD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no temperature": ({"temperature": 0}, ValueError, "temperature must be finite and > 0, got 0"),
    "negative": ({"temperature": -1.0}, ValueError, "temperature must be finite and > 0, got -1.0"),
    "NaN": ({"temperature": math.nan}, ValueError, "temperature must be finite and > 0, got nan"),
    "a string": ({"temperature": "4"}, TypeError, "temperature must be a number, got str"),
    "a tensor": ({"temperature": torch.ones(())}, TypeError, "temperature must be a number"),
    "an unknown backend": (
        {"backend": "opencl"}, ValueError,
        "backend must be one of 'auto', 'triton', 'cuda', 'cpp', 'reference', got 'opencl'",
    ),
}  # fmt: skip
SPHERICAL_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an unknown norm": (
        {"norm": "l1"}, ValueError, "norm must be one of 'std', 'l2', got 'l1'",
    ),
    "no norm": ({"norm": None}, ValueError, "norm must be one of 'std', 'l2', got None"),
    "no radius": ({"multiplier": 0.0}, ValueError, "multiplier must be finite and > 0, got 0.0"),
    "an infinite radius": ({"multiplier": math.inf}, ValueError, "must be finite and > 0, got inf"),
    "a word": ({"multiplier": "auto"}, TypeError, "multiplier must be a number, got str"),
}  # fmt: skip


def cases(*tables: dict[str, Any]) -> Any:
    rows = [(name, row) for table in tables for name, row in table.items()]
    return pytest.mark.parametrize(
        ("changes", "error", "message"), [row for _, row in rows], ids=[name for name, _ in rows]
    )


@cases(LOGITS, KD_OPTIONS)
def test_message_of_kd_loss(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^kd_loss: .*" + re.escape(message)):
        kd_loss(**({"student_logits": Z, "teacher_logits": Z} | changes))


@cases(LOGITS, KD_OPTIONS, SPHERICAL_OPTIONS)
def test_message_of_spherical_kd_loss(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^spherical_kd_loss: .*" + re.escape(message)):
        spherical_kd_loss(**({"student_logits": Z, "teacher_logits": Z} | changes))


@cases(KD_OPTIONS)
def test_kd_module_refuses_options_when_it_is_made(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^KDLoss: .*" + re.escape(message)):
        KDLoss(**changes)


@cases(KD_OPTIONS, SPHERICAL_OPTIONS)
def test_spherical_module_refuses_options_when_it_is_made(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^SphericalKDLoss: .*" + re.escape(message)):
        SphericalKDLoss(**changes)


@cases(LOGITS)
def test_normalize_refuses_what_the_loss_does(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^SphericalKDLoss.normalize: .*" + re.escape(message)):
        SphericalKDLoss().normalize(**({"student_logits": Z, "teacher_logits": Z} | changes))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_one_class_alone_has_a_constant_loss_and_is_refused(backend: str) -> None:
    one = torch.ones(3, 1)
    message = re.escape(
        "student_logits must be [B, K] or [B, K, ...], no size 0, with B >= 1 and K >= 2, got "
        "shape (3, 1); of one sigmoid output make two classes: torch.cat([torch.zeros_like(z), z], dim=1)"
    )
    with pytest.raises(ValueError, match="^kd_loss: " + message):
        kd_loss(one, one, backend=backend)
    for norm in ("std", "l2"):
        with pytest.raises(ValueError, match="^spherical_kd_loss: " + message):
            spherical_kd_loss(one, one, norm=norm, backend=backend)
    with pytest.raises(ValueError, match=r"^SphericalKDLoss\.normalize: " + message):
        SphericalKDLoss().normalize(one, one)
    for weights in ({"kd_weight": 0}, {"ce_weight": 0}):
        with pytest.raises(ValueError, match="^DistillationLoss: " + message):
            DistillationLoss(**weights, feature_weight=0)(
                one, one, torch.zeros(3, dtype=torch.int64)
            )
