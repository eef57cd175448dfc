"""The cases of data/released.json: values and gradients got by running public code in float64.

Each holds the loss's name, the source, the options, how student and teacher are made (seed, shape,
kind), and value, grad_norm and grad_first (first six entries) of the gradient by the student. Those
of losses with trained layers hold a seed of the parameters too, and the norms of their gradients.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

_CASES = json.loads((Path(__file__).with_name("released.json")).read_text())["cases"]


def cases(loss: str) -> list[dict[str, Any]]:
    return [case for case in _CASES if case["loss"] == loss]


def name(case: dict[str, Any]) -> str:
    student = case["student"] if isinstance(case["student"], dict) else case["student"][0]
    shape = "x".join(map(str, student["shape"]))
    return f"{case['loss']}-{shape}-{student['kind']}"


def tensor(spec: dict[str, Any]) -> Tensor:
    """The input that a case describes, in float64."""
    values = np.random.RandomState(spec["seed"]).standard_normal(spec["shape"])
    return torch.from_numpy(np.maximum(values, 0) if spec["kind"] == "relu" else values)


def parameters(case: dict[str, Any], shapes: list[torch.Size]) -> list[Tensor]:
    """The values of a public module's parameters, in its order."""
    return [
        0.5 * tensor({"seed": case["parameters"] + i, "shape": list(shape), "kind": "normal"})
        for i, shape in enumerate(shapes)
    ]


def check(
    case: dict[str, Any],
    trained: list[Tensor],
    loss: Callable[..., Tensor],
    *features: Any,
) -> None:
    """Value and gradients of a loss whose parameters, in the public module's order, are set."""
    for parameter, value in zip(trained, parameters(case, [p.shape for p in trained]), strict=True):
        parameter.data.copy_(value)
    student = features[0] if isinstance(features[0], Tensor) else features[0][0]
    student.requires_grad_()
    value = loss(*features)
    grad, *others = torch.autograd.grad(value, [student, *trained])
    assert value.item() == pytest.approx(case["value"], rel=1e-10)
    assert grad.norm().item() == pytest.approx(case["grad_norm"], rel=1e-8)
    assert grad.flatten()[:6].tolist() == pytest.approx(case["grad_first"], rel=1e-8, abs=1e-14)
    norms = [other.norm().item() for other in others]
    assert norms == pytest.approx(case["parameter_grad_norms"], rel=1e-8, abs=1e-10)
