"""Our losses in torchdistill's configuration files: importing this module registers them.

In a YAML file of torchdistill::

    dependencies:
      - name: 'amd_fused.integrations.torchdistill'

    train:
      criterion:
        key: 'WeightedSumLoss'
        kwargs:
          sub_terms:
            amd:
              criterion: {key: 'amd_fused.AMDLoss', kwargs: {student: [layer1, layer2, layer3]}}
              weight: 5000.0

Each loss is registered under its name with ``amd_fused.`` before it, since torchdistill has a
KDLoss, an ATLoss and an RKDLoss of its own. As a mid-level loss it is called with
``(student_io_dict, teacher_io_dict, targets)``. Losses with layers that are trained (AFD, AFDS, CC,
CRD, VID) are not: torchdistill's optimizer takes the parameters of the models alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchdistill.losses.registry import register_mid_level_loss

import amd_fused

Location = str | Mapping[str, str]


class MidLevelLoss(nn.Module):
    """One of our losses on what torchdistill's forward hooks collected.

    Args:
        student: the module path whose output the loss takes, or a list of them, one a layer pair;
            ``{"path": ..., "io": "input"}`` takes a module's input. Each must be in the student's
            ``forward_hook``, apart from ".", the model itself.
        teacher: the same of the teacher; default: as ``student``.
        options: those of the loss, as :class:`amd_fused.AMDLoss` and the others take them.

    Raises:
        TypeError, ValueError: an option breaks its rule or makes a layer that would have to be
            trained (at construction); a path was not collected, or the features break a rule (when
            called).
    """

    loss_class: ClassVar[type[nn.Module]]
    takes_target: ClassVar[bool] = False

    def __init__(
        self,
        student: Location | Sequence[Location],
        teacher: Location | Sequence[Location] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.student = _locations("student", student)
        self.teacher = self.student if teacher is None else _locations("teacher", teacher)
        self.loss = self.loss_class(**options)
        trained = [name for name, _ in self.loss.named_parameters()]
        if trained:
            raise ValueError(
                f"amd_fused.{type(self).__name__}: it must have no layers that are trained, which "
                f"torchdistill's optimizer would leave out, got {', '.join(trained)}"
            )

    def forward(
        self,
        student_io_dict: Mapping[str, Any],
        teacher_io_dict: Mapping[str, Any],
        targets: Any = None,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        student = _collected("student", student_io_dict, self.student)
        teacher = _collected("teacher", teacher_io_dict, self.teacher)
        inputs = [student, teacher, targets] if self.takes_target else [student, teacher]
        value: Tensor = self.loss(*inputs)
        return value


class AMDLoss(MidLevelLoss):
    """:class:`amd_fused.AMDLoss` on lists of maps."""

    loss_class = amd_fused.AMDLoss


class ATLoss(MidLevelLoss):
    """:class:`amd_fused.ATLoss` on lists of maps."""

    loss_class = amd_fused.ATLoss


class SPLoss(MidLevelLoss):
    """:class:`amd_fused.SPLoss` on lists of maps."""

    loss_class = amd_fused.SPLoss


class RKDLoss(MidLevelLoss):
    """:class:`amd_fused.RKDLoss` on embeddings."""

    loss_class = amd_fused.RKDLoss


class LogitLoss(MidLevelLoss):
    """A loss on logits: the models' outputs, unless paths are given."""

    def __init__(self, student: Location = ".", teacher: Location | None = None, **options: Any):
        super().__init__(student, teacher, **options)


class KDLoss(LogitLoss):
    """:class:`amd_fused.KDLoss`."""

    loss_class = amd_fused.KDLoss


class SphericalKDLoss(LogitLoss):
    """:class:`amd_fused.SphericalKDLoss`."""

    loss_class = amd_fused.SphericalKDLoss


class LSHLoss(MidLevelLoss):
    """:class:`amd_fused.LSHLoss` on embeddings of one width.

    Of ``bias`` "zero" is the one that a configuration file can have: the median of the teacher's
    embeddings takes a pass over them, ``criterion.loss.init_bias(embeddings)``.
    """

    loss_class = amd_fused.LSHLoss


class NDLoss(MidLevelLoss):
    """:class:`amd_fused.NDLoss` on embeddings; ``class_means`` is a tensor or its file's name."""

    loss_class = amd_fused.NDLoss
    takes_target = True

    def __init__(
        self,
        student: Location,
        teacher: Location | None = None,
        *,
        class_means: Tensor | str,
        **options: Any,
    ) -> None:
        if isinstance(class_means, str):
            class_means = torch.load(class_means, map_location="cpu", weights_only=True)
        super().__init__(student, teacher, class_means=class_means, **options)


LOSSES = (AMDLoss, ATLoss, SPLoss, RKDLoss, KDLoss, SphericalKDLoss, LSHLoss, NDLoss)
for _loss in LOSSES:
    register_mid_level_loss(key=f"amd_fused.{_loss.__name__}")(_loss)


def _locations(name: str, given: Any) -> tuple[str, str] | list[tuple[str, str]]:
    """(path, "input" or "output") of one module, or a list of them."""
    if isinstance(given, (list, tuple)):
        if not given:
            raise ValueError(f"amd_fused: {name} must name at least one module, got an empty list")
        return [_location(name, one) for one in given]
    return _location(name, given)


def _location(name: str, given: Any) -> tuple[str, str]:
    if isinstance(given, str):
        return given, "output"
    if not isinstance(given, Mapping) or not {"path"} <= set(given) <= {"path", "io"}:
        raise TypeError(
            f'amd_fused: {name} must be a module path or {{"path": ..., "io": ...}}, got {given!r}'
        )
    io = given.get("io", "output")
    if io not in ("input", "output"):
        raise ValueError(f"amd_fused: io of {name} must be 'input' or 'output', got {io!r}")
    return given["path"], io


def _collected(
    side: str, io_dict: Mapping[str, Any], where: tuple[str, str] | list[tuple[str, str]]
) -> Any:
    if isinstance(where, list):
        return [_collected(side, io_dict, one) for one in where]
    path, io = where
    if io not in io_dict.get(path, {}):
        known = ", ".join(f"{name} ({', '.join(kept)})" for name, kept in io_dict.items())
        raise ValueError(
            f"amd_fused: the {io} of {path!r} must be collected from the {side}, got "
            f"{known or 'nothing'}; name it in train: {side}: forward_hook: {io}"
        )
    return io_dict[path][io]
