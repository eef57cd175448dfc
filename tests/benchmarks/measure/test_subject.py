"""Cases: how many sets of inputs, what an oracle gets, and the gradient that reaches the loss."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import environment
from benchmarks.measure.subject import Case, IdealBytes, Inputs, input_sets

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.parametrize(
    ("bytes_of_one", "sets"),
    [
        (MIB, 4),  # four times the cache of 1 MiB
        (3 * MIB // 2, 3),  # rounded up
        (64 * MIB, 2),  # two at least
        (100, 128),  # 128 at most
        (4 * 2**30, 2),
    ],
)
def test_sets_of_inputs_exceed_the_cache(monkeypatch, bytes_of_one, sets):
    monkeypatch.setattr(environment, "last_level_cache_bytes", lambda device: MIB)
    assert input_sets(bytes_of_one, CPU) == sets


def test_oracle_gets_all_floating_inputs_in_float64():
    labels = torch.tensor([1, 0])
    inputs = Inputs([torch.ones(2, 3).half()], [torch.ones(2, 3)], (labels, torch.ones(4)))
    (student,), (teacher,), *constants = inputs.in_float64().arguments
    assert student.requires_grad
    dtypes = [a.dtype for a in (student, teacher, *constants)]
    assert dtypes == [torch.float64, torch.float64, torch.int64, torch.float64]


def test_loss_in_float16_has_the_weight_of_a_scaled_objective():
    def upstream(dtype, **options):
        return Case("s", "s", "rows", dtype, [], IdealBytes(1, 1, 1), [], 3.0, **options).upstream

    assert upstream(torch.float32) == 3.0
    assert upstream(torch.float16) == 3.0 * 2**13
    assert upstream(torch.float16, scale=16.0) == 48.0
