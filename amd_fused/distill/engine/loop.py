"""The training loop. What it does in a step is a function of the settings, the epoch and the step,
so that a run that was stopped anywhere goes on to the same result."""

from __future__ import annotations

import math
import time
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from amd_fused.distill import data
from amd_fused.distill.config import Settings
from amd_fused.distill.engine import checkpoints, launch
from amd_fused.distill.engine.batches import eval_batches, to_device
from amd_fused.distill.engine.checkpoints import Progress
from amd_fused.distill.engine.interrupts import Interrupts
from amd_fused.distill.engine.logs import Display, Logs
from amd_fused.distill.engine.metrics import measure
from amd_fused.distill.engine.objective import FrozenTeacher, Objective
from amd_fused.distill.engine.schedule import learning_rate
from amd_fused.distill.errors import TrainingError, UsageError
from amd_fused.distill.run_dir import RunDir
from amd_fused.distill.seeding import seed_generators


def sync_interval(device: torch.device) -> int:
    """Steps after which the losses are read: each reading makes a GPU wait."""
    return 1 if device.type == "cpu" else 10


class Loop:
    """Trains an objective's student from wherever its progress is to the last epoch.

    Args:
        network: the student's canonical name, and what its weights are kept with.
        mixup: alpha; 0: off.
    """

    def __init__(
        self,
        run: RunDir,
        settings: Settings,
        dataset: data.DataSet,
        objective: Objective,
        teacher: FrozenTeacher | None,
        accelerator: Accelerator,
        *,
        network: str,
        mixup: float,
    ) -> None:
        self._run, self._settings, self._data = run, settings, dataset
        self._teacher, self._accelerator = teacher, accelerator
        self._network, self._mixup = network, mixup
        self.steps = data.train_steps(dataset.train, settings.batch_size)
        optimizer = torch.optim.SGD(
            objective.parameters(),
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self._objective = objective
        self._wrapped, self._optimizer = accelerator.prepare(objective, optimizer)
        self.progress = Progress(sums=[0.0] * (1 + len(objective.names)))
        self._values: list[Tensor] = []
        self._clock = time.perf_counter()

    @property
    def done(self) -> int:
        """Steps of the run that are done."""
        return self.progress.epoch * self.steps + self.progress.step

    def restore(self, state: dict[str, Any], progress: Progress) -> None:
        """Goes on from what :func:`checkpoints.load_checkpoint` gave.

        Raises:
            UsageError: it is of another network, as a module of the user's may be.
        """
        try:
            self._objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--resume: {self._run.last_checkpoint} does not fit {self._network} ({reason})"
            ) from None
        self._optimizer.load_state_dict(state["optimizer"])
        if self._accelerator.scaler is not None and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.progress = progress

    def train(self, interrupts: Interrupts, display: Display) -> None:
        """To the last epoch, saving after each.

        Raises:
            TrainingError: a loss became NaN or infinite.
            KeyboardInterrupt, Terminated: a signal came; everything up to it is saved.
        """
        main = self._accelerator.is_main_process
        logs = None
        if main:
            logs = Logs(self._run, self._accelerator, self.progress.lines, self._settings.to_json())
        device = self._accelerator.device
        # Layers such as dropout draw from torch's own generators, seeded anew in every step.
        generators = [device] if device.type == "cuda" else []
        interrupts.deferred = True
        self._clock = time.perf_counter()
        try:
            with torch.random.fork_rng(devices=generators):
                while self.progress.epoch < self._settings.epochs:
                    self._train_epoch(interrupts, display)
                    self._finish_epoch(logs, display)
                    if self._any_process(interrupts.received is not None):
                        self._stop(interrupts, display)
        finally:
            interrupts.deferred = False
            if logs is not None:
                logs.close()
        if interrupts.received is not None:
            # It came after the last epoch's check.
            self._stop(interrupts, display)

    def _train_epoch(self, interrupts: Interrupts, display: Display) -> None:
        settings, progress, accelerator = self._settings, self.progress, self._accelerator
        self._objective.train()
        every = sync_interval(accelerator.device)
        alone = accelerator.num_processes == 1
        self._advance_clock(training=False)
        batches = data.train_batches(
            self._data.train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            epoch=progress.epoch,
            first_step=progress.step,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            workers=settings.workers,
        )
        for batch in batches:
            self._values.append(self._step(batch))
            progress.step += 1
            due = settings.checkpoint_steps and self.done % settings.checkpoint_steps == 0
            last = progress.step == self.steps
            stop = interrupts.received is not None
            if due or last or progress.step % every == 0 or (alone and stop):
                stop = self._sync_losses(stop)
                display.step(self.done, self._images_per_second(), self._means())
                if due or stop:
                    launch.on_main_process(accelerator, self._save)
                    self._advance_clock(training=False)
                if stop:
                    self._stop(interrupts, display)

    def _step(self, batch: data.Batch) -> Tensor:
        """One update; returns the objective's values on the device, which is not waited for."""
        settings, accelerator, progress = self._settings, self._accelerator, self.progress
        seed = data.mix_seed(settings.seed, progress.epoch, progress.step)
        seed_generators(accelerator.device, data.mix_seed(seed, accelerator.process_index))
        images = to_device(batch.images, settings, accelerator)
        target = batch.labels.to(accelerator.device, non_blocking=True)
        if self._mixup > 0:
            # The same seed in all processes: one lambda for the whole batch.
            images, target = data.mixup(images, target, self._data.num_classes, self._mixup, seed)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.done, self.steps)
        output = None
        if self._teacher is not None:
            with accelerator.autocast():
                output = self._teacher(images, batch.indices)
        indices = batch.indices.to(accelerator.device, non_blocking=True)
        loss, values = self._wrapped(images, target, output, indices)
        self._optimizer.zero_grad()
        accelerator.backward(loss)
        self._optimizer.step()
        return values

    def _sync_losses(self, stop: bool) -> bool:
        """Waits for the values of the last steps, adds them up and refuses what is not finite.

        Every process comes here after the same steps; returns whether any of them is to stop.
        """
        rows = F.pad(torch.stack(self._values), (0, 1), value=float(stop))
        self._values = []
        found = self._accelerator.reduce(rows, "mean").tolist()
        for step, (*row, broken, _) in enumerate(found, self.done - len(found) + 1):
            if not all(map(math.isfinite, row)):
                self._raise_not_finite(row, math.isfinite(broken), step)
            self.progress.sums = [a + b for a, b in zip(self.progress.sums, row, strict=True)]
        self._advance_clock()
        return bool(found[-1][-1] > 0)

    def _raise_not_finite(self, row: list[float], finite_logits: bool, step: int) -> NoReturn:
        parts = dict(zip(self._objective.names, row[1:], strict=True))
        wrong = [name for name, value in parts.items() if not math.isfinite(value)]
        culprit = ", ".join(wrong) if wrong else "the sum of its weighted parts"
        if not finite_logits:
            culprit = f"the student's logits, and with them {culprit}"
        self._fail(f"the loss became {row[0]} at step {step}: {culprit}")

    def _fail(self, what: str) -> NoReturn:
        file = self._run.last_checkpoint
        good = f"the last good checkpoint is {file}" if file.exists() else "nothing was saved yet"
        raise TrainingError(f"{what} (epoch {self.progress.epoch + 1}); {good}")

    def _finish_epoch(self, logs: Logs | None, display: Display) -> None:
        settings, progress = self._settings, self.progress
        if self._teacher is not None:
            self._teacher.flush()
        launch.share_buffers(self._accelerator, self._objective.student)
        launch.on_main_process(self._accelerator, self._check_finite)
        measures = measure(
            self._objective.student,
            eval_batches(self._data.test, settings, self._accelerator),
            self._data.num_classes,
            self._accelerator,
        )
        if not all(map(math.isfinite, measures.test.values())):
            self._fail(f"test logits became NaN or infinite after step {self.done}")
        speed, means = self._images_per_second(), self._means()
        self._advance_clock(training=False)
        line = {
            "epoch": progress.epoch + 1,
            "step": self.done,
            "lr": learning_rate(settings, self.done - 1, self.steps),
            "seconds": round(progress.seconds, 3),
            "images_per_second": round(speed, 1),
            "loss": means.pop("loss"),
            "parts": means,
            "test": measures.test,
        }
        progress.lines.append(line)
        progress.reliability = measures.reliability
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.training_seconds += progress.epoch_seconds
        progress.sums, progress.epoch_seconds = [0.0] * len(progress.sums), 0.0
        if measures.test["top1"] > progress.best_top1 or progress.best_epoch == 0:
            progress.best_epoch, progress.best_top1 = progress.epoch, measures.test["top1"]
        launch.on_main_process(self._accelerator, self._save_epoch)
        if logs is not None:
            logs.add(line)
        display.epoch(line)

    def _save_epoch(self) -> None:
        """The epoch's weights, what --resume needs, and away with weights that are not to stay."""
        epoch, every = self.progress.epoch, self._settings.save_every
        checkpoints.save_weights(
            self._run,
            epoch,
            {
                "network": self._network,
                "epoch": epoch,
                "state_dict": self._objective.student.state_dict(),
                "num_classes": self._data.num_classes,
                "channels": self._data.channels,
                "image_size": self._data.image_size,
            },
        )
        self._save()
        keep = {epoch, self.progress.best_epoch}
        keep |= {kept for kept in range(1, epoch + 1) if every and kept % every == 0}
        checkpoints.delete_weights(self._run, keep)

    def _save(self) -> None:
        self._check_finite()
        scaler = self._accelerator.scaler
        state = {
            "objective": self._objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }
        checkpoints.save_checkpoint(self._run, state, self.progress)

    def _check_finite(self) -> None:
        """Of what is about to be saved: the losses so far were finite, the last gradient may not
        have been."""
        state = self._objective.state_dict()
        floats = {name: a for name, a in state.items() if a.is_floating_point()}
        finite = torch.stack([a.isfinite().all() for a in floats.values()])
        if not finite.all():
            first = list(floats)[int((~finite).nonzero()[0])]
            self._fail(f"the gradient became NaN or infinite at step {self.done}, and so {first}")

    def _any_process(self, stop: bool) -> bool:
        flag = torch.tensor(float(stop), device=self._accelerator.device)
        return float(self._accelerator.reduce(flag, "sum")) > 0

    def _stop(self, interrupts: Interrupts, display: Display) -> None:
        if self._accelerator.is_main_process:
            name = "another process" if interrupts.received is None else interrupts.received.name
            display.print(
                f"stopped by {name} after step {self.done}, which is saved in "
                f"{self._run.last_checkpoint}; --resume, or the sweep again, goes on there"
            )
        raise interrupts.stop()

    def _means(self) -> dict[str, float]:
        """The loss and its parts over the epoch so far."""
        steps = max(self.progress.step, 1)
        names = ("loss", *self._objective.names)
        return {n: s / steps for n, s in zip(names, self.progress.sums, strict=True)}

    def _images_per_second(self) -> float:
        images = self.progress.step * self._settings.batch_size
        return images / max(self.progress.epoch_seconds, 1e-9)

    def _advance_clock(self, training: bool = True) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        if training:
            self.progress.epoch_seconds += now - self._clock
        self._clock = now
