"""The trainer from Python: `amd_fused.distill.train`."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from amd_fused.distill import recipe_files
from amd_fused.distill.config import Settings, setting_types, setting_value
from amd_fused.distill.data_sets import ImageData
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import Method
from amd_fused.distill.run_dir import RunDir

if TYPE_CHECKING:
    from amd_fused.distill.engine import TeacherSource

# These are arguments of their own.
_ARGUMENTS = ("teacher", "student", "data")
_Teacher = nn.Module | str | Path


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`train` returns.

    Args:
        path: the run's folder.
        metrics: of the student on the test images: "top1", "top5" and "ece" in percent, "nll".
        student: with its last weights, in evaluation mode; the module that was given, if one was.
        record: result.json, with the best epoch, the time, `amd_distance` to the teacher.
    """

    path: Path
    metrics: dict[str, float]
    student: nn.Module
    record: dict[str, Any]


def train(
    student: nn.Module | str,
    *,
    output_dir: str | Path,
    teacher: _Teacher | None = None,
    teacher_weights: str | Path | None = None,
    data: str | ImageData = "digits",
    recipe: str | None = None,
    resume: bool = False,
    show_progress: bool = False,
    **settings: Any,
) -> TrainingResult:
    """Trains a student, under a teacher or from the labels, as `amd-fused distill` does.

    As::

        teacher = train(big, output_dir="runs/teacher", data=images, epochs=100).student
        result = train(
            small, teacher=teacher, output_dir="runs/student", data=images, epochs=100,
            method="amd-gl+sp", gamma=3000.0,
            teacher_layers=("layer2", "layer3"), student_layers=("stage2", "stage3"),
        )
        result.metrics["top1"], result.student

    Args:
        student: a network's name, as `--student` takes it, or a module that gives logits `[B, K]`
            for images `[B, C, H, W]`: it is trained in place, from the weights that it has.
        output_dir: the run's folder: settings, log, checkpoints, weights with a model card.
        teacher: a module, likewise; the folder of a run; with `teacher_weights`, a network's name.
            None: the labels alone. A module is only looked at: its modes and `requires_grad` are as
            before afterwards. It stays on the device of the training.
        teacher_weights: a safetensors or torch file.
        data: a data set's name, as `--data` takes it, or an :class:`ImageData`, whose images are
            the same in every epoch, or changed by `augment="crop-flip"`.
        recipe: the name of one, or a file, from which the settings start.
        resume: go on where a run in `output_dir` was stopped, with the same arguments; a module is
            given as it was at the beginning, or anyhow, for its weights are replaced. One that is
            finished is loaded. Where there is no run, it begins.
        show_progress: on stderr.
        **settings: the options of `amd-fused distill` by their names with underscores, lists as
            tuples. Default: the recipe's, else the options' own; `method` is "scratch" without a
            teacher. Of modules that are no ResNets, `teacher_layers` and `student_layers` must name
            the layers whose maps the method compares, and `teacher_embedding` and
            `student_embedding` the layer before the classifier, where it takes that.

    Raises:
        UsageError: it cannot be done as asked; the message names options as the command does.
        TrainingError: a loss became NaN or infinite.
        KeyboardInterrupt: a signal came; what is done is saved for `resume`.

    Several processes, started by `accelerate launch` or `torchrun`, each call it with the same
    arguments; results are the same in all.
    """
    from amd_fused.distill import engine

    path = Path(output_dir)
    chosen, source = _teacher(teacher, teacher_weights)
    for name, value in (("student", student), ("data", data)):
        if isinstance(value, str):
            chosen[name] = value
        elif not isinstance(value, nn.Module if name == "student" else ImageData):
            kinds = "a module" if name == "student" else "an ImageData"
            raise UsageError(f"train: {name} must be a name or {kinds}, got {type(value).__name__}")
    own = engine.Own(
        student if isinstance(student, nn.Module) else None,
        data if isinstance(data, ImageData) else None,
    )
    made = _settings(recipe, source is not None, settings, chosen)
    with contextlib.ExitStack() as stack:
        if isinstance(teacher, nn.Module):
            if teacher is student:
                raise UsageError("train: student must not be the teacher itself")
            stack.enter_context(_left_as_it_was(teacher))
        record = engine.distill(
            made, path, source, own=own, resume=resume, show_progress=show_progress
        )
    trained = engine.load_trained(RunDir(path), own.network)
    return TrainingResult(path, record["test"], trained, record)


def _teacher(
    teacher: _Teacher | None, weights: str | Path | None
) -> tuple[dict[str, Any], TeacherSource | None]:
    """The settings that it stands for, and where it comes from."""
    from amd_fused.distill import engine

    if weights is not None:
        if not isinstance(teacher, str):
            raise UsageError(
                "train: teacher must be a network's name with teacher_weights, got "
                f"{type(teacher).__name__}"
            )
        return {"teacher": teacher}, engine.TeacherWeights(Path(weights), teacher)
    if teacher is None:
        return {}, None
    if isinstance(teacher, nn.Module):
        return {}, engine.TeacherModule(teacher)
    if not isinstance(teacher, str | Path) or not Path(teacher).is_dir():
        raise UsageError(
            "train: teacher must be a module, the folder of a run, or with teacher_weights a "
            f"network's name, got {teacher!r}"
        )
    return {}, engine.TeacherChoice(Path(teacher))


def _settings(
    recipe: str | None, taught: bool, given: dict[str, Any], chosen: dict[str, Any]
) -> Settings:
    types = setting_types()
    for name in given:
        if name not in types or name in (*_ARGUMENTS, "recipe"):
            near = difflib.get_close_matches(name, types, n=3, cutoff=0.6)
            hint = f"; near matches: {', '.join(near)}" if near else ""
            raise UsageError(f"train: there is no setting {name!r}{hint}")
    values: dict[str, Any] = {} if taught else {"method": "scratch"}
    named: dict[str, Any] = {"recipe": "none"}
    if recipe is not None:
        found = recipe_files.find(recipe)
        values = {**found.settings, **values}
        method = _plain("method", given.get("method", values.get("method", Settings().method)))
        values |= found.method_settings.get(method.key, {})
        named = {"recipe": found.name}
    values = {**values, **given, **chosen}
    return Settings(**{name: _plain(name, value) for name, value in values.items()}, **named)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Method):
        return value
    try:
        return setting_value(name, list(value) if isinstance(value, tuple) else value)
    except TypeError as error:
        raise UsageError(f"train: {name} must be {error}, got {value!r}") from None


@contextlib.contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Its modules' modes and its parameters' `requires_grad`, which a frozen teacher loses."""
    modes = [(module, module.training) for module in network.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
