"""Any value for any argument: the loss is computed, or an error names the loss and the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import amd_fused

pytestmark = pytest.mark.filterwarnings("ignore:.*the gradient is 0")
MAPS, ROWS = torch.randn(3, 4, 4, 4), torch.randn(3, 5)
LOSSES: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "amd_loss": (
        amd_fused.amd_loss,
        {
            "student": MAPS, "teacher": MAPS, "margin": 1.0, "scale": 1.0, "local_weight": 0.2,
            "formula": "paper", "component_weights": (1, 1, 1), "mask_threshold": None,
            "layer_weights": None, "eps": 0.0, "reduction": "mean", "align": "error",
            "backend": "auto",
        },
    ),
    "at_loss": (
        amd_fused.at_loss,
        {"student": MAPS, "teacher": MAPS, "p": 2, "mode": "code", "layer_weights": None,
         "align": "error", "backend": "auto"},
    ),
    "kd_loss": (
        amd_fused.kd_loss,
        {"student_logits": ROWS, "teacher_logits": ROWS, "temperature": 4.0, "backend": "auto"},
    ),
    "spherical_kd_loss": (
        amd_fused.spherical_kd_loss,
        {"student_logits": ROWS, "teacher_logits": ROWS, "temperature": 4.0, "norm": "std",
         "multiplier": None, "backend": "auto"},
    ),
    "nd_loss": (
        amd_fused.nd_loss,
        {"student": ROWS, "teacher": ROWS, "target": torch.tensor([0, 1, 1]),
         "class_means": ROWS[:2], "backend": "auto"},
    ),
    "lsh_loss": (
        amd_fused.lsh_loss,
        {"student": ROWS, "teacher": ROWS, "weight": ROWS, "bias": None, "kind": "bce",
         "l2_weight": 1.0, "backend": "auto"},
    ),
    "sp_loss": (
        amd_fused.sp_loss, {"student": MAPS, "teacher": MAPS, "norm_p": 2, "layer_weights": None},
    ),
    "rkd_loss": (
        amd_fused.rkd_loss,
        {"student": ROWS, "teacher": ROWS, "distance_weight": 1.0, "angle_weight": 1.0,
         "layer_weights": None},
    ),
    "vid_loss": (
        amd_fused.vid_loss,
        {"student": MAPS, "teacher": MAPS, "rho": ROWS[0, :4], "eps": 1e-5, "layer_weights": None,
         "backend": "auto"},
    ),
    "cc_loss": (
        amd_fused.cc_loss,
        {"student": ROWS, "teacher": ROWS, "formula": "paper", "gamma": 0.4, "order": 2},
    ),
    "crd_loss": (
        amd_fused.crd_loss,
        {"student": ROWS, "teacher": ROWS, "student_bank": ROWS, "teacher_bank": ROWS,
         "samples": torch.tensor([[0, 1], [1, 2], [2, 0]]), "log_normalizers": torch.ones(2),
         "temperature": 0.07, "eps": 1e-7},
    ),
    "afd_loss": (
        amd_fused.afd_loss,
        {"student": MAPS, "teacher": MAPS, "attention": torch.ones(3, 1, 1), "backend": "cpp"},
    ),
    "afds_loss": (
        amd_fused.afds_loss,
        {"student": MAPS, "teacher": MAPS, "importance": ROWS[:, :4], "eps": 1e-6,
         "layer_weights": None},
    ),
}  # fmt: skip
ARGUMENTS = [(loss, name) for loss, (_, arguments) in LOSSES.items() for name in arguments]

numbers = st.sampled_from(
    [0, 1, 2, -1, 0.5, 1e-320, 1e308, -0.0, np.inf, -np.inf, np.nan, 10**400, True, 1j]
) | st.sampled_from([np.float32(0.5), np.int64(1), np.float16(2), np.bool_(True), np.array(1.0)])
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)
dtypes = st.sampled_from(
    [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8]
)
tensors = st.builds(lambda shape, dtype: torch.ones(shape, dtype=dtype), shapes, dtypes)
others = st.sampled_from(
    [None, "", "none", "paper", "mean", "cpp", b"x", object(), {}, {"a": 1}, set(), np.ones((3, 4))]
)
single = numbers | tensors | others
anything = single | st.lists(single, max_size=3) | st.lists(single, max_size=3).map(tuple)


def said(call: Callable[[], Tensor]) -> str | None:
    """The message of the error that a user should see; None where the call gave a number."""
    try:
        result = call()
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    assert result.dtype in (torch.float32, torch.float64)
    return None


def test_any_value_of_any_argument_is_taken_or_named(holds: Callable[..., None]) -> None:
    def check(case: tuple[tuple[str, str], Any]) -> None:
        (loss, name), value = case
        function, arguments = LOSSES[loss]
        message = said(lambda: function(**{**arguments, name: value}))
        if message is None:
            return
        # Where two disagree the message names both, or the one that has the other's rule. What a
        # backend cannot do is not the argument's fault.
        words = {name, "backend"}
        if isinstance(arguments[name], Tensor):
            words |= {"student", "teacher", "batch"}
        assert message.startswith(f"{loss}: "), f"{name}={value!r}: {message}"
        assert any(word in message for word in words), f"{name}={value!r}: {message}"

    holds(check, st.tuples(st.sampled_from(ARGUMENTS), anything), 6.0)
