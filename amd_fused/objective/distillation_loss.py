"""The paper's whole objective (Eq. 8), with any logit loss and any feature losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from amd_fused.losses._common import value_checks
from amd_fused.losses.amd import AMDLoss
from amd_fused.losses.kd.checks import whole
from amd_fused.losses.kd.function import kd_loss
from amd_fused.objective import terms
from amd_fused.objective.terms import OWNER, FeatureLosses, Loss

# The defaults, which stand for "left out" where something else takes an argument's place.
_TEMPERATURE = 4.0
_FEATURE_WEIGHT = 5000.0


class DistillationLoss(_Loss):
    """The whole objective of a distilled student: labels, the teacher's logits, its features.

    As::

        ce = F.cross_entropy(student_logits, target)
        kd = kd_loss(student_logits, teacher_logits, temperature)
        feature = feature_loss(student_features, teacher_features)
        total = ce_weight * ce + kd_weight * kd + feature_weight * feature

    Another logit loss, and several feature losses (AMD + SP is the paper's section 5.6.3)::

        DistillationLoss(
            logit_loss=SphericalKDLoss(temperature=4.0),
            feature_loss={"amd": (5000.0, AMDLoss()), "sp": (3000.0, SPLoss())},
        )

    Logits below float32 are widened before the cross-entropy and a logit loss of the caller's,
    under autocast too.

    Args:
        ce_weight: lambda_1 >= 0, weight of the cross-entropy with the labels.
        kd_weight: lambda_2 >= 0, weight of the logit loss.
        temperature: tau > 0 of the default logit loss. Leave it out where ``logit_loss`` is given.
        feature_weight: gamma >= 0, weight of the feature loss. Leave it out, or pass 0 to switch
            all of them off, where ``feature_loss`` holds several, which have their own weights.
        feature_loss: a module or function of ``(student_features, teacher_features)`` that returns
            a 0-d tensor; default ``AMDLoss()``. Or several of them: a dict of
            ``name: (weight, loss)`` or a list of ``(name, weight, loss)``. Their weights may be
            changed between calls: ``criterion.feature_loss.weights["sp"] = 0.0``.
        logit_loss: a module or function of ``(student_logits, teacher_logits)`` that returns a 0-d
            tensor; default ``kd_loss`` with the temperature. If it has a method ``normalize`` of
            the same two arguments, as :class:`SphericalKDLoss` does, the cross-entropy sees the
            student logits that it returns (while kd_weight > 0).
        ignore_index: the label of positions that do not count, in the cross-entropy and in the
            logit loss, if that is the default one, or a :class:`KDLoss` or
            :class:`SphericalKDLoss` of the same ``ignore_index``; each is 0 where none counts.
            None: the cross-entropy leaves -100 out, as F.cross_entropy does, and the logit loss
            nothing.

    A loss whose third positional parameter has no default, such as :class:`NDLoss`, is given
    ``target`` too. A feature loss with a parameter ``indices`` without a default, such as
    :class:`CRDLoss`, is given ``indices`` by that name. A term of weight 0 is not computed, and
    inputs that only it needs may be None or left out:
    ``DistillationLoss(feature_weight=0)(student_logits, teacher_logits, target)`` is plain KD.

    Called with:
        student_logits: [B, K] or dense [B, K, ...], any floating dtype.
        teacher_logits: of the same shape.
        target: class indices [B, ...] or class probabilities [B, K, ...] (Mixup), as
            F.cross_entropy takes.
        student_features, teacher_features: what ``feature_loss`` takes; for ``AMDLoss`` a tensor
            or a list of tensors [B, C, H, W]. For several losses either the same for all, or a
            dict with each loss's own by its name.
        indices: [B], each sample's index in the data set, where a feature loss takes it. ``target``
            must then be class indices.

    Returns:
        0-d float32 tensor; float64 when the logits or a feature loss are. Gradients flow to every
        input that requires one. Freezing the teacher is up to the caller: put it into eval mode and
        run it under ``torch.no_grad()``.

    ``parts`` holds the terms of the last call for logging, {"ce": ..., "kd": ..., "feature": ...},
    where "kd" is the logit loss, and several feature losses stand under their own names: before
    weighting (kd with its tau^2), as detached 0-d tensors on their device, 0 where the weight is 0;
    empty before the first call and in copies. Under ``nn.DataParallel`` each replica sets its own,
    which are lost with it.

    Raises:
        TypeError, ValueError: an argument breaks its rule, shapes disagree, all weights are 0, or
            an input that a positive weight needs is missing.

    Source: AMD paper, Eqs. 2, 3 and 8, with its weights for CIFAR-10.
    """

    def __init__(
        self,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        temperature: float = _TEMPERATURE,
        feature_weight: float = _FEATURE_WEIGHT,
        feature_loss: Loss
        | Mapping[str, tuple[float, Loss]]
        | Sequence[tuple[str, float, Loss]]
        | None = None,
        *,
        logit_loss: Loss | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        weights = {"ce_weight": ce_weight, "kd_weight": kd_weight, "feature_weight": feature_weight}
        for name, weight in weights.items():
            value_checks.non_negative(OWNER, name, weight)
        value_checks.positive(OWNER, "temperature", temperature)
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.temperature = temperature
        if ignore_index is not None:
            whole(OWNER, "ignore_index", ignore_index)
        self.ignore_index = ignore_index
        self.feature_weight = feature_weight
        self.feature_loss = _feature_loss(feature_loss, feature_weight)
        self.logit_loss = _logit_loss(logit_loss, temperature)
        features_weigh = feature_weight > 0
        if features_weigh and isinstance(self.feature_loss, FeatureLosses):
            features_weigh = any(self.feature_loss.weights.values())
        if not (ce_weight or kd_weight or features_weigh):
            raise ValueError(f"{OWNER}: ce_weight, kd_weight or feature_weight must be > 0, got 0")
        self._feature_takes_target = terms.takes_target(self.feature_loss)
        self._feature_takes_indices = terms.takes_indices(self.feature_loss)
        self._logit_takes_target = logit_loss is not None and terms.takes_target(logit_loss)
        self._logit_takes_labels = terms.takes_labels(logit_loss, ignore_index)
        self.parts: dict[str, Tensor] = {}

    def forward(
        self,
        student_logits: Tensor | None,
        teacher_logits: Tensor | None,
        target: Tensor | None,
        student_features: Any = None,
        teacher_features: Any = None,
        *,
        indices: Tensor | None = None,
    ) -> Tensor:
        found = [
            *self._logit_terms(student_logits, teacher_logits, target),
            *self._feature_terms(student_features, teacher_features, target, indices),
        ]
        if not found:
            raise ValueError(f"{OWNER}: a weight must be > 0, got 0 for all of them")
        # Eq. 8
        weighted = [weight * value for _, weight, value in found]
        total = sum(weighted[1:], start=weighted[0])
        # A new dictionary each time: replicas would share one that is written into, and a caller
        # who kept it would see it change.
        values = {name: value.detach() for name, _, value in found}
        losses = self.feature_loss
        features = list(losses.weights) if isinstance(losses, FeatureLosses) else ["feature"]
        self.parts = {
            name: values[name] if name in values else torch.zeros_like(total)
            for name in ["ce", "kd", *features]
        }
        return total

    def _logit_terms(
        self, student_logits: Any, teacher_logits: Any, target: Any
    ) -> list[tuple[str, float, Tensor]]:
        found: list[tuple[str, float, Tensor]] = []
        if self.ce_weight == 0 and self.kd_weight == 0:
            return found
        needed_by = "ce_weight" if self.ce_weight > 0 else "kd_weight"
        z_s = terms.logits("student_logits", student_logits, needed_by)
        if self.ignore_index is not None:
            target = terms.labels(terms.given("target", target, needed_by), self.ignore_index)
        if self.kd_weight > 0:
            z_t = terms.logits("teacher_logits", teacher_logits, "kd_weight")
        if self.ce_weight > 0:
            seen = terms.widened(z_s)
            normalize = getattr(self.logit_loss, "normalize", None)
            if self.kd_weight > 0 and callable(normalize):
                seen = terms.widened(normalize(seen, terms.widened(z_t)))
            found.append(
                ("ce", self.ce_weight, terms.cross_entropy(seen, target, self.ignore_index))
            )
        if self.kd_weight > 0:
            found.append(("kd", self.kd_weight, self._logit_term(z_s, z_t, target)))
        return found

    def _logit_term(self, z_s: Tensor, z_t: Tensor, target: Any) -> Tensor:
        if self.logit_loss is None:
            terms.same_classes(z_s, z_t)
            if self.ignore_index is None:
                return kd_loss(z_s, z_t, self.temperature)
            labels = {"target": target, "ignore_index": self.ignore_index}
            return kd_loss(z_s, z_t, self.temperature, **labels)
        inputs = [terms.widened(z_s), terms.widened(z_t)]
        if self._logit_takes_target:
            inputs.append(terms.given("target", target, "kd_weight"))
        named = {"target": target} if self._logit_takes_labels else {}
        return terms.scalar("logit_loss", self.logit_loss(*inputs, **named))

    def _feature_terms(
        self, student: Any, teacher: Any, target: Any, indices: Any
    ) -> list[tuple[str, float, Tensor]]:
        if self.feature_weight == 0:
            return []
        terms.given("student_features", student, "feature_weight")
        terms.given("teacher_features", teacher, "feature_weight")
        if isinstance(self.feature_loss, FeatureLosses):
            return list(self.feature_loss.terms(student, teacher, target, indices))
        inputs = [student, teacher]
        if self._feature_takes_target:
            inputs.append(terms.given("target", target, "feature_weight"))
        named = terms.of_samples(indices, target) if self._feature_takes_indices else {}
        value = terms.scalar("feature_loss", self.feature_loss(*inputs, **named))
        return [("feature", self.feature_weight, value)]

    def extra_repr(self) -> str:
        names = ["ce_weight", "kd_weight"]
        if self.logit_loss is None:
            names.append("temperature")
        if self.ignore_index is not None:
            names.append("ignore_index")
        if self.feature_weight == 0 or not isinstance(self.feature_loss, FeatureLosses):
            names.append("feature_weight")
        for name in ("feature_loss", "logit_loss"):
            loss = getattr(self, name)
            if loss is not None and not isinstance(loss, nn.Module):
                names.append(name)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "parts": {}}


def _feature_loss(feature_loss: Any, feature_weight: float) -> Loss:
    if feature_loss is None:
        return AMDLoss()
    if not isinstance(feature_loss, (Mapping, list, tuple)):
        terms.check_loss("feature_loss", feature_loss, "student_features, teacher_features")
        return feature_loss
    if feature_weight not in (0, _FEATURE_WEIGHT):
        raise ValueError(
            f"{OWNER}: feature_weight must be left out, or 0, where feature_loss holds several "
            f"losses with weights of their own, got {feature_weight}"
        )
    return FeatureLosses(terms.several(feature_loss))


def _logit_loss(logit_loss: Any, temperature: float) -> Loss | None:
    if logit_loss is None:
        return None
    terms.check_loss("logit_loss", logit_loss, "student_logits, teacher_logits")
    if temperature != _TEMPERATURE:
        raise ValueError(
            f"{OWNER}: temperature must be left out where logit_loss is given, which has its own, "
            f"got {temperature}"
        )
    return logit_loss
