"""Time a distillation step: the fused loss, its peers, a cached teacher, KD alone, no teacher."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import TensorDataset

import amd_fused
from amd_fused.distill.clock import Mark, Settings, Step, Times, clock_of, interleave
from benchmarks.cases import amd
from benchmarks.cases.networks import SETTINGS, Setting
from benchmarks.measure import parity, trace
from benchmarks.measure.harness import by_round, named, spread
from benchmarks.measure.parity import Verdict
from benchmarks.measure.runner import Bench, Command, Entry, add_seconds
from benchmarks.measure.subject import Loss, Variant
from benchmarks.show.table import KD

COMMAND = Command(
    "training",
    __doc__,
    settings={
        "cpu": Settings(min_time=60.0, min_rounds=3, calls_per_turn=2),
        "cuda": Settings(min_time=8.0, min_rounds=3, calls_per_turn=5),
    },
)
# Keys of the objectives that differ in the teacher: none at all, and one whose outputs are kept.
SCRATCH, CACHED = "scratch", "amd_fused_cached"
FIGURES = ("step_ms", "rounds_ms", "images_per_second", "peak_extra_bytes")
WARM_UP_STEPS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    # As training scripts set it, where all images have one size.
    torch.backends.cudnn.benchmark = True
    entries = [Entry(name, partial(measure, SETTINGS[name])) for name in options.settings]
    return COMMAND.run(entries, options)


class Training:
    """A student with its teacher, optimizer and objective, and one batch of random images.

    Without a ``loss`` of the features the objective is KD alone. ``teacher``: "live", "cached" (its
    outputs are kept, AMD's as attention maps) or "none" (cross-entropy alone).
    """

    def __init__(
        self, setting: Setting, loss: Loss | None, device: torch.device, teacher: str = "live"
    ) -> None:
        torch.manual_seed(0)
        self.setting, self.device = setting, device
        self.student, self.teacher = (
            network.to(device, memory_format=setting.memory_format)
            for network in setting.networks()
        )
        self.teacher.eval()
        self.loss = loss
        self.objective = amd_fused.DistillationLoss(
            kd_weight=0.0 if teacher == "none" else 0.9,
            feature_weight=5000.0 if loss else 0.0,
            feature_loss=loss,
        )
        networks = (self.student, self.teacher) if teacher == "live" else (self.student,)
        self.hooks = [
            amd_fused.FeatureHooks(network, setting.layers) for network in networks if loss
        ]
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=1e-3, momentum=0.9)
        self.dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.scaler = torch.amp.GradScaler(
            device.type,
            init_scale=2.0**10,
            enabled=setting.mixed_precision and device.type == "cuda",
        )
        images = torch.randn(setting.batch, *setting.image, device=device)
        self.images = images.contiguous(memory_format=setting.memory_format)
        self.labels = torch.randint(setting.classes, (setting.batch,), device=device)
        self.indices = torch.arange(setting.batch)
        self.cache: amd_fused.TeacherCache | None = None
        if teacher == "cached":
            images_and_labels = TensorDataset(self.images.cpu(), self.labels.cpu())
            dataset = amd_fused.IndexedDataset(images_and_labels)
            self.cache = amd_fused.TeacherCache(
                None, teacher=self.teacher, dataset=dataset, maps=setting.layers
            )

    def step(self, mark: Mark = lambda: None) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.setting.mixed_precision):
            logits_s = self.student(self.images)
            logits_t, features = self._taught()
            loss = self.objective(logits_s, logits_t, self.labels, *features)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        mark()

    def _taught(self) -> tuple[torch.Tensor | None, list[list[torch.Tensor]]]:
        """The teacher's logits, and the features of both sides, if the objective compares them."""
        features = [hooks.features for hooks in self.hooks[:1]]
        if self.cache is not None:
            outputs = self.cache(self.images, self.indices)
            return outputs.logits, [*features, list(outputs.maps)]
        if not self.objective.kd_weight:
            return None, []
        with torch.no_grad():
            logits_t = self.teacher(self.images)
        return logits_t, [hooks.features for hooks in self.hooks]

    def verdict(self, oracle: Loss) -> Verdict:
        """On the feature loss of the last step's features."""
        _, features = self._taught()
        student, teacher = ([a.detach() for a in side] for side in features)
        assert self.loss is not None
        exact = oracle([a.double() for a in student], [a.double() for a in teacher])
        error = float((self.loss(student, teacher) / exact - 1).abs())
        tolerance = parity.TOLERANCE[student[0].dtype]
        if error <= tolerance:
            return Verdict("ok", loss_error=error)
        # NaN is refused here, and is no JSON.
        found = error if math.isfinite(error) else None
        return Verdict("refused", f"loss off by {error:.2g}, tolerance {tolerance:g}", found)


def measure(setting: Setting, bench: Bench) -> dict[str, Any]:
    """All objectives of a setting in turns; its record for the result file."""
    record = {
        "subject": "training",
        "setting": setting.name,
        "batch": setting.batch,
        "image": list(setting.image),
        "mixed_precision": setting.mixed_precision,
        "channels_last": setting.channels_last,
        "status": "ok",
        "reason": "",
        "variants": [],
    }
    oracle = amd_fused.reference.amd_loss
    of_losses = [replace(v, title=f"KD + {v.title}") for v in amd.variants(bench.device)]
    ours = of_losses[0]
    cached = replace(ours, key=CACHED, title=f"{ours.title}, teacher cached")
    plain = {KD: "KD alone", SCRATCH: "no teacher"}
    variants = [*of_losses, cached]
    variants += [Variant(key, title, oracle, oracle) for key, title in plain.items()]
    trainings: dict[str, Training] = {}
    try:
        trainings[KD] = _warmed_up(Training(setting, None, bench.device))
        trainings[SCRATCH] = _warmed_up(Training(setting, None, bench.device, "none"))
        verdicts = dict.fromkeys(plain, Verdict("ok"))
        for variant in of_losses:
            verdicts[variant.key] = _started(variant, setting, bench, trainings)
        verdicts[CACHED] = _started(cached, setting, bench, trainings, "cached")
        steps: dict[str, Step] = {key: training.step for key, training in trainings.items()}
        peaks = {key: trace.peak_extra_bytes(step, bench.device) for key, step in steps.items()}
        times = interleave(steps, bench.settings, clock_of(bench.device))
    except ImportError as error:
        return record | {"status": "left out", "reason": str(error)}
    except Exception as error:  # any: the other settings still count
        return record | {"status": "failed", "reason": parity.first_line(error)}
    per_turn = bench.settings.calls_per_turn
    records = [
        named(v, verdicts[v.key])
        | _figures(times.get(v.key), peaks.get(v.key), setting.batch, per_turn)
        for v in variants
    ]
    return record | {"variants": records}


def _warmed_up(training: Training) -> Training:
    for _ in range(WARM_UP_STEPS):
        training.step()
    return training


def _started(
    variant: Variant,
    setting: Setting,
    bench: Bench,
    trainings: dict[str, Training],
    teacher: str = "live",
) -> Verdict:
    """Enters a training that runs and is right among the trainings; says how it went."""
    if refusal := bench.refusal(variant):
        return Verdict("left out", refusal)
    start = time.perf_counter()
    try:
        training = _warmed_up(Training(setting, variant.loss, bench.device, teacher))
        verdict = training.verdict(variant.oracle)
    except Exception as error:  # any: the other objectives still count
        return Verdict("failed", parity.first_line(error))
    if verdict.status == "ok":
        trainings[variant.key] = training
    return replace(verdict, first_call_ms=1e3 * (time.perf_counter() - start))


def _figures(
    times: Times | None, peak: int | None, batch: int, calls_per_turn: int
) -> dict[str, Any]:
    if times is None:
        return dict.fromkeys(FIGURES)
    seconds = [total for (total,) in times]
    step_ms = spread(seconds)
    rounds = {"total": by_round(seconds, calls_per_turn)}
    return dict(zip(FIGURES, (step_ms, rounds, 1e3 * batch / step_ms["median"], peak), strict=True))


def parser() -> argparse.ArgumentParser:
    made = COMMAND.parser()
    made.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=["wrn", "wrn-amp", "resnet-amp"],
        help="default: WRN16-3 to WRN16-1 in float32 and AMP, ResNet34 to ResNet18 in AMP",
    )
    add_seconds(made)
    return made
