"""The comparison: teacher, student from scratch, KD, AMD (g), AMD (g+l), over several seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from amd_fused import AMDLoss, DistillationLoss
from amd_fused.distill.config import Config
from amd_fused.distill.data import Dataset
from amd_fused.distill.train import Run, train
from amd_fused.distill.wrn import WideResNet, parse_wrn


@dataclass(frozen=True)
class Method:
    """A way to train; `amd_local` tells with which AMD loss, if any."""

    key: str
    label: str
    distilled: bool = False
    amd_local: bool | None = None


TEACHER = Method("teacher", "Teacher")
SCRATCH = Method("student", "Student from scratch")
KD = Method("kd", "KD", distilled=True)
AMD_G = Method("amd-g", "AMD (g)", distilled=True, amd_local=False)
AMD_GL = Method("amd-gl", "AMD (g+l)", distilled=True, amd_local=True)
METHODS = (TEACHER, SCRATCH, KD, AMD_G, AMD_GL)


def objective(method: Method, config: Config, backend: str = "auto") -> DistillationLoss:
    """What a method minimises: cross-entropy alone, or Eq. 8 with or without its AMD term."""
    if not method.distilled:
        return DistillationLoss(ce_weight=1.0, kd_weight=0.0, feature_weight=0.0)
    if method.amd_local is None:
        feature_weight, feature_loss = 0.0, None
    else:
        local_weight = config.local_weight if method.amd_local else 0.0
        feature_weight = config.feature_weight
        feature_loss = AMDLoss(local_weight=local_weight, backend=backend)
    return DistillationLoss(
        ce_weight=config.ce_weight,
        kd_weight=config.kd_weight,
        temperature=config.temperature,
        feature_weight=feature_weight,
        feature_loss=feature_loss,
    )


def build(name: str, data: Dataset, seed: int) -> WideResNet:
    """A network with weights drawn from `seed`, leaving the global random state as it was."""
    depth, width = parse_wrn(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WideResNet(depth, width, num_classes=data.num_classes, in_channels=data.in_channels)


def run_all(
    config: Config, data: Dataset, on_epoch: Callable[[Run], None] = lambda run: None
) -> tuple[list[Run], WideResNet]:
    """Every method with every seed, in that order within a seed; and the last teacher.

    Within a seed, the students start from the same weights and see the same batches.
    """
    student_data = replace(data, train=data.train.subset(config.train_size))
    runs = []
    for seed in range(config.seeds):
        teacher = build(config.teacher, data, seed)
        for method in METHODS:
            run = Run(method.key, seed)
            loss = objective(method, config)
            if method is TEACHER:
                train(run, teacher, loss, data, config.teacher_recipe, on_epoch=on_epoch)
            else:
                train(
                    run,
                    build(config.student, data, seed),
                    loss,
                    student_data,
                    config.student_recipe,
                    teacher=teacher if method.distilled else None,
                    on_epoch=on_epoch,
                )
            runs.append(run)
    return runs, teacher
