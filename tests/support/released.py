"""The cases of data/released.json: values and gradients got by running public code in float64.

Each holds the loss's name, the source, the options, how student and teacher are made (seed, shape,
kind), and value, grad_norm and grad_first (first six entries) of the gradient by the student.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CASES = json.loads((Path(__file__).with_name("released.json")).read_text())["cases"]


def cases(loss: str) -> list[dict[str, Any]]:
    return [case for case in _CASES if case["loss"] == loss]


def name(case: dict[str, Any]) -> str:
    shape = "x".join(map(str, case["student"]["shape"]))
    return f"{case['loss']}-{shape}-{case['student']['kind']}"


def tensor(spec: dict[str, Any]) -> Tensor:
    """The input that a case describes, in float64."""
    values = np.random.RandomState(spec["seed"]).standard_normal(spec["shape"])
    return torch.from_numpy(np.maximum(values, 0) if spec["kind"] == "relu" else values)
