"""A run from its settings to its result: teachers, students, and tests of kept weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from amd_fused.distill import data, models, plugins
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import launch, records
from amd_fused.distill.engine.assembly import (
    TeacherNetwork,
    TrainedNetwork,
    build,
    check_pair,
    load_data,
    make_objective,
    move_to_device,
    read_data,
)
from amd_fused.distill.engine.batches import eval_batches
from amd_fused.distill.engine.export import write_model
from amd_fused.distill.engine.interrupts import Interrupts
from amd_fused.distill.engine.logs import Display, announce, announce_teacher
from amd_fused.distill.engine.loop import Loop
from amd_fused.distill.engine.metrics import measure
from amd_fused.distill.engine.networks import load_saved_network
from amd_fused.distill.engine.objective import FeatureExtractor, amd_distance
from amd_fused.distill.engine.own import Own
from amd_fused.distill.engine.resume import RunState, load_run_state
from amd_fused.distill.engine.teachers import TeacherSource
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import SCRATCH
from amd_fused.distill.run_dir import STUDENT, TEACHER, RunDir, write_json


def train_teacher(
    settings: Settings,
    output_dir: Path,
    *,
    resume: bool = False,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Trains `settings.teacher` from the labels alone; returns the content of result.json.

    Args:
        resume: go on where a run in `output_dir` was stopped; begin, where there is none.

    Raises:
        UsageError: it cannot be done as asked, as when the folder holds a run and not `resume`.
        TrainingError: a loss became NaN or infinite.
        KeyboardInterrupt, Terminated: a signal came; what is done is saved for `resume`.
    """
    # Methods and Mixup are the students'.
    settings = settings.changed(method=SCRATCH, mixup=0.0)
    return _run(TEACHER, settings, output_dir, None, resume, show_progress, Own())


def distill(
    settings: Settings,
    output_dir: Path,
    teacher: TeacherSource | None,
    *,
    own: Own | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Trains `settings.student` by `settings.method`; returns the content of result.json.

    Args:
        teacher: what it learns from. From scratch, a teacher is only what the student's distance
            is measured to, and may be None. The settings' teacher becomes this run's network.
        own: what stands in the place of the settings' student and data set.
        resume: as in :func:`train_teacher`, as what is raised.
    """
    own = own or Own()
    if own.network is not None:
        settings = settings.changed(student=models.name_of(own.network))
    if own.data is not None:
        settings = settings.changed(data="given")
    if teacher is not None:
        network = teacher.network_name
        if models.canonical(settings.teacher) != network:
            settings = settings.changed(teacher=network)
    return _run(STUDENT, settings, output_dir, teacher, resume, show_progress, own)


def evaluate(run: Path, *, epoch: int | None = None, data_dir: str | None = None) -> dict[str, Any]:
    """Tests weights that a run kept.

    Args:
        epoch: of the kept ones; None: the last.
        data_dir: where the data lie now; None: where the run found them.

    Returns:
        "network", "epoch", "top1", "top5", "nll", "ece" and "reliability", as in result.json.

    Raises:
        UsageError: there is no such run, epoch or data set, or they do not fit.
    """
    settings = RunDir(run).settings()
    if data_dir is not None:
        settings = settings.changed(data_dir=data_dir)
    accelerator = launch.start(settings)
    dataset = read_data(settings, accelerator)
    saved = load_saved_network(RunDir(run), dataset, epoch)
    batches = eval_batches(dataset.test, settings, accelerator)
    move_to_device(saved.network, settings, accelerator)
    measures = measure(saved.network, batches, dataset.num_classes, accelerator)
    tested = {"network": saved.name, "epoch": saved.epoch, **measures.test}
    return {**tested, "reliability": measures.reliability}


def _run(
    role: str,
    settings: Settings,
    output_dir: Path,
    source: TeacherSource | None,
    resume: bool,
    show_progress: bool,
    own: Own,
) -> dict[str, Any]:
    run = RunDir(output_dir)
    accelerator = launch.start(settings, run)
    with Interrupts(announce) as interrupts:
        state = launch.on_main_process(
            accelerator, lambda: load_run_state(run, role, settings, source, resume)
        )
        result = state.result
        if result is None:
            result = _train(
                role, settings, run, source, own, state, accelerator, interrupts, show_progress
            )
            launch.on_main_process(accelerator, lambda: write_json(run.result_file, result))
    return result


def _train(
    role: str,
    settings: Settings,
    run: RunDir,
    source: TeacherSource | None,
    own: Own,
    state: RunState,
    accelerator: Accelerator,
    interrupts: Interrupts,
    show_progress: bool,
) -> dict[str, Any]:
    dataset = load_data(settings, accelerator, own)
    trained, teacher = build(role, settings, source, own, dataset, accelerator)
    identity = (
        None if teacher is None else _identity(teacher, settings, dataset, state, accelerator)
    )
    resumed = state.checkpoint is not None
    objective, frozen, teacher_cache = make_objective(
        settings, trained, teacher, dataset, accelerator, resumed=resumed
    )
    config = state.config or records.describe(
        role,
        settings,
        trained.name,
        trained.parameters,
        identity,
        accelerator.device,
        accelerator.num_processes,
    )
    # A run may find its data, its teacher's outputs and plugins elsewhere when it goes on.
    config |= {"settings": settings.to_json(), "teacher_cache": teacher_cache}
    config |= {"plugins": plugins.recorded()}
    launch.on_main_process(accelerator, lambda: write_json(run.config_file, config))
    loop = Loop(
        run,
        settings,
        dataset,
        objective,
        frozen,
        accelerator,
        network=trained.name,
        # Of students alone: a teacher's settings have none.
        mixup=settings.mixup,
    )
    if state.checkpoint is not None:
        loop.restore(*state.checkpoint)
    name = trained.name if role == TEACHER else f"{trained.name} {settings.method}"
    show = show_progress and accelerator.is_main_process
    with Display(name, settings.epochs, loop.steps, loop.done, show) as display:
        loop.train(interrupts, display)
    objective.remove_hooks()
    if frozen is not None:
        frozen.close()
    distance = _distance(trained, teacher, settings, dataset, accelerator)
    if accelerator.device.type == "cuda":
        # A sweep's next run needs the memory that torch would hold back for this one.
        accelerator.free_memory()
    result = _result(loop, settings, trained, distance)
    launch.on_main_process(
        accelerator,
        lambda: write_model(run, trained.network, trained.code, config, dataset, result["test"]),
    )
    return result


def _identity(
    teacher: TeacherNetwork,
    settings: Settings,
    dataset: data.DataSet,
    state: RunState,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """What config.json says of a teacher; where nobody tested it on these images, it is tested.

    What it reaches is said, because images that are not normalised as those it was trained on leave
    no other trace.
    """
    if state.config is not None:
        return dict(state.config["teacher"])
    identity = teacher.saved.identity()
    if identity["top1"] is None:
        batches = eval_batches(dataset.test, settings, accelerator)
        measures = measure(teacher.saved.network, batches, dataset.num_classes, accelerator)
        top1 = measures.test["top1"]
        identity["top1"] = top1
        if accelerator.is_main_process:
            announce_teacher(teacher.saved.name, top1, dataset)
    return identity


def _distance(
    trained: TrainedNetwork,
    teacher: TeacherNetwork | None,
    settings: Settings,
    dataset: data.DataSet,
    accelerator: Accelerator,
) -> float | None:
    """None without a teacher, and where its maps and the student's are no pairs."""
    if teacher is None or not (trained.layers.maps and teacher.layers.maps):
        return None
    try:
        check_pair(trained, teacher, dataset)
    except UsageError:
        return None
    student = FeatureExtractor(trained.network.eval(), trained.layers, maps=trained.layers.maps)
    against = FeatureExtractor(
        teacher.saved.network.eval(), teacher.layers, maps=teacher.layers.maps
    )
    # One that the training did not try may not run here, and this comes at its end.
    tried = "amd" in settings.method.losses
    try:
        return amd_distance(
            student,
            against,
            eval_batches(dataset.test, settings, accelerator),
            settings,
            accelerator,
            backend=settings.backend if tried else "auto",
        )
    finally:
        student.remove()
        against.remove()


def _result(
    loop: Loop, settings: Settings, trained: TrainedNetwork, distance: float | None
) -> dict[str, Any]:
    """The content of result.json."""
    progress = loop.progress
    images = loop.done * settings.batch_size
    return {
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(images / progress.training_seconds, 1),
        "test": progress.lines[-1]["test"],
        "best": {"epoch": progress.best_epoch, "top1": progress.best_top1},
        "reliability": progress.reliability,
        "amd_distance": distance,
        "parameters": trained.parameters,
    }
