"""Time a whole distillation step: with the fused loss, with its peers, and with KD alone."""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

import amd_fused
from benchmarks import amd, parity, results, table, trace
from benchmarks.budget import Budget
from benchmarks.clock import Mark, Step, clock_of
from benchmarks.harness import Settings, by_round, interleave, spread
from benchmarks.networks import SETTINGS, Setting
from benchmarks.parity import Verdict
from benchmarks.subject import WHOLE, Loss, Variant

LEGEND = (
    "A step: teacher forward, student forward, Eq. 8 (or KD alone), backward, SGD. peak: memory "
    "allocated at the highest above what is there between steps (networks, optimizer, images)."
)
HEADER = ("objective", "step ms (quartiles)", "images/s", "over KD alone", "peak MiB")
# Without a feature loss.
KD = "kd"
FIGURES = ("step_ms", "rounds_ms", "images_per_second", "peak_extra_bytes")
WARM_UP_STEPS = 3
_SETTINGS = {
    "cpu": Settings(min_time=60.0, min_rounds=3, calls_per_turn=2),
    "cuda": Settings(min_time=8.0, min_rounds=3, calls_per_turn=5),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for. 1 if one of our steps was wrong or failed, else 0."""
    options = parser().parse_args(arguments)
    settings = _SETTINGS[options.device.type]
    if options.min_time is not None:
        settings = Settings(options.min_time, settings.min_rounds, settings.calls_per_turn)
    # As training scripts set it, where all images have one size.
    torch.backends.cudnn.benchmark = True
    result = results.new("training", options.device, settings=vars(settings), cases=[])
    path = results.path_of("training", result, options.output)
    print(table.render_environment(result["environment"]), LEGEND, sep="\n\n", end="\n\n")
    budget = Budget(options.seconds, len(options.settings))
    for name in options.settings:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        record = measure(SETTINGS[name], options.device, settings, budget)
        budget.spent(record, time.perf_counter() - start)
        result["cases"].append(record)
        results.write(result, path)
        print(render(record), end="\n\n", flush=True)
        gc.collect()
    result["finished"] = True
    results.write(result, path)
    print(f"written to {path}")
    ours = [v for case in result["cases"] for v in [case, *case["variants"]] if not v.get("peer")]
    return 1 if {"refused", "failed"} & {v["status"] for v in ours} else 0


class Training:
    """A student with its teacher, optimizer and objective, and one batch of random images.

    Without a ``loss`` of the features the objective is KD alone.
    """

    def __init__(self, setting: Setting, loss: Loss | None, device: torch.device) -> None:
        torch.manual_seed(0)
        self.setting, self.device = setting, device
        self.student, self.teacher = (
            network.to(device, memory_format=setting.memory_format)
            for network in setting.networks()
        )
        self.teacher.eval()
        self.loss = loss
        self.objective = amd_fused.DistillationLoss(
            feature_weight=5000.0 if loss else 0.0, feature_loss=loss
        )
        self.hooks = [
            amd_fused.FeatureHooks(network, setting.layers)
            for network in (self.student, self.teacher)
            if loss
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

    def step(self, mark: Mark = lambda: None) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.setting.mixed_precision):
            logits_s = self.student(self.images)
            with torch.no_grad():
                logits_t = self.teacher(self.images)
            features = [hooks.features for hooks in self.hooks]
            loss = self.objective(logits_s, logits_t, self.labels, *features)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        mark()

    def verdict(self, oracle: Loss) -> Verdict:
        """On the feature loss of the last step's features."""
        student, teacher = ([a.detach() for a in hooks.features] for hooks in self.hooks)
        assert self.loss is not None
        exact = oracle([a.double() for a in student], [a.double() for a in teacher])
        error = float((self.loss(student, teacher) / exact - 1).abs())
        tolerance = parity.TOLERANCE[student[0].dtype]
        if error <= tolerance:
            return Verdict("ok", loss_error=error)
        # NaN is refused here, and is no JSON.
        found = error if math.isfinite(error) else None
        return Verdict("refused", f"loss off by {error:.2g}, tolerance {tolerance:g}", found)


def measure(
    setting: Setting, device: torch.device, settings: Settings, budget: Budget
) -> dict[str, Any]:
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
    trainings: dict[str, Training] = {}
    verdicts: dict[str, Verdict] = {}
    variants = amd.variants(device)
    try:
        trainings[KD] = Training(setting, None, device)
        for _ in range(WARM_UP_STEPS):
            trainings[KD].step()
        for variant in variants:
            verdicts[variant.key] = _started(variant, setting, device, trainings, budget)
        steps: dict[str, Step] = {key: training.step for key, training in trainings.items()}
        peaks = {key: trace.peak_extra_bytes(step, device) for key, step in steps.items()}
        times = interleave(steps, settings, clock_of(device))
    except ImportError as error:
        return record | {"status": "left out", "reason": str(error)}
    except Exception as error:  # any: the other settings still count
        return record | {"status": "failed", "reason": parity.first_line(error)}
    titles = {v.key: f"KD + {v.title}" for v in variants} | {KD: "KD alone"}
    parts = {v.key: v.part for v in variants}
    ours = {v.key for v in variants if not v.peer}
    for key, title in titles.items():
        verdict = verdicts.get(key, Verdict("ok"))
        record["variants"].append(
            {
                "key": key,
                "title": title,
                "peer": key not in ours,
                "part": parts.get(key, WHOLE),
                **asdict(verdict),
                **_figures(times.get(key), peaks.get(key), setting.batch, settings),
            }
        )
    return record


def _started(
    variant: Variant,
    setting: Setting,
    device: torch.device,
    trainings: dict[str, Training],
    budget: Budget,
) -> Verdict:
    """Enters a training that runs and is right among the trainings; says how it went."""
    if refusal := budget.refusal(variant):
        return Verdict("left out", refusal)
    start = time.perf_counter()
    try:
        training = Training(setting, variant.loss, device)
        for _ in range(WARM_UP_STEPS):
            training.step()
        verdict = training.verdict(variant.oracle)
    except Exception as error:  # any: the other objectives still count
        return Verdict("failed", parity.first_line(error))
    if verdict.status == "ok":
        trainings[variant.key] = training
    return replace(verdict, first_call_ms=1e3 * (time.perf_counter() - start))


def _figures(
    calls: list[tuple[float, ...]] | None, peak: int | None, batch: int, settings: Settings
) -> dict[str, Any]:
    if calls is None:
        return dict.fromkeys(FIGURES)
    seconds = [total for (total,) in calls]
    step_ms = spread(seconds)
    rounds = {"total": by_round(seconds, settings.calls_per_turn)}
    return dict(zip(FIGURES, (step_ms, rounds, 1e3 * batch / step_ms["median"], peak), strict=True))


def render(record: dict[str, Any]) -> str:
    kind = " x ".join(map(str, record["image"]))
    title = f"### {record['setting']}: {record['batch']} images of {kind}"
    title += ", mixed precision" * record["mixed_precision"]
    title += ", channels_last" * record["channels_last"]
    if record["status"] != "ok":
        return f"{title}\n\n{record['status']}: {record['reason']}"
    alone = next(v["step_ms"]["median"] for v in record["variants"] if v["key"] == KD)
    rows, notes = [], []
    for v in record["variants"]:
        if v["status"] != "ok":
            rows.append((v["title"], v["status"], "-", "-", "-"))
            notes.append(f"{v['title']}: {v['status']}, {v['reason']}")
            continue
        rows.append(
            (
                v["title"],
                "{median:.2f} ({q1:.2f}-{q3:.2f})".format(**v["step_ms"]),
                f"{v['images_per_second']:.0f}",
                f"{v['step_ms']['median'] - alone:+.2f} ms",
                f"{v['peak_extra_bytes'] / 2**20:.0f}",
            )
        )
    return "\n".join([title, "", *table.lines(HEADER, rows), *([""] if notes else []), *notes])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__)
    made.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=["wrn", "wrn-amp", "resnet-amp"],
        help="default: WRN16-3 to WRN16-1 in float32 and AMP, ResNet34 to ResNet18 in AMP",
    )
    made.add_argument(
        "--min-time", type=float, metavar="S", help="seconds for each setting (60, GPU 8)"
    )
    made.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="for all, compiling included: leaves compiled peers out where it would take longer",
    )
    results.add_arguments(made)
    return made
