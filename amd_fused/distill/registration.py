"""Methods and data sets of the user's, by the mechanism of the built-in ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import make_dataclass
from typing import Any

from torch import nn

from amd_fused.distill.config import Settings, all_settings
from amd_fused.distill.data_sets import DATA_SETS, ImageData
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import TERMS, Shapes, register
from amd_fused.distill.methods.inputs import Inputs
from amd_fused.distill.methods.term import Term
from amd_fused.distill.setting import NOT_NEGATIVE, Rule, flag, setting

_LOGITS = "logits"
_COMPARES = {"maps": Inputs.MAPS, "last-map": Inputs.LAST_MAP, "embedding": Inputs.EMBEDDING}
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_OPTION = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_KINDS = (bool, int, float, str)
# Of the objective's parts and the command line, what no method stands for.
_TAKEN = ("ce", "kd", "feature", "teacher", "output")

_Make = Callable[[Settings, Shapes], nn.Module]
_Load = Callable[[Settings], ImageData]


def option(
    default: bool | int | float | str,
    help: str,
    rule: Rule | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """An option of a method of the user's: its default, which says its type too, one line of help,
    and what its values must be, such as POSITIVE, or which there are."""
    return setting("objective", default, help, rule, tuple(choices))


def register_method(
    name: str,
    *,
    compares: str,
    weight: float | None = None,
    options: Mapping[str, Any] | None = None,
    label: str = "",
    help: str = "",
    paired: bool = False,
    one_class: bool = False,
) -> Callable[[_Make], _Make]:
    """Makes a loss a method of the trainer, by the mechanism of the built-in ones.

    `--method` takes its name, alone and in sums; the labels and KD are in every one. Its weight is
    the setting `<name>_weight` (`--<name>-weight`), its options are `<name>_<option>`, with
    underscores for the name's dashes: on the command line, in recipes and in config.json.

    Args:
        name: lower-case letters and digits, words joined by dashes.
        compares: what the loss is called with, of the student and of the teacher: "maps" (a list of
            feature maps `[B, C, H, W]`), "last-map" (the last of them), "embedding" (`[B, D]`), or
            "logits" (`[B, K]`), and then it stands in the place of KD, with KD's weight. A loss
            whose third parameter has no default is given the labels `[B]` too, one with a parameter
            `indices` each image's index `[B]` in the training images.
        weight: default of its weight, 1 where it is left out; with "logits" there is none.
        options: by their names; `option` makes each.
        label: as tables show it; default: the name.
        help: a line on what it is.
        paired: whether it needs maps of equal sizes, pair by pair, which is then checked first.
        one_class: whether each image must have one class, which Mixup's have not.

    The function decorated makes the loss, a module that returns a 0-d tensor: it is called with the
    run's settings and the shapes of what is compared (`student_channels`, `teacher_channels`,
    `student_maps`, `teacher_maps`, `student_width`, `teacher_width`, `labels`; empty for "logits").
    The module's parameters are trained with the student's, and drawn from the seed alone.

    Raises:
        UsageError: a name is taken or no name, or an argument breaks its rule.
    """
    own = f"register_method {name!r}"
    _check_name("register_method", name, [term.key for term in TERMS])
    if name in {*_TAKEN, *(term.part for term in TERMS)} or hasattr(nn.ModuleDict, name):
        raise UsageError(f"register_method: name must not mean something else, got {name!r}")
    if compares not in (*_COMPARES, _LOGITS):
        known = ", ".join([*_COMPARES, _LOGITS])
        raise UsageError(f"{own}: compares must be one of {known}, got {compares!r}")
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"{own}: options must be a dict of options, got {options!r}")
    in_place_of_kd = compares == _LOGITS
    if in_place_of_kd and weight is not None:
        raise UsageError(f"{own}: weight must be left out with logits, got {weight!r}")
    given = dict(options or {})
    if not in_place_of_kd:
        if "weight" in given:
            raise UsageError(f"{own}: options must not have a weight, which the method has anyway")
        of_loss = option(_weight(own, weight), f"weight of {label or name}", NOT_NEGATIVE)
        given = {"weight": of_loss, **given}
    stem = name.replace("-", "_")
    fields = _fields(own, stem, given)

    def add(make: _Make) -> _Make:
        def checked(settings: Settings, shapes: Shapes) -> nn.Module:
            loss = make(settings, shapes)
            if not isinstance(loss, nn.Module):
                raise UsageError(
                    f"--method {name}: what register_method decorates must return a "
                    f"torch.nn.Module, got {type(loss).__name__}"
                )
            return loss

        def of_logits(settings: Settings) -> nn.Module:
            return checked(settings, Shapes())

        register(
            Term(
                key=name,
                label=label or name,
                help=help or f"a method of the user's, {name}",
                look=None,
                part="kd" if in_place_of_kd else name,
                rank=0 if in_place_of_kd else 2,
                logit_loss=of_logits if in_place_of_kd else None,
                layered_loss=None if in_place_of_kd else checked,
                inputs=_COMPARES.get(compares, Inputs.NONE),
                paired=paired,
                one_class=one_class,
                weight="" if in_place_of_kd else f"{stem}_weight",
                settings=tuple(f"{stem}_{key}" for key in options or {}),
            ),
            make_dataclass("Options", fields, frozen=True),
        )
        return make

    return add


def register_dataset(name: str) -> Callable[[_Load], _Load]:
    """Makes what a function returns a data set of the trainer: `--data` takes its name.

    The function decorated is called with the run's settings, of which `data_dir` says where files
    lie, and returns an :class:`ImageData`.

    Args:
        name: lower-case letters and digits, words joined by dashes.

    Raises:
        UsageError: the name is taken or no name.
    """
    _check_name("register_dataset", name, DATA_SETS)

    def add(load: _Load) -> _Load:
        def read(settings: Settings) -> Any:
            from amd_fused.distill.data.own import as_data_set

            return as_data_set(name, load(settings), settings)

        DATA_SETS[name] = read
        return load

    return add


def _check_name(owner: str, name: Any, taken: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{owner}: name must be lower-case words and digits joined by dashes, got {name!r}"
        )
    if name in taken:
        raise UsageError(f"{owner}: name must be none that there is already, got {name!r}")


def _weight(owner: str, weight: Any) -> float:
    if weight is None:
        return 1.0
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not (number and math.isfinite(weight) and weight >= 0):
        raise UsageError(f"{owner}: weight must be finite and >= 0, got {weight!r}")
    return float(weight)


def _fields(owner: str, stem: str, options: Mapping[Any, Any]) -> list[tuple[str, type, Any]]:
    """Of a dataclass: the options by their full names, with their types."""
    taken = {one.name for one in all_settings()}
    made = []
    for key, one in options.items():
        if not isinstance(key, str) or not _OPTION.fullmatch(key):
            raise UsageError(f"{owner}: an option must be a name in lower case, got {key!r}")
        name = f"{stem}_{key}"
        if name in taken:
            raise UsageError(f"{owner}: an option must not be one already, got {flag(name)}")
        kind = type(getattr(one, "default", None))
        if not hasattr(one, "metadata") or kind not in _KINDS:
            raise UsageError(
                f"{owner}: options, {key} must be what option() makes of a bool, int, float or "
                f"str, got {one!r}"
            )
        made.append((name, kind, one))
    return made
