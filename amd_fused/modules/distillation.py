"""The paper's whole objective (Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_fused import _checks
from amd_fused.modules.amd import AMDLoss

FeatureLoss = Callable[[Any, Any], Tensor]
_OWNER = "DistillationLoss"


class DistillationLoss(nn.Module):
    """The whole objective of a distilled student: labels, the teacher's logits, its features.

    As::

        ce = F.cross_entropy(student_logits, target)
        log_p_s, log_p_t = (F.log_softmax(z / tau, 1) for z in (student_logits, teacher_logits))
        kd = tau**2 * F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)
        feature = feature_loss(student_features, teacher_features)
        total = ce_weight * ce + kd_weight * kd + feature_weight * feature

    Logits below float32 are widened first, under autocast too.

    Args:
        ce_weight: lambda_1 >= 0, weight of the cross-entropy with the labels.
        kd_weight: lambda_2 >= 0, weight of tau^2 KL(teacher || student).
        temperature: tau > 0, which softens both sides of the KL term.
        feature_weight: gamma >= 0, weight of the feature loss.
        feature_loss: a module or function of ``(student_features, teacher_features)`` that returns
            a 0-d tensor; default ``AMDLoss()``.

    A term of weight 0 is not computed, and inputs that only it needs may be None or left out:
    ``DistillationLoss(feature_weight=0)(student_logits, teacher_logits, target)`` is plain KD.

    Called with:
        student_logits: [B, K], any floating dtype.
        teacher_logits: [B, K].
        target: class indices [B] or class probabilities [B, K] (Mixup), as F.cross_entropy takes.
        student_features, teacher_features: what ``feature_loss`` takes; for ``AMDLoss`` a tensor
            or a list of tensors [B, C, H, W].

    Returns:
        0-d float32 tensor; float64 when the logits or the feature loss are. Gradients flow to
        every input that requires one. Freezing the teacher is up to the caller: put it into eval
        mode and run it under ``torch.no_grad()``.

    ``parts`` holds the terms of the last call for logging, {"ce": ..., "kd": ..., "feature": ...}:
    before weighting (kd with its tau^2), as detached 0-d tensors on their device, 0 where the
    weight is 0; empty before the first call and in copies. Under ``nn.DataParallel`` each replica
    sets its own, which are lost with it.

    Raises:
        TypeError, ValueError: an argument breaks its rule, shapes disagree, all weights are 0, or
            an input that a positive weight needs is missing.

    Source: AMD paper, Eqs. 2, 3 and 8, with its weights for CIFAR-10.
    """

    def __init__(
        self,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        temperature: float = 4.0,
        feature_weight: float = 5000.0,
        feature_loss: FeatureLoss | None = None,
    ) -> None:
        super().__init__()
        weights = {"ce_weight": ce_weight, "kd_weight": kd_weight, "feature_weight": feature_weight}
        for name, weight in weights.items():
            _checks.non_negative(_OWNER, name, weight)
        if not any(weights.values()):
            raise ValueError(f"{_OWNER}: ce_weight, kd_weight or feature_weight must be > 0, got 0")
        _checks.positive(_OWNER, "temperature", temperature)
        if feature_loss is not None and not callable(feature_loss):
            raise TypeError(
                f"{_OWNER}: feature_loss must be a module or function of (student_features, "
                f"teacher_features), got {type(feature_loss).__name__}"
            )
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.feature_loss: FeatureLoss = AMDLoss() if feature_loss is None else feature_loss
        self.parts: dict[str, Tensor] = {}

    def forward(
        self,
        student_logits: Tensor | None,
        teacher_logits: Tensor | None,
        target: Tensor | None,
        student_features: Any = None,
        teacher_features: Any = None,
    ) -> Tensor:
        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        if self.ce_weight > 0:
            z_s = _logits("student_logits", student_logits, "ce_weight")
            terms["ce"] = _cross_entropy(z_s, target)
            weighted.append(self.ce_weight * terms["ce"])
        if self.kd_weight > 0:
            z_s = _logits("student_logits", student_logits, "kd_weight")
            z_t = _logits("teacher_logits", teacher_logits, "kd_weight")
            terms["kd"] = _kd(z_s, z_t, self.temperature)
            weighted.append(self.kd_weight * terms["kd"])
        if self.feature_weight > 0:
            _given("student_features", student_features, "feature_weight")
            _given("teacher_features", teacher_features, "feature_weight")
            terms["feature"] = _widened(
                _scalar("feature_loss", self.feature_loss(student_features, teacher_features))
            )
            weighted.append(self.feature_weight * terms["feature"])
        # Eq. 8
        total = sum(weighted[1:], start=weighted[0])
        # A new dictionary each time: replicas would share one that is written into, and a caller
        # who kept it would see it change.
        self.parts = {
            name: terms[name].detach() if name in terms else torch.zeros_like(total)
            for name in ("ce", "kd", "feature")
        }
        return total

    def extra_repr(self) -> str:
        names = ("ce_weight", "kd_weight", "temperature", "feature_weight")
        shown = [f"{name}={getattr(self, name)!r}" for name in names]
        if not isinstance(self.feature_loss, nn.Module):
            shown.append(f"feature_loss={self.feature_loss!r}")
        return ", ".join(shown)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "parts": {}}


def _cross_entropy(z_s: Tensor, target: Tensor | None) -> Tensor:
    """Eq. 2, for class indices [B] or probabilities [B, K]."""
    if not isinstance(_given("target", target, "ce_weight"), Tensor):
        raise TypeError(f"{_OWNER}: target must be a tensor, got {type(target).__name__}")
    assert target is not None
    soft = target.is_floating_point()
    expected = z_s.shape if soft else z_s.shape[:1]
    if target.shape != expected:
        rule = "probabilities [B, K]" if soft else "class indices [B]"
        raise ValueError(
            f"{_OWNER}: target must be {rule} with shape {tuple(expected)} for student_logits of "
            f"shape {tuple(z_s.shape)}, got shape {tuple(target.shape)}"
        )
    return F.cross_entropy(z_s, target.to(z_s.dtype if soft else torch.int64))


def _kd(z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
    """Eq. 3: tau^2 KL(teacher || student), summed over classes, averaged over the batch."""
    if z_s.shape != z_t.shape:
        raise ValueError(
            f"{_OWNER}: student_logits and teacher_logits must have the same shape, "
            f"got {tuple(z_s.shape)} and {tuple(z_t.shape)}"
        )
    dtype = torch.promote_types(z_s.dtype, z_t.dtype)
    log_p_s = F.log_softmax(z_s.to(dtype) / temperature, dim=1)
    log_p_t = F.log_softmax(z_t.to(dtype) / temperature, dim=1)
    divergence = F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def _logits(name: str, logits: Any, weight: str) -> Tensor:
    """Logits [B, K] in float32 or float64."""
    if not isinstance(_given(name, logits, weight), Tensor):
        raise TypeError(f"{_OWNER}: {name} must be a tensor, got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"{_OWNER}: {name} must have a floating dtype, got {logits.dtype}")
    if logits.ndim != 2 or logits.numel() == 0:
        raise ValueError(
            f"{_OWNER}: {name} must be [B, K] with B, K >= 1, got shape {tuple(logits.shape)}"
        )
    return _widened(logits)


def _widened(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _given(name: str, value: Any, weight: str) -> Any:
    if value is None:
        raise ValueError(
            f"{_OWNER}: {name} must be given while {weight} > 0, got None; "
            f"pass it, or set {weight}=0"
        )
    return value


def _scalar(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{_OWNER}: {name} must return a 0-d tensor, got {type(value).__name__}; "
            "wrap it in a function that adds up what it returns"
        )
    if value.ndim != 0:
        raise ValueError(
            f"{_OWNER}: {name} must return a 0-d tensor, got shape {tuple(value.shape)}; "
            'use reduction="mean"'
        )
    return value
