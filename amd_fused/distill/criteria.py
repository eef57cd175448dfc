"""The objective of each method: Eq. 8 with its losses and the settings' weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from amd_fused import (
    AMDLoss,
    ATLoss,
    DistillationLoss,
    KDLoss,
    LSHLoss,
    NDLoss,
    RKDLoss,
    SphericalKDLoss,
    SPLoss,
)
from amd_fused.distill.config import Settings
from amd_fused.distill.methods import EMBEDDINGS, Method, check, loss_of, weight_of
from amd_fused.distill.models import seeded
from amd_fused.modules.following import follow

# Adapters and hyperplanes are drawn from another stream than the networks' weights.
_STREAM = 1 << 40


@dataclass(frozen=True)
class Features:
    """What the losses compare of one network in one step.

    Args:
        maps: feature maps `[B, C, H, W]`, from the first layer to the last.
        embedding: `[B, D]` or `[B, D, 1, 1]`; None where no loss takes it.
    """

    maps: list[Tensor]
    embedding: Tensor | None


def criterion(
    method: Method,
    settings: Settings,
    *,
    student_width: int | None = None,
    teacher_width: int | None = None,
    class_means: Tensor | None = None,
) -> DistillationLoss:
    """The objective of a method: Eq. 8 with the settings' weights.

    As, for `amd-gl+sp`::

        ce_weight * CE + kd_weight * KD + gamma * AMD + sp_weight * SP

    `scratch` is the cross-entropy alone, with weight 1; `skd` puts spherical KD in KD's place; all
    others keep KD, as the paper runs its baselines (5.1.2).

    Args:
        student_width, teacher_width: widths of the embeddings. nd and lsh need them, and where they
            differ the loss has a linear adapter from the student's to the teacher's.
        class_means: the teacher's mean embedding of each class `[K, teacher_width]`, for nd and
            lsh. It makes lsh's hyperplanes pass through the mean of all embeddings, which is that
            of the class means where classes are equally large.

    The result has state to be saved with the student's, and parameters to be trained with it
    (`criterion.parameters()`, none for most methods). Both are drawn from the seed alone.

    Its `backend` is the settings', but "auto" for the losses without a CUDA C++ kernel (kd, skd,
    nd, lsh) where the settings say "cuda"; sp and rkd are plain PyTorch.

    Raises:
        UsageError: as :func:`methods.check`.
        ValueError: a width or the class means are missing, or do not fit together.
    """
    if not method.distilled:
        return DistillationLoss(ce_weight=1.0, kd_weight=0.0, feature_weight=0.0)
    check(method, settings)
    parts = method.key.split("+")
    if method.class_means:
        _check_needs(method, student_width, teacher_width, class_means)
    losses: dict[str, tuple[float, nn.Module]] = {}
    with seeded(settings.seed + _STREAM):
        for part in parts:
            name = loss_of(part)
            if name == "amd":
                losses[name] = weight_of(name, settings), _amd(part, settings)
            elif part in _MAKE:
                loss = _MAKE[part](settings, student_width, teacher_width, class_means)
                losses[name] = weight_of(name, settings), loss
    logits = SphericalKDLoss if "skd" in parts else KDLoss
    logit_loss = logits(settings.temperature, backend=_fused(settings))
    if not losses:
        return DistillationLoss(
            settings.ce_weight, settings.kd_weight, feature_weight=0.0, logit_loss=logit_loss
        )
    return DistillationLoss(
        settings.ce_weight, settings.kd_weight, feature_loss=losses, logit_loss=logit_loss
    )


def feature_inputs(
    method: Method, student: Features, teacher: Features
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each feature loss of a method compares, by its name, of the student and the teacher.

    All maps for amd and at, the last one for sp (as in RepDistiller), the embeddings `[B, D]` for
    nd, lsh and rkd.

    Raises:
        ValueError: there are no maps or no embedding, but a loss takes them.
    """
    return _inputs(method, "student", student), _inputs(method, "teacher", teacher)


def _inputs(method: Method, side: str, features: Features) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name in method.losses:
        if name in EMBEDDINGS:
            if features.embedding is None:
                raise ValueError(f"feature_inputs: {side}.embedding must be given for {name}")
            inputs[name] = features.embedding.flatten(1)
        elif not features.maps:
            raise ValueError(f"feature_inputs: {side}.maps must be given for {name}")
        else:
            inputs[name] = features.maps[-1] if name == "sp" else features.maps
    return inputs


class _NDLoss(NDLoss):
    """NDLoss for students of another width too, which a linear map brings to the teacher's."""

    def __init__(self, class_means: Tensor, student_width: int, *, backend: str) -> None:
        super().__init__(class_means, backend=backend)
        self.adapter: nn.Linear | None = None
        if student_width != class_means.shape[1]:
            self.adapter = nn.Linear(student_width, class_means.shape[1])

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        if self.adapter is not None:
            follow(self, student)
            student = self.adapter(student.to(self.adapter.weight.dtype))
        return super().forward(student, teacher, target)


def _amd(part: str, settings: Settings) -> AMDLoss:
    return AMDLoss(
        margin=settings.margin,
        scale=settings.scale,
        local_weight=settings.local_weight if part.endswith("gl") else 0.0,
        mask_threshold=settings.mask_threshold if "masked" in part else None,
        backend=settings.backend,
    )


def _nd(settings: Settings, student: int, teacher: int, means: Tensor) -> nn.Module:
    return _NDLoss(means, student, backend=_fused(settings))


def _lsh(settings: Settings, student: int, teacher: int, means: Tensor) -> nn.Module:
    loss = LSHLoss(
        teacher,
        settings.lsh_hashes,
        bias="mean",
        student_features=student,
        backend=_fused(settings),
    )
    # derived: the hash is linear, so its mean over embeddings is the hash of their mean. Not
    # init_bias, which would take these means for one process's share of the data.
    bias = -loss.weight @ means.to(loss.weight).mean(0)
    loss.load_state_dict({**loss.state_dict(), "bias": bias})
    return loss


# Of the settings, both widths and the class means. AMD has several forms and is made by _amd.
_MAKE: dict[str, Callable[..., nn.Module]] = {
    "nd": _nd,
    "lsh": _lsh,
    "at": lambda settings, *_: ATLoss(backend=settings.backend),
    "sp": lambda *_: SPLoss(),
    "rkd": lambda *_: RKDLoss(),
}


def _fused(settings: Settings) -> str:
    return "auto" if settings.backend == "cuda" else settings.backend


def _check_needs(
    method: Method, student: int | None, teacher: int | None, class_means: Tensor | None
) -> None:
    needs = {"student_width": student, "teacher_width": teacher, "class_means": class_means}
    for name, value in needs.items():
        if value is None:
            raise ValueError(f"criterion: {name} must be given for {method.key}, got None")
    assert class_means is not None
    if class_means.ndim != 2 or class_means.shape[1] != teacher:
        raise ValueError(
            f"criterion: class_means must be [K, teacher_width = {teacher}], got shape "
            f"{tuple(class_means.shape)}"
        )
