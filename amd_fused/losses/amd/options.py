"""The options of the AMD loss, each spelled once: what a user says and what an operator is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common import layouts, value_checks
from amd_fused.losses._common.dtypes import compute_dtype
from amd_fused.losses._common.layouts import LayoutOptions
from amd_fused.losses.amd.margin import margin_polynomial

Features = Tensor | Sequence[Tensor]
Keywords = ParamSpec("Keywords")
Options = TypeVar("Options", bound="FormulaOptions")


@dataclass(kw_only=True, eq=False)
class _Formula:
    """What decides the loss's value; :func:`amd_fused.amd_loss` documents each."""

    margin: float = 1.35
    scale: float = 64.0
    local_weight: float = 0.2
    formula: str = "paper"
    component_weights: Sequence[float] = (1.0, 1.0, 1.0)
    mask_threshold: float | None = None
    layer_weights: Sequence[float] | None = None
    eps: float = 1e-6
    reduction: str = "mean"
    align: str = "error"


@dataclass(kw_only=True, eq=False)
class FormulaOptions(LayoutOptions, _Formula):
    """Keywords of the reference: all but the backend."""


@dataclass(kw_only=True, eq=False)
class AMDOptions(FormulaOptions):
    """All keywords of :func:`amd_fused.amd_loss` and of :class:`amd_fused.AMDLoss`."""

    backend: str = "auto"


NAMES = tuple(field.name for field in fields(AMDOptions))


def options_of(kind: type[Options], owner: str, keywords: Mapping[str, Any]) -> Options:
    """A call's keywords as options, as yet unchecked; those not given have their defaults."""
    for name in keywords:
        if name not in kind.__dataclass_fields__:
            known = ", ".join(kind.__dataclass_fields__)
            raise TypeError(f"{owner}: {name!r} is none of its options, which are {known}")
    return kind(**keywords)


def keywords_of(options: AMDOptions) -> dict[str, Any]:
    """The options as keywords of a call, in the order of its signature."""
    return {name: getattr(options, name) for name in NAMES}


def takes(
    kind: Callable[Keywords, FormulaOptions],
) -> Callable[[Callable[..., Tensor]], Callable[Concatenate[Features, Features, Keywords], Tensor]]:
    """For a loss whose ``**keywords`` are those options: its signature shows their names, types and
    defaults, to ``help`` and to type checkers."""

    def decorate(
        loss: Callable[..., Tensor],
    ) -> Callable[Concatenate[Features, Features, Keywords], Tensor]:
        own = [
            p for p in signature(loss).parameters.values() if p.kind is not Parameter.VAR_KEYWORD
        ]
        named = signature(kind).parameters.values()
        loss.__signature__ = signature(loss).replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return cast(Callable[Concatenate[Features, Features, Keywords], Tensor], loss)

    return decorate


def check(owner: str, options: AMDOptions) -> None:
    """Every rule that does not depend on the features.

    Raises:
        TypeError, ValueError: an option breaks its rule.
    """
    value_checks.positive(owner, "margin", options.margin)
    value_checks.positive(owner, "scale", options.scale)
    local_weight = value_checks.number(owner, "local_weight", options.local_weight)
    if not 0 <= local_weight <= 1:
        raise ValueError(f"{owner}: local_weight must be between 0 and 1, got {local_weight}")
    value_checks.choice(owner, "formula", options.formula, ("paper", "released"))
    value_checks.weights(owner, "component_weights", options.component_weights)
    if len(options.component_weights) != 3:
        raise ValueError(
            f"{owner}: component_weights must be three numbers, for the terms g, p and n of Eq. 7, "
            f"got {len(options.component_weights)}"
        )
    if options.mask_threshold is not None:
        threshold = value_checks.number(owner, "mask_threshold", options.mask_threshold)
        if not 0 <= threshold < 1:
            raise ValueError(f"{owner}: mask_threshold must be None or in [0, 1), got {threshold}")
    value_checks.optional_weights(owner, "layer_weights", options.layer_weights)
    value_checks.non_negative(owner, "eps", options.eps)
    value_checks.choice(owner, "reduction", options.reduction, ("mean", "batchmean", "none"))
    value_checks.choice(owner, "align", options.align, ("error", "adaptive_avg"))
    layouts.check(owner, options)
    value_checks.choice(owner, "backend", options.backend, BACKENDS)


class Operands(NamedTuple):
    """What an operator takes besides features, in the order of its schema.

    ``layer_weights`` are already divided by the number of layers. ``position_mean``: the mean over
    a region's positions rather than their sum.
    """

    margin_polynomial: list[float] | None
    margin: float
    scale: float
    local_weight: float
    released: bool
    component_weights: list[float]
    mask_threshold: float | None
    layer_weights: list[float]
    eps: float
    position_mean: bool


def layer_weights(options: FormulaOptions, layers: int) -> list[float]:
    """Of Eq. 7's mean over the layer pairs."""
    return [weight / layers for weight in options.layer_weights or [1.0] * layers]


def operands(options: FormulaOptions, features: Sequence[Tensor]) -> Operands:
    """Options as an operator's operands, for students' and as many teachers' features."""
    threshold = options.mask_threshold
    return Operands(
        margin_polynomial(float(options.margin), compute_dtype(features) == torch.float64),
        float(options.margin),
        float(options.scale),
        float(options.local_weight),
        options.formula == "released",
        [float(weight) for weight in options.component_weights],
        None if threshold is None else float(threshold),
        [float(weight) for weight in layer_weights(options, len(features) // 2)],
        float(options.eps),
        options.reduction != "batchmean",
    )
