"""DistillationLoss names what is wrong with its losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from amd_fused import AMDLoss, DistillationLoss, KDLoss, SPLoss

AMD_AND_SP = {"amd": (5000.0, AMDLoss()), "sp": (3000.0, SPLoss())}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"feature_loss": {}}, ValueError, "feature_loss must have at least one loss, got none"),
        ({"feature_loss": []}, ValueError, "feature_loss must have at least one loss, got none"),
        (
            {"feature_loss": {"sp": SPLoss()}},
            TypeError,
            r"feature_loss must .* got SPLoss for 'sp'",
        ),
        ({"feature_loss": [SPLoss()]}, TypeError, r"feature_loss must .* got an entry SPLoss"),
        (
            {"feature_loss": [(1.0, SPLoss())]},
            TypeError,
            r"feature_loss must .*\(name, weight, loss\), got an entry tuple of 2",
        ),
        (
            {"feature_loss": {"sp": (-1, SPLoss())}},
            ValueError,
            r"the weight of feature_loss\['sp'\] must be finite and >= 0, got -1",
        ),
        (
            {"feature_loss": {"sp": (1, "sp")}},
            TypeError,
            r"feature_loss\['sp'\] must be a module or function of .*, got str",
        ),
        ({"feature_loss": {"kd": (1, SPLoss())}}, ValueError, "a name .* in use, .* got 'kd'"),
        ({"feature_loss": {"a.b": (1, SPLoss())}}, ValueError, "a name .* dots, got 'a.b'"),
        ({"feature_loss": {"keys": (1, SPLoss())}}, ValueError, "a name .* got 'keys'"),
        ({"feature_loss": {3: (1, SPLoss())}}, TypeError, "a name .* must be a string, got 3"),
        (
            {"feature_loss": [("sp", 1, SPLoss()), ("sp", 2, SPLoss())]},
            ValueError,
            "names in feature_loss must differ, got 'sp' twice",
        ),
        (
            {"feature_loss": AMD_AND_SP, "feature_weight": 100.0},
            ValueError,
            "feature_weight must be left out, or 0, .* got 100.0",
        ),
        (
            {"feature_loss": {"sp": (0, SPLoss())}, "ce_weight": 0, "kd_weight": 0},
            ValueError,
            "ce_weight, kd_weight or feature_weight must be > 0",
        ),
        ({"logit_loss": "kd"}, TypeError, "logit_loss must be a module or function of"),
        (
            {"logit_loss": KDLoss(2.0), "temperature": 2.0},
            ValueError,
            "temperature must be left out where logit_loss is given, .* got 2.0",
        ),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^DistillationLoss: {message}"):
        DistillationLoss(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"logit_loss": nn.MSELoss(reduction="none")},
            r"logit_loss must return a 0-d tensor, got shape \(4, 10\)",
        ),
        (
            {"feature_loss": {"amd": (1, AMDLoss(reduction="none"))}},
            r'feature_loss\["amd"\] must return a 0-d tensor, got shape \(4,\)',
        ),
    ],
)
def test_every_loss_must_return_one_number(arguments: dict[str, Any], message: str) -> None:
    criterion = DistillationLoss(**arguments)
    with pytest.raises(ValueError, match=f"^DistillationLoss: {message}"):
        criterion(
            torch.randn(4, 10),
            torch.randn(4, 10),
            torch.tensor([1, 0, 9, 4]),
            torch.randn(4, 3, 8, 8),
            torch.randn(4, 5, 8, 8),
        )
