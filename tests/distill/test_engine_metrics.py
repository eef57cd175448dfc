"""Schedules and metrics have the values that are worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from distill.tiny_runs import tiny

pytest.importorskip("accelerate")

from amd_fused.distill.engine import launch
from amd_fused.distill.engine.metrics import BINS, Measures, measure
from amd_fused.distill.engine.schedule import learning_rate


def measured(logits: list[list[float]], labels: list[int], batch: int = 2) -> Measures:
    """Of a network whose logits are these; the identity, given them as images."""
    images, targets = torch.tensor(logits), torch.tensor(labels)
    batches = zip(images.split(batch), targets.split(batch), strict=True)
    return measure(nn.Identity(), batches, images.shape[1], launch.start(tiny()))


def log(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def test_steps_take_a_factor_at_each_milestone() -> None:
    settings = tiny(lr=0.1, lr_decay=0.2, milestones=(1, 3), epochs=4)
    rates = [learning_rate(settings, step, steps=2) for step in range(8)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.004, 0.004])


def test_cosine_falls_to_zero_over_all_steps() -> None:
    settings = tiny(lr=0.1, schedule="cosine", epochs=2)
    rates = [learning_rate(settings, step, steps=3) for step in range(7)]
    # (1 + cos(k * 30 degrees)) / 2
    by_hand = [1, (2 + 3**0.5) / 4, 0.75, 0.5, 0.25, (2 - 3**0.5) / 4, 0]
    assert rates == pytest.approx([0.1 * factor for factor in by_hand])


def test_metrics_are_those_worked_out_by_hand() -> None:
    found = measured(
        [log(0.5, 0.3, 0.2), log(0.05, 0.9, 0.05), log(0.2, 0.18, 0.62), log(0.95, 0.03, 0.02)],
        [0, 2, 2, 0],
        batch=3,
    )
    # Each confidence is alone in its bin; gaps |0.5 - 1|, |0.9 - 0|, |0.62 - 1|, |0.95 - 1|.
    assert found.test["ece"] == pytest.approx(100 * (0.5 + 0.9 + 0.38 + 0.05) / 4, abs=1e-3)
    assert found.test["top1"] == 75
    assert found.test["top5"] == 100
    nll = -(math.log(0.5) + math.log(0.05) + math.log(0.62) + math.log(0.95)) / 4
    assert found.test["nll"] == pytest.approx(nll, rel=1e-6)
    assert found.reliability["edges"] == pytest.approx([k / 15 for k in range(16)])
    expected = {7: (0.5, 1), 9: (0.62, 1), 13: (0.9, 0), 14: (0.95, 1)}
    for k in range(BINS):
        confidence, accuracy = expected.get(k, (0, 0))
        assert found.reliability["count"][k] == (k in expected)
        assert found.reliability["confidence"][k] == pytest.approx(confidence, abs=1e-6)
        assert found.reliability["accuracy"][k] == accuracy


def test_top5_is_of_the_first_five_classes() -> None:
    descending = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    found = measured([descending] * 4, [0, 4, 5, 6])
    assert (found.test["top1"], found.test["top5"]) == (25, 50)


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    found = measured([[200.0, 0.0], log(0.95, 0.05)], [0, 1])
    assert found.reliability["count"] == [0] * 14 + [2]
    # Together the two are sure by 0.975 and right in half of the cases.
    assert found.test["ece"] == pytest.approx(47.5, abs=1e-3)


def test_logits_between_zero_and_one_are_no_probabilities() -> None:
    found = measured([[1.0, 0.0]], [0])
    confidence = math.e / (math.e + 1)
    assert found.test["ece"] == pytest.approx(100 * (1 - confidence), abs=1e-3)
    assert found.test["nll"] == pytest.approx(-math.log(confidence))


def test_batches_of_any_size_give_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(37, 6, generator=generator)).tolist()
    labels = torch.randint(6, (37,), generator=generator).tolist()
    whole = measured(logits, labels, batch=37)
    for batch in (1, 5):
        found = measured(logits, labels, batch)
        assert found.test == pytest.approx(whole.test, rel=1e-6)
        for name, values in whole.reliability.items():
            assert found.reliability[name] == pytest.approx(values, rel=1e-6)
