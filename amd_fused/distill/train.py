"""Training of one network: a teacher, a student alone, or a student under a teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn

from amd_fused import DistillationLoss, FeatureHooks
from amd_fused.distill.config import Recipe
from amd_fused.distill.data import Dataset, Images
from amd_fused.distill.wrn import FEATURE_LAYERS


@dataclass(frozen=True)
class Epoch:
    """Averages over one epoch's steps, and the test accuracy in percent after it.

    `loss` is the weighted total, `ce`, `kd` and `feature` its terms before weighting.
    """

    loss: float
    ce: float
    kd: float
    feature: float
    test_accuracy: float


@dataclass
class Run:
    """One trained network; `seconds` are of training and the evaluations between."""

    method: str
    seed: int
    seconds: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def test_accuracy(self) -> float:
        """After the last epoch. Picking the best one would select on the test images."""
        return self.epochs[-1].test_accuracy


class Trainer:
    """One network, its SGD optimizer, its objective and, for a distilled student, its teacher.

    The learning rate falls to 0 along a cosine over `total_steps`. The paper's steps of 0.2 after
    every 40 of 200 epochs would leave a short run too few updates at each rate; a cosine has no
    milestones to place, and its end is quiet enough to report the last epoch.

    Features are hooked only if the objective weighs them. Use as a context manager, so that the
    hooks come off the networks again.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: DistillationLoss,
        recipe: Recipe,
        total_steps: int,
        *,
        teacher: nn.Module | None = None,
        feature_layers: Sequence[str] = FEATURE_LAYERS,
    ) -> None:
        self.model = model
        self.objective = objective
        self.teacher = teacher.eval() if teacher is not None else None
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total_steps)
        self._hooks: tuple[FeatureHooks, FeatureHooks] | None = None
        if self.teacher is not None and objective.feature_weight > 0:
            self._hooks = (
                FeatureHooks(model, feature_layers),
                FeatureHooks(self.teacher, feature_layers),
            )

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One update; returns the detached loss and its parts `[4]`: total, ce, kd, feature."""
        loss = self._loss(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        parts = self.objective.parts
        return torch.stack([loss.detach(), parts["ce"], parts["kd"], parts["feature"]])

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        student_logits = self.model(images)
        if self.teacher is None:
            return self.objective(student_logits, None, labels)
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        if self._hooks is None:
            return self.objective(student_logits, teacher_logits, labels)
        hooks_s, hooks_t = self._hooks
        return self.objective(
            student_logits, teacher_logits, labels, hooks_s.features, hooks_t.features
        )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hooks in self._hooks or ():
            hooks.remove()


def train(
    run: Run,
    model: nn.Module,
    objective: DistillationLoss,
    data: Dataset,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Train `model` on `data.train`, adding to `run` an `Epoch` each; leaves it in eval mode.

    Batches are shuffled with `run.seed`, the same for every method; the images that do not fill
    the last batch of an epoch are left out of that epoch.
    """
    start = time.perf_counter()
    shuffle = torch.Generator().manual_seed(run.seed)
    steps = len(data.train) // recipe.batch_size
    with Trainer(model, objective, recipe, recipe.epochs * steps, teacher=teacher) as trainer:
        for _ in range(recipe.epochs):
            model.train()
            order = torch.randperm(len(data.train), generator=shuffle)
            losses = torch.zeros(4)
            for chosen in order[: steps * recipe.batch_size].split(recipe.batch_size):
                losses += trainer.step(data.train.images[chosen], data.train.labels[chosen])
            total, ce, kd, feature = (losses / steps).tolist()
            run.epochs.append(Epoch(total, ce, kd, feature, accuracy(model, data.test)))
            run.seconds = time.perf_counter() - start
            on_epoch(run)
    return run


@torch.no_grad()
def accuracy(model: nn.Module, part: Images) -> float:
    """Percentage of images whose largest logit is that of their class; sets eval mode."""
    model.eval()
    predictions = torch.cat([model(batch).argmax(1) for batch in part.images.split(512)])
    return 100 * (predictions == part.labels).double().mean().item()
