"""The learning rate as a function of the step, so that there is no state to save."""

from __future__ import annotations

import math

from amd_fused.distill.config import Settings


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Of one step.

    Args:
        step: counted from 0 over the whole run.
        steps: of an epoch.

    "steps": `lr * lr_decay ** (milestones that have passed)`. "cosine": `lr` times
    `(1 + cos(pi * step / all steps)) / 2`, which would be 0 one step after the last.
    """
    if settings.schedule == "cosine":
        return settings.lr * (1 + math.cos(math.pi * step / (settings.epochs * steps))) / 2
    passed = sum(step // steps >= milestone for milestone in settings.milestones)
    return settings.lr * settings.lr_decay**passed
