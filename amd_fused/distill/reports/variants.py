"""Settings that tell runs apart: which differ, which matter to a method, and how they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from amd_fused.distill.config import WITHOUT_EFFECT, all_settings
from amd_fused.distill.methods import Method
from amd_fused.distill.reports.runs import Run
from amd_fused.distill.setting import value_text

Variant = tuple[tuple[str, Any], ...]
# What identifies a setup or a run otherwise, or leaves what is learnt as it is.
_NOT_COMPARED = {"recipe", "data", "teacher", "student", "method", "seed", *WITHOUT_EFFECT}


def differing(runs: Sequence[Run]) -> list[str]:
    """Settings to be told apart by.

    Those of the objective differ where one method has several values: methods have weights of
    their own. All others also where two methods differ, because then these do not compare.
    """
    found = []
    for option in all_settings():
        if option.name in _NOT_COMPARED:
            continue
        within_method = option.metadata["group"] == "objective"
        values: dict[str, set[Any]] = {}
        for run in runs:
            if matters(option.name, run.method):
                method = run.method.key if within_method else ""
                values.setdefault(method, set()).add(getattr(run.settings, option.name))
        if any(len(several) > 1 for several in values.values()):
            found.append(option.name)
    return found


def compared(run: Run) -> Iterator[tuple[str, Any]]:
    """Every setting that matters to what a run learns, with its value."""
    for option in all_settings():
        if option.name not in _NOT_COMPARED and matters(option.name, run.method):
            yield option.name, getattr(run.settings, option.name)


def matters(option: str, method: Method) -> bool:
    """Whether a student's training depends on a setting, given its method."""
    groups = {one.name: one.metadata["group"] for one in all_settings()}
    return method.depends_on(option, groups[option])


def variant_order(variant: Variant) -> list[tuple[str, float, str]]:
    """Numbers by size."""
    return [
        (name, float(value) if isinstance(value, int | float) else 0.0, str(value))
        for name, value in variant
    ]


def variant_texts(variant: Variant) -> list[str]:
    """As ["gamma 3000", "margin 1.35"]."""
    return [f"{name.replace('_', ' ')} {value_text(value)}" for name, value in variant]
