"""Inputs and terms of DistillationLoss: checks, widening, and the sum of several feature losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_fused.losses._common import saving, value_checks
from amd_fused.losses.kd import checks

Loss = Callable[..., Tensor]
OWNER = "DistillationLoss"
# What the other terms are called in DistillationLoss.parts.
_TAKEN = ("ce", "kd", "feature")


class FeatureLosses(nn.ModuleDict):
    """Several feature losses by name, each with its weight, which may be changed: ``weights``."""

    def __init__(self, losses: Mapping[str, tuple[float, Loss]]) -> None:
        as_module = {
            name: loss if isinstance(loss, nn.Module) else _Function(loss)
            for name, (_, loss) in losses.items()
        }
        super().__init__(as_module)
        self.weights = {name: weight for name, (weight, _) in losses.items()}
        self._takes_target = {name: takes_target(loss) for name, (_, loss) in losses.items()}
        self._takes_indices = {name: takes_indices(loss) for name, (_, loss) in losses.items()}

    def terms(
        self, student: Any, teacher: Any, target: Any, indices: Any
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Name, weight and value of each loss whose weight is not 0."""
        for name, loss in self.items():
            if self.weights[name] > 0:
                source = f'feature_loss["{name}"]'
                inputs = [
                    _of(name, "student_features", student),
                    _of(name, "teacher_features", teacher),
                ]
                if self._takes_target[name]:
                    inputs.append(given("target", target, "feature_weight"))
                named = of_samples(indices, target) if self._takes_indices[name] else {}
                yield name, self.weights[name], scalar(source, loss(*inputs, **named))

    def extra_repr(self) -> str:
        return f"weights={self.weights!r}"


class _Function(nn.Module):
    """A plain function among modules."""

    def __init__(self, function: Loss) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return self.function(*inputs, **named)

    def extra_repr(self) -> str:
        return repr(self.function)


def several(feature_loss: Any) -> dict[str, tuple[float, Loss]]:
    """A mapping name: (weight, loss), or a list of (name, weight, loss), checked."""
    rule = (
        "feature_loss must be a loss, a dict of name: (weight, loss) or a list of "
        "(name, weight, loss)"
    )
    if isinstance(feature_loss, Mapping):
        entries = []
        for name, entry in feature_loss.items():
            if not isinstance(entry, (tuple, list)) or len(entry) != 2:
                raise TypeError(f"{OWNER}: {rule}, got {_shown(entry)} for {name!r}")
            entries.append((name, *entry))
    else:
        entries = list(feature_loss)
    losses: dict[str, tuple[float, Loss]] = {}
    for entry in entries:
        if not isinstance(entry, (tuple, list)) or len(entry) != 3:
            raise TypeError(f"{OWNER}: {rule}, got an entry {_shown(entry)}")
        name, weight, loss = entry
        _check_name(name, losses)
        value_checks.non_negative(OWNER, f"the weight of feature_loss[{name!r}]", weight)
        check_loss(f"feature_loss[{name!r}]", loss, "student_features, teacher_features")
        losses[name] = weight, loss
    if not losses:
        raise ValueError(f"{OWNER}: feature_loss must have at least one loss, got none")
    return losses


def check_loss(name: str, loss: Any, inputs: str) -> None:
    if not callable(loss):
        raise TypeError(
            f"{OWNER}: {name} must be a module or function of ({inputs}), got {type(loss).__name__}"
        )


def takes_target(loss: Loss) -> bool:
    """Whether a loss needs the labels: a third positional parameter, not named "indices", without a
    default."""
    positional = [
        p for p in _parameters(loss) if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    third = positional[2] if len(positional) > 2 else None
    return third is not None and third.name != "indices" and third.default is third.empty


def takes_indices(loss: Loss) -> bool:
    """Whether a loss needs each sample's index in the data: a parameter of that name without a
    default."""
    return any(
        p.name == "indices" and p.default is p.empty and p.kind is not p.POSITIONAL_ONLY
        for p in _parameters(loss)
    )


def _parameters(loss: Loss) -> list[inspect.Parameter]:
    function = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C do not say
        return []


def of_samples(indices: Any, target: Any) -> dict[str, Any]:
    """The argument ``indices`` of a loss on samples, none of which may be a blend."""
    if isinstance(target, Tensor) and target.is_floating_point():
        raise ValueError(
            f"{OWNER}: target must be class indices [B] where a feature loss takes indices, for a "
            f"blend of samples (Mixup) has none, got dtype {target.dtype}"
        )
    return {"indices": given("indices", indices, "feature_weight")}


def cross_entropy(z_s: Tensor, target: Tensor | None, ignore_index: int | None = None) -> Tensor:
    """Eq. 2, for class indices [B, ...] or probabilities [B, K, ...]; of the positions that count,
    where there is an ``ignore_index``, and 0 where none does."""
    if not isinstance(given("target", target, "ce_weight"), Tensor):
        raise TypeError(f"{OWNER}: target must be a tensor, got {type(target).__name__}")
    assert target is not None
    soft = target.is_floating_point()
    expected = z_s.shape if soft else (z_s.shape[0], *z_s.shape[2:])
    if target.shape != expected:
        rule = "probabilities [B, K, ...]" if soft else "class indices [B, ...]"
        raise ValueError(
            f"{OWNER}: target must be {rule} with shape {tuple(expected)} for student_logits of "
            f"shape {tuple(z_s.shape)}, got shape {tuple(target.shape)}"
        )
    target = saving.kept_by_autograd(target.to(z_s.dtype if soft else torch.int64))
    if not soft and ignore_index is not None:
        counted = (target != ignore_index).sum().clamp(min=1).to(z_s.dtype)
        total = F.cross_entropy(z_s, target, ignore_index=ignore_index, reduction="sum")
        return total / counted
    if not soft:
        return F.cross_entropy(z_s, target)
    # F.cross_entropy is NaN where the student masks a class by -Inf: 0 * -Inf. A class without a
    # share in the target has none in the loss.
    log_p = F.log_softmax(z_s, dim=1)
    log_p = torch.where((target == 0) & (log_p == -torch.inf), 0.0, log_p)
    return -(target * log_p).sum(1).mean()


def labels(target: Any, ignore_index: int) -> Tensor:
    """Class indices, which alone may be ``ignore_index``."""
    if not isinstance(target, Tensor) or target.is_floating_point():
        found = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(
            f"{OWNER}: target must be class indices where ignore_index is given ({ignore_index}), "
            f"got {found}"
        )
    return target


def takes_labels(logit_loss: Any, ignore_index: int | None) -> bool:
    """Whether a logit loss leaves positions out by their labels, as KDLoss does."""
    if ignore_index is None or not hasattr(logit_loss, "ignore_index"):
        return False
    if logit_loss.ignore_index != ignore_index:
        raise ValueError(
            f"{OWNER}: ignore_index must be that of logit_loss, {logit_loss.ignore_index}, got "
            f"{ignore_index}"
        )
    return True


def logits(name: str, value: Any, weight: str) -> Tensor:
    """Logits [B, K, ...] of a floating dtype."""
    if not isinstance(given(name, value, weight), Tensor):
        raise TypeError(f"{OWNER}: {name} must be a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{OWNER}: {name} must have a floating dtype, got {value.dtype}")
    checks.logits(OWNER, name, value)
    return value


def same_classes(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"{OWNER}: student_logits and teacher_logits must have the same shape, "
            f"got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )


def widened(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def given(name: str, value: Any, weight: str) -> Any:
    if value is None:
        raise ValueError(
            f"{OWNER}: {name} must be given while {weight} > 0, got None; "
            f"pass it, or set {weight}=0"
        )
    return value


def scalar(name: str, value: Any) -> Tensor:
    """What a loss returned, at least in float32."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{OWNER}: {name} must return a 0-d tensor, got {type(value).__name__}; "
            "wrap it in a function that adds up what it returns"
        )
    if value.ndim != 0:
        raise ValueError(
            f"{OWNER}: {name} must return a 0-d tensor, got shape {tuple(value.shape)}; "
            'use reduction="mean"'
        )
    return widened(value)


def _of(name: str, side: str, features: Any) -> Any:
    """One loss's features: its entry of a mapping, else what all losses take."""
    if not isinstance(features, Mapping):
        return features
    if name not in features:
        raise ValueError(
            f"{OWNER}: {side} must have an entry for every loss of feature_loss while it is a "
            f"dict, got none for {name!r}"
        )
    return features[name]


def _check_name(name: Any, before: Mapping[str, Any]) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{OWNER}: a name in feature_loss must be a string, got {name!r}")
    # Names of modules have no dots, and cannot be those of a ModuleDict's own attributes.
    if not name or "." in name or name in _TAKEN or hasattr(nn.ModuleDict, name):
        raise ValueError(
            f"{OWNER}: a name in feature_loss must be one that is not in use, without dots, "
            f"got {name!r}"
        )
    if name in before:
        raise ValueError(f"{OWNER}: names in feature_loss must differ, got {name!r} twice")


def _shown(entry: Any) -> str:
    if isinstance(entry, (tuple, list)):
        return f"{type(entry).__name__} of {len(entry)}"
    return type(entry).__name__
