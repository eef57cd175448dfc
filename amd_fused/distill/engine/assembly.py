"""The parts of a training put together: data, networks, what the student learns from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import amd_fused
from amd_fused.distill import data, models
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import launch
from amd_fused.distill.engine.batches import eval_batches, to_device
from amd_fused.distill.engine.batchnorm import share_statistics
from amd_fused.distill.engine.cached_teacher import attach
from amd_fused.distill.engine.objective import FrozenTeacher, Objective, Output
from amd_fused.distill.engine.own import Own
from amd_fused.distill.engine.teachers import Teacher, TeacherSource
from amd_fused.distill.errors import UsageError
from amd_fused.distill.methods import Embeddings, MapShape, Method, Shapes
from amd_fused.distill.run_dir import TEACHER

# Images that an objective is tried with before the training.
_TRIED = 4
_UNKNOWN = models.Layers((), "")


@dataclass(frozen=True)
class TrainedNetwork:
    """The network that a run trains. Layers are empty where they are not known nor needed."""

    name: str
    network: nn.Module
    layers: models.Layers
    parameters: int
    code: models.PlainCode


@dataclass(frozen=True)
class TeacherNetwork:
    """A run's teacher. A student from scratch may have one too, to measure its distance to."""

    saved: Teacher
    layers: models.Layers


def read_data(settings: Settings, accelerator: Accelerator, own: Own | None = None) -> data.DataSet:
    """The data set in every process; the main one comes first, for it may unpack an archive.

    Raises:
        UsageError: it is missing or broken.
    """
    given = None if own is None else own.data
    loaded: list[data.DataSet] = []
    launch.on_main_process(accelerator, lambda: loaded.append(data.load(settings, given)))
    return loaded[0] if loaded else data.load(settings, given)


def load_data(settings: Settings, accelerator: Accelerator, own: Own) -> data.DataSet:
    """What :func:`read_data` gives, once batches for a training can be made of it.

    Raises:
        UsageError: it is missing or broken, or has too few images for a batch.
    """
    dataset = read_data(settings, accelerator, own)
    # By the rules of every epoch, but before anything is written.
    data.train_batches(
        dataset.train,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epoch=0,
        processes=accelerator.num_processes,
    )
    return dataset


def build(
    role: str,
    settings: Settings,
    source: TeacherSource | None,
    own: Own,
    dataset: data.DataSet,
    accelerator: Accelerator,
) -> tuple[TrainedNetwork, TeacherNetwork | None]:
    """Both networks on their device, checked to go together.

    Raises:
        UsageError: they do not, or one is missing, unknown or broken.
    """
    method = settings.method
    if method.distilled and source is None:
        raise UsageError(
            f"--teacher-run or --teacher-weights must be given for --method {method}, got no "
            "teacher"
        )
    method.check(settings)
    side = "teacher" if role == TEACHER else "student"
    name = models.canonical(getattr(settings, side))
    sizes = {key: getattr(dataset, key) for key in ("num_classes", "channels", "image_size")}
    if own.network is None:
        network = models.build(name, **sizes, seed=settings.seed)
    else:
        network = own.network
        models.try_images(network, name, **sizes)
    paths = getattr(settings, f"{side}_layers"), getattr(settings, f"{side}_embedding")
    layers = _layers(
        method, any(paths), network, lambda: models.layers(name, network, *paths), dataset
    )
    code = models.plain_code(
        name, network, num_classes=dataset.num_classes, channels=dataset.channels
    )
    trained = TrainedNetwork(name, network, layers, models.count_parameters(network), code)
    teacher = None
    if source is not None:
        saved = source.load(dataset)
        theirs = settings.teacher_layers, settings.teacher_embedding
        layers = _layers(method, any(theirs), saved.network, lambda: saved.layers(*theirs), dataset)
        teacher = TeacherNetwork(saved, layers)
        if method.paired:
            check_pair(trained, teacher, dataset)
        move_to_device(saved.network.requires_grad_(False), settings, accelerator)
    if accelerator.is_main_process:
        _print_layouts(side, trained.layers)
        if teacher is not None:
            _print_layouts("teacher", teacher.layers)
    if accelerator.num_processes > 1 and settings.sync_batchnorm:
        share_statistics(network, accelerator.device)
    move_to_device(network, settings, accelerator)
    return trained, teacher


def move_to_device(network: nn.Module, settings: Settings, accelerator: Accelerator) -> None:
    """The network on the device and in the memory format of a run, in place."""
    network.to(accelerator.device)
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_pair(trained: TrainedNetwork, teacher: TeacherNetwork, dataset: data.DataSet) -> None:
    """A UsageError if the maps of student and teacher cannot be compared position by position."""
    models.check_pair(
        teacher.saved.network,
        teacher.layers,
        trained.network,
        trained.layers,
        dataset.channels,
        dataset.image_size,
    )


def make_objective(
    settings: Settings,
    trained: TrainedNetwork,
    teacher: TeacherNetwork | None,
    dataset: data.DataSet,
    accelerator: Accelerator,
    *,
    resumed: bool,
) -> tuple[Objective, FrozenTeacher | None, dict[str, Any] | None]:
    """What a step computes, the teacher that it learns from, and what config.json says of the
    teacher's cache; tried with a few images.

    Args:
        resumed: the class means come with the checkpoint and are not computed here.

    Raises:
        UsageError: it cannot be computed.
    """
    method = settings.method
    frozen, embeddings, shapes, record = None, None, None, None
    if teacher is not None and method.distilled:
        frozen = FrozenTeacher(teacher.saved.network, teacher.layers, method, settings.backend)
        if method.embedding:
            embeddings = _embeddings(
                trained, teacher, frozen, settings, dataset, accelerator, resumed
            )
        if method.layered:
            shapes = _shapes(trained, teacher, method, dataset)
    criterion = method.criterion(settings, embeddings, shapes)
    objective = Objective(trained.network, trained.layers, criterion, method)
    objective.to(accelerator.device)
    example = _dry_run(objective, frozen, settings, dataset, accelerator)
    if frozen is not None and example is not None:
        record = attach(frozen, example, settings, dataset, accelerator)
    return objective, frozen, record


def _layers(
    method: Method,
    given: bool,
    network: nn.Module,
    find: Callable[[], models.Layers],
    dataset: data.DataSet,
) -> models.Layers:
    """A network's layers, with the layouts of their maps.

    What the method does not need may be unknown, as the layers of most networks of a library are,
    unless it was `given` on the command line.
    """
    try:
        found = find()
    except UsageError:
        if method.maps or method.embedding or given:
            raise
        return _UNKNOWN
    try:
        return models.with_layouts(network, found, dataset.channels, dataset.image_size)
    except UsageError:
        if method.maps:
            raise
        return replace(found, maps=())


def _print_layouts(side: str, layers: models.Layers) -> None:
    if layers.channels_last:
        paths = ", ".join(path for path in layers.maps if path in layers.channels_last)
        print(
            f"the {side}'s maps [B, H, W, C] of {paths} are permuted to [B, C, H, W]",
            file=sys.stderr,
        )


def _embeddings(
    trained: TrainedNetwork,
    teacher: TeacherNetwork,
    frozen: FrozenTeacher,
    settings: Settings,
    dataset: data.DataSet,
    accelerator: Accelerator,
    resumed: bool,
) -> Embeddings | None:
    """None where no loss needs class means; the embeddings' layers are checked all the same."""
    of_images = dataset.channels, dataset.image_size
    width = models.embedding_width(trained.network, trained.layers, *of_images)
    teacher_width = models.embedding_width(teacher.saved.network, teacher.layers, *of_images)
    if not settings.method.class_means:
        return None
    if resumed:
        means = torch.zeros(dataset.num_classes, teacher_width)
    else:
        means = _class_means(frozen, dataset, settings, accelerator)
    return Embeddings(width, teacher_width, means)


def _shapes(
    trained: TrainedNetwork, teacher: TeacherNetwork, method: Method, dataset: data.DataSet
) -> Shapes:
    """For losses with layers of their own."""
    of_images = dataset.channels, dataset.image_size

    def of(network: nn.Module, layers: models.Layers) -> tuple[tuple[MapShape, ...], int]:
        maps, width = [], 0
        if method.all_maps:
            maps = models.map_shapes(network, layers, *of_images)
        if method.embedding:
            width = models.embedding_width(network, layers, *of_images)
        return tuple((c, h, w) for _, c, h, w in maps), width

    student_maps, student_width = of(trained.network, trained.layers)
    teacher_maps, teacher_width = of(teacher.saved.network, teacher.layers)
    labels = dataset.train.labels
    return Shapes(student_maps, teacher_maps, student_width, teacher_width, labels)


def _class_means(
    teacher: FrozenTeacher, dataset: data.DataSet, settings: Settings, accelerator: Accelerator
) -> Tensor:
    """`[K, D]` of the training images as they are, over all processes."""
    batches = eval_batches(dataset.train, settings, accelerator)
    try:
        with accelerator.autocast():
            means = amd_fused.class_means(teacher.embedding, batches, dataset.num_classes)
    except ValueError as error:
        raise UsageError(f"--method {settings.method}: {error}") from None
    return means.cpu()


def _dry_run(
    objective: Objective,
    teacher: FrozenTeacher | None,
    settings: Settings,
    dataset: data.DataSet,
    accelerator: Accelerator,
) -> Output | None:
    """What no check foresaw, such as a --backend that cannot run here, is said before training.

    Returns the teacher's output for the images that were tried.
    """
    count = min(_TRIED, settings.batch_size)
    indices = torch.arange(count, device=accelerator.device)
    images = to_device(dataset.train.batch(range(count), None), settings, accelerator)
    target = dataset.train.labels[:count].to(accelerator.device)
    objective.eval()
    try:
        with torch.no_grad(), accelerator.autocast():
            output = None if teacher is None else teacher(images)
            objective(images, target, output, indices)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"--method {settings.method} cannot be computed: {reason}") from error
    return output
