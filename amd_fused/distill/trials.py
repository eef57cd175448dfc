"""What `amd-fused tune` tries for the methods of a recipe, and what it chose.

What was chosen lies in `tuned/<recipe>.json` beside this file, with all that was tried; a recipe
that has such a file takes its methods' settings from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RULE = (
    "of a method's trials the one with the highest top-1 accuracy on the held-out training images "
    "after the last epoch; of equal ones that with the lowest negative log likelihood"
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


def around(method: str, weight: str, carried: float) -> Trials:
    """The paper's weight of a method's loss, a fifth and five times that; KD's choice below."""
    values = (carried / 5, carried, carried * 5)
    return Trials(method, tuple({weight: value} for value in values), "kd")
