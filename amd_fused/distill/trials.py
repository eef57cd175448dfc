"""What `amd-fused tune` tries for the methods of a recipe, and what it chose.

What was chosen lies in `tuned/<recipe>.json` beside this file, with all that was tried; a recipe
that has such a file takes its methods' settings from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amd_fused.distill.methods import MethodSettings, parse

RULE = (
    "of a method's trials the one with the highest top-1 accuracy on the held-out training images "
    "after the last epoch; of equal ones that with the lowest negative log likelihood"
)
_LEARNING_RATES = (0.02, 0.05, 0.1)
# The paper's for CIFAR-10, CINIC-10 and Tiny-ImageNet.
_LOGITS = tuple(
    {"ce_weight": ce, "kd_weight": kd, "temperature": tau}
    for ce, kd, tau in ((0.1, 0.9, 4.0), (0.4, 0.6, 16.0), (0.7, 0.3, 16.0))
)
_TUNED = Path(__file__).parent / "tuned"


@dataclass(frozen=True)
class Trials:
    """Of one method.

    Args:
        method: its key.
        tried: settings, a trial each.
        after: the key of a method tried before, whose chosen settings these come on top of.
    """

    method: str
    tried: tuple[Mapping[str, Any], ...]
    after: str | None = None


def tuned(recipe: str) -> dict[str, dict[str, Any]]:
    """The settings chosen for each method of a recipe; none where nothing was tried."""
    file = _TUNED / f"{recipe}.json"
    if not file.exists():
        return {}
    return dict(json.loads(file.read_text(encoding="utf-8"))["chosen"])


def best(outcomes: Sequence[Mapping[str, Any]]) -> int:
    """Which of a method's trials is chosen, by `RULE`.

    Args:
        outcomes: "top1" and "nll" of each.
    """
    return min(range(len(outcomes)), key=lambda k: (-outcomes[k]["top1"], outcomes[k]["nll"], k))


def usual(
    methods: Sequence[str],
    carried: Mapping[str, Any],
    besides: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[Trials, ...]:
    """Three trials for each method.

    Students' learning rate first, on students from scratch, for all; then KD's weights and
    temperature, for all with a loss of features; then each loss's weight: the carried one, a fifth
    and five times that. A sum takes its first loss's settings, which leaves the last one's weight.

    Args:
        methods: their keys; scratch, kd and the first loss of a sum come before what needs them.
        carried: settings with the weights that are known from other data; what is not among them
            has its default.
        besides: settings that all trials of a method's weight have, by its key.
    """
    made = []
    for key in methods:
        terms = parse(key).terms
        if not terms[0].distilled:
            made.append(Trials(key, tuple({"lr": lr} for lr in _LEARNING_RATES)))
        elif not terms[-1].of_features:
            made.append(Trials(key, _LOGITS, "scratch"))
        else:
            weight = terms[-1].weight
            value = carried.get(weight, getattr(MethodSettings(), weight))
            tried = tuple(
                {**besides.get(key, {}), weight: x} for x in (value / 5, value, value * 5)
            )
            made.append(Trials(key, tried, terms[0].key if len(terms) > 1 else "kd"))
    return tuple(made)
