"""Settings that tell runs apart: which differ, which matter to a method, and how they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from amd_fused.distill.config import WITHOUT_EFFECT, Settings
from amd_fused.distill.looking.runs import Run
from amd_fused.distill.methods import Method

Variant = tuple[tuple[str, Any], ...]
# What identifies a setup or a run otherwise, or leaves what is learnt as it is.
_NOT_COMPARED = {"recipe", "data", "teacher", "student", "method", "seed", *WITHOUT_EFFECT}


def differing(runs: Sequence[Run]) -> list[str]:
    """Settings to be told apart by.

    Those of the objective differ where one method has several values: methods have weights of
    their own. All others also where two methods differ, because then these do not compare.
    """
    found = []
    for option in fields(Settings):
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
    for option in fields(Settings):
        if option.name not in _NOT_COMPARED and matters(option.name, run.method):
            yield option.name, getattr(run.settings, option.name)


def matters(option: str, method: Method) -> bool:
    """Whether a student's training depends on a setting, given its method."""
    parts = method.key.split("+")
    amd = [part for part in parts if part.startswith("amd")]
    weight = option.removesuffix("_weight")
    if option in ("ce_weight", "kd_weight", "temperature", "backend"):
        return method.distilled
    if option in ("gamma", "margin", "scale"):
        return bool(amd)
    if option == "local_weight":
        return any(part.endswith("-gl") for part in amd)
    if option == "mask_threshold":
        return any("masked" in part for part in amd)
    if option != weight or option == "lsh_hashes":
        return option.partition("_")[0] in parts
    if option.endswith("_layers"):
        return method.maps
    if option.endswith("_embedding"):
        return method.embedding
    return True


def variant_order(variant: Variant) -> list[tuple[str, float, str]]:
    """Numbers by size."""
    return [
        (name, float(value) if isinstance(value, int | float) else 0.0, str(value))
        for name, value in variant
    ]


def variant_texts(variant: Variant) -> list[str]:
    """As ["gamma 3000", "margin 1.35"]."""
    return [f"{name.replace('_', ' ')} {value_text(value)}" for name, value in variant]


def value_text(value: Any) -> str:
    """As "10000", "yes", "layer1 layer2"; "-" for what is empty."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "-"
    return str(value) or "-"
