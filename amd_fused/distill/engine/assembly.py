"""The parts of a training put together: data, networks, what the student learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import amd_fused
from amd_fused.distill import criteria, data, methods, models
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import launch
from amd_fused.distill.engine.batches import placed, plain_batches
from amd_fused.distill.engine.batchnorm import share_statistics
from amd_fused.distill.engine.networks import Kept, TeacherChoice, load_kept
from amd_fused.distill.engine.objective import Frozen, Objective
from amd_fused.distill.errors import UsageError
from amd_fused.distill.run_dir import TEACHER, RunDir

# Losses that compare maps position by position.
_PAIRED = {"amd", "at"}
# Images that an objective is tried with before the training.
_TRIED = 4
_UNKNOWN = models.Layers((), "")


@dataclass(frozen=True)
class Trained:
    """The network that a run trains. Layers are empty where they are not known nor needed."""

    name: str
    network: nn.Module
    layers: models.Layers
    parameters: int


@dataclass(frozen=True)
class Guide:
    """A run's teacher. A student from scratch may have one too, to measure its distance to."""

    kept: Kept
    layers: models.Layers


def read_data(settings: Settings, accelerator: Accelerator) -> data.DataSet:
    """The data set in every process; the main one comes first, for it may unpack an archive.

    Raises:
        UsageError: it is missing or broken.
    """
    loaded: list[data.DataSet] = []
    launch.from_main(accelerator, lambda: loaded.append(data.load(settings)))
    return loaded[0] if loaded else data.load(settings)


def load_data(settings: Settings, accelerator: Accelerator) -> data.DataSet:
    """What :func:`read_data` gives, once batches for a training can be made of it.

    Raises:
        UsageError: it is missing or broken, or has too few images for a batch.
    """
    dataset = read_data(settings, accelerator)
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
    choice: TeacherChoice | None,
    dataset: data.DataSet,
    accelerator: Accelerator,
) -> tuple[Trained, Guide | None]:
    """Both networks on their device, checked to go together.

    Raises:
        UsageError: they do not, or one is missing, unknown or broken.
    """
    method = methods.parse(settings.method)
    if method.distilled and choice is None:
        raise UsageError(
            f"--teacher-run must be given for --method {settings.method}, got no teacher"
        )
    methods.check(method, settings)
    side = "teacher" if role == TEACHER else "student"
    name = models.canonical(getattr(settings, side))
    network = models.build(
        name,
        num_classes=dataset.num_classes,
        channels=dataset.channels,
        image_size=dataset.image_size,
        seed=settings.seed,
    )
    needed = method.maps or method.embedding
    own = getattr(settings, f"{side}_layers"), getattr(settings, f"{side}_embedding")
    layers = _layers(needed or any(own), lambda: models.layers(name, network, *own))
    trained = Trained(name, network, layers, models.count_parameters(network))
    guide = None
    if choice is not None:
        kept = load_kept(RunDir(choice.run), dataset, choice.epoch)
        theirs = settings.teacher_layers, settings.teacher_embedding
        guide = Guide(kept, _layers(needed or any(theirs), lambda: kept.layers(*theirs)))
        if _PAIRED & set(method.losses):
            check_pair(trained, guide, dataset)
        place(kept.network.requires_grad_(False), settings, accelerator)
    if accelerator.num_processes > 1 and settings.sync_batchnorm:
        share_statistics(network, accelerator.device)
    place(network, settings, accelerator)
    return trained, guide


def place(network: nn.Module, settings: Settings, accelerator: Accelerator) -> None:
    """The network on the device and in the memory format of a run, in place."""
    network.to(accelerator.device)
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_pair(trained: Trained, guide: Guide, dataset: data.DataSet) -> None:
    """A UsageError if the maps of student and teacher cannot be compared position by position."""
    models.check_pair(
        guide.kept.network,
        guide.layers,
        trained.network,
        trained.layers,
        dataset.channels,
        dataset.image_size,
    )


def make_objective(
    settings: Settings,
    trained: Trained,
    guide: Guide | None,
    dataset: data.DataSet,
    accelerator: Accelerator,
    *,
    resumed: bool,
) -> tuple[Objective, Frozen | None]:
    """What a step computes, and the teacher that it learns from; tried with a few images.

    Args:
        resumed: the class means come with the checkpoint and are not computed here.

    Raises:
        UsageError: it cannot be computed.
    """
    method = methods.parse(settings.method)
    teacher = None
    if guide is not None and method.distilled:
        teacher = Frozen(guide.kept.network, guide.layers, method)
    width, teacher_width, class_means = None, None, None
    if guide is not None and method.embedding:
        of_images = dataset.channels, dataset.image_size
        width = models.embedding_width(trained.network, trained.layers, *of_images)
        teacher_width = models.embedding_width(guide.kept.network, guide.layers, *of_images)
    if teacher is not None and method.class_means:
        if resumed:
            class_means = torch.zeros(dataset.num_classes, teacher_width or 0)
        else:
            class_means = _class_means(teacher, dataset, settings, accelerator)
    criterion = criteria.criterion(
        method,
        settings,
        student_width=width,
        teacher_width=teacher_width,
        class_means=class_means,
    )
    objective = Objective(trained.network, trained.layers, criterion, method)
    objective.to(accelerator.device)
    _try(objective, teacher, settings, dataset, accelerator)
    return objective, teacher


def _layers(needed: bool, find: Callable[[], models.Layers]) -> models.Layers:
    """Layers that nothing needs may be unknown, as those of most networks of a library are."""
    try:
        return find()
    except UsageError:
        if needed:
            raise
        return _UNKNOWN


def _class_means(
    teacher: Frozen, dataset: data.DataSet, settings: Settings, accelerator: Accelerator
) -> Tensor:
    """`[K, D]` of the training images as they are, over all processes."""
    batches = plain_batches(dataset.train, settings, accelerator)
    try:
        with accelerator.autocast():
            means = amd_fused.class_means(teacher.embedding, batches, dataset.num_classes)
    except ValueError as error:
        raise UsageError(f"--method {settings.method}: {error}") from None
    return means.cpu()


def _try(
    objective: Objective,
    teacher: Frozen | None,
    settings: Settings,
    dataset: data.DataSet,
    accelerator: Accelerator,
) -> None:
    """What no check foresaw, such as a --backend that cannot run here, is said before training."""
    count = min(_TRIED, settings.batch_size)
    images = placed(dataset.train.batch(range(count), None), settings, accelerator)
    target = dataset.train.labels[:count].to(accelerator.device)
    objective.eval()
    try:
        with torch.no_grad(), accelerator.autocast():
            objective(images, target, None if teacher is None else teacher(images))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"--method {settings.method} cannot be computed: {reason}") from error
