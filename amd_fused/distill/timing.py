"""What the AMD loss costs in this experiment: the fused backend beside the eager reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amd_fused import FeatureHooks
from amd_fused.distill.config import Config
from amd_fused.distill.data import Dataset
from amd_fused.distill.experiment import AMD_GL, build, objective
from amd_fused.distill.train import Trainer
from amd_fused.distill.wrn import FEATURE_LAYERS

WARMUP = 5


@dataclass(frozen=True)
class Timing:
    """Median and quartiles, in milliseconds."""

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    repetitions: int


def time_backends(
    config: Config, data: Dataset, teacher: nn.Module
) -> dict[str, dict[str, Timing]]:
    """AMD (g+l) with `backend="auto"` and `"reference"`: subject -> backend -> `Timing`.

    "training step": the student's and the teacher's forward pass, the whole objective, backward
    and optimizer step, on a batch of the experiment. "loss alone": forward and backward of the AMD
    loss on the features of that batch.
    """
    batch = data.train.subset(config.batch_size)
    backends = ("auto", "reference")
    losses = {backend: objective(AMD_GL, config, backend) for backend in backends}
    students = {backend: build(config.student, data, seed=0) for backend in backends}
    trainers = {
        backend: Trainer(
            students[backend],
            losses[backend],
            config.student_recipe,
            config.timing_steps + WARMUP,
            teacher=teacher,
        )
        for backend in backends
    }
    features_s, features_t = (
        _features(model, batch.images) for model in (students["auto"], teacher)
    )
    for feature in features_s:
        feature.requires_grad_()
    with trainers["auto"] as fused, trainers["reference"] as eager:
        steps = _interleaved(
            {
                "auto": lambda: fused.step(batch.images, batch.labels),
                "reference": lambda: eager.step(batch.images, batch.labels),
            },
            config.timing_steps,
        )
    alone = _interleaved(
        {
            backend: _loss_call(losses[backend].feature_loss, features_s, features_t)
            for backend in backends
        },
        config.timing_steps,
    )
    return {"training step": steps, "loss alone": alone}


def _loss_call(
    loss: Callable[[list[Tensor], list[Tensor]], Tensor],
    features_s: list[Tensor],
    features_t: list[Tensor],
) -> Callable[[], object]:
    return lambda: torch.autograd.grad(loss(features_s, features_t), features_s)


@torch.no_grad()
def _features(model: nn.Module, images: Tensor) -> list[Tensor]:
    with FeatureHooks(model, FEATURE_LAYERS) as hooks:
        model(images)
        return hooks.features


def _interleaved(calls: dict[str, Callable[[], object]], repetitions: int) -> dict[str, Timing]:
    """Times the calls in turns, so that a machine that slows down does so for all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + WARMUP):
        # In changing order too: a call may find the caches as the one before it left them.
        for name in sorted(calls, reverse=repetition % 2 == 1):
            start = time.perf_counter()
            calls[name]()
            if repetition >= WARMUP:
                seconds[name].append(time.perf_counter() - start)
    return {name: _quartiles(values) for name, values in seconds.items()}


def _quartiles(seconds: list[float]) -> Timing:
    values = torch.tensor(seconds, dtype=torch.float64) * 1e3
    lower, median, upper = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return Timing(median.item(), lower.item(), upper.item(), len(seconds))
