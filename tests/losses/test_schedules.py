"""Options that change between steps under torch.compile: few compilations, and the new value."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import amd_fused

STEPS = 12
# Criterion, made anew, and the options that change, with their values.
SCHEDULES: dict[str, tuple[Callable[[], nn.Module], dict[str, list[Any]]]] = {
    "amd": (
        lambda: amd_fused.AMDLoss(mask_threshold=0.5),
        {
            "margin": [1.35 + i / 3 for i in range(STEPS)],
            "scale": [64.0 - i for i in range(STEPS)],
            "local_weight": [0.2 + i / 20 for i in range(STEPS)],
            "mask_threshold": [0.5 - i / 30 for i in range(STEPS)],
            "eps": [1e-6 * (1 + i) for i in range(STEPS)],
            "component_weights": [[1.0, 1.0 - i / 20, 1.0 + i] for i in range(STEPS)],
            "layer_weights": [[1.0 + i] for i in range(STEPS)],
        },
    ),
    "at": (amd_fused.ATLoss, {"layer_weights": [[1.0 + i] for i in range(STEPS)]}),
    "kd": (amd_fused.KDLoss, {"temperature": [4.0 - i / 5 for i in range(STEPS)]}),
    "skd": (
        lambda: amd_fused.SphericalKDLoss(multiplier=1.5),
        {
            "temperature": [2.0 + i / 7 for i in range(STEPS)],
            "multiplier": [1.5 + i for i in range(STEPS)],
        },
    ),
    "lsh": (
        lambda: amd_fused.LSHLoss(10, 16, bias="zero"),
        {"l2_weight": [0.5 + i for i in range(STEPS)]},
    ),
    "rkd": (amd_fused.RKDLoss, {"angle_weight": [2.0 - i / 10 for i in range(STEPS)]}),
    "sum": (
        lambda: amd_fused.DistillationLoss(feature_weight=0),
        {
            "temperature": [4.0 - i / 5 for i in range(STEPS)],
            "kd_weight": [0.9 - i / 20 for i in range(STEPS)],
        },
    ),
}
# A schedule's name, and the options that it changes: all of them, or one.
TOGETHER = [(name, tuple(options)) for name, (_, options) in SCHEDULES.items()]
ALONE = [(name, (option,)) for name, options in TOGETHER if len(options) > 1 for option in options]
# AOTAutograd already makes constants of floats that no arithmetic on tensors takes up.
SHORT = [(*case, "aot_eager") for case in TOGETHER]
LONG = [(*case, to) for case, to in product([*ALONE, *TOGETHER], ["aot_eager", "inductor"])]


MAPS = (amd_fused.AMDLoss, amd_fused.ATLoss)


class Step(nn.Module):
    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> Any:
        if isinstance(self.criterion, amd_fused.DistillationLoss):
            return self.criterion(student, teacher, target)
        return self.criterion(student, teacher)


@pytest.mark.parametrize(
    ("name", "options", "compiler"),
    [
        *SHORT,
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in LONG if case not in SHORT),
    ],
)
def test_a_schedule_compiles_for_one_value_and_then_for_all(
    name: str, options: tuple[str, ...], compiler: str
) -> None:
    make, schedule = SCHEDULES[name]
    criterion = make()
    counter = CompileCounterWithBackend(compiler)
    step = torch.compile(Step(criterion), backend=counter, fullgraph=True)
    target = torch.randint(10, (4,))
    shape = (4, 10, 3, 4) if isinstance(criterion, MAPS) else (4, 10)
    for i in range(STEPS):
        for option in options:
            setattr(criterion, option, schedule[option][i])
        inputs = [torch.randn(shape, requires_grad=True) for _ in range(2)]
        found = step(*inputs, target)
        expected = Step(criterion)(*inputs, target)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
        gradients = [torch.autograd.grad(loss, inputs[0])[0] for loss in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)
    assert counter.frame_count <= 2


def test_a_wrong_value_is_refused_when_the_criterion_is_called_next() -> None:
    criterion = amd_fused.KDLoss()
    criterion.temperature = -1.0
    with pytest.raises(ValueError, match="temperature must be finite and > 0, got -1"):
        criterion(torch.ones(2, 3), torch.ones(2, 3))
