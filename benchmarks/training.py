"""Time a whole distillation step: with the fused loss, with the eager one, and with KD alone."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

import amd_fused
from benchmarks import parity, results, table, trace
from benchmarks.clock import Mark, Step, clock_of
from benchmarks.harness import Settings, interleave, spread
from benchmarks.networks import SETTINGS, Setting

LEGEND = (
    "A step: teacher forward, student forward, Eq. 8 (or KD alone), backward, SGD. peak: memory "
    "allocated at the highest above what is there between steps (networks, optimizer, images)."
)
HEADER = ("objective", "step ms (quartiles)", "images/s", "over KD alone", "peak MiB")
OBJECTIVES = {
    "amd_fused": ("KD + amd_fused", amd_fused.AMDLoss),
    "eager": ("KD + eager reference", partial(amd_fused.AMDLoss, backend="reference")),
    "kd": ("KD alone", None),
}
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
    result = results.new(options.device, settings=vars(settings), cases=[])
    path = results.path_of("training", result, options.output)
    print(table.render_environment(result["environment"]), LEGEND, sep="\n\n", end="\n\n")
    for name in options.settings:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        record = measure(SETTINGS[name], options.device, settings)
        result["cases"].append(record)
        results.write(result, path)
        print(render(record), end="\n\n", flush=True)
        gc.collect()
    result["finished"] = True
    results.write(result, path)
    print(f"written to {path}")
    return 1 if {"refused", "failed"} & {case["status"] for case in result["cases"]} else 0


class Training:
    """A student with its teacher, optimizer and objective, and one batch of random images."""

    def __init__(self, setting: Setting, objective: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.setting, self.device = setting, device
        self.student, self.teacher = (
            network.to(device, memory_format=setting.memory_format)
            for network in setting.networks()
        )
        self.teacher.eval()
        _, make_loss = OBJECTIVES[objective]
        self.objective = amd_fused.DistillationLoss(
            feature_weight=5000.0 if make_loss else 0.0,
            feature_loss=make_loss() if make_loss else None,
        )
        self.hooks = [
            amd_fused.FeatureHooks(network, setting.layers)
            for network in (self.student, self.teacher)
            if make_loss
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

    def wrong(self) -> str:
        """How far the feature loss of the last step's features is off; empty if it is right."""
        features = [[a.detach() for a in hooks.features] for hooks in self.hooks]
        if not features:
            return ""
        exact = amd_fused.reference.amd_loss(*([a.double() for a in side] for side in features))
        error = float((self.objective.feature_loss(*features) / exact - 1).abs())
        tolerance = parity.TOLERANCE[features[0][0].dtype]
        return "" if error <= tolerance else f"loss off by {error:.2g}, tolerance {tolerance:g}"


def measure(setting: Setting, device: torch.device, settings: Settings) -> dict[str, Any]:
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
        "objectives": [],
    }
    try:
        trainings = {key: Training(setting, key, device) for key in OBJECTIVES}
        for training in trainings.values():
            for _ in range(WARM_UP_STEPS):
                training.step()
        reasons = {key: training.wrong() for key, training in trainings.items()}
        if any(reasons.values()):
            reason = "; ".join(f"{key}: {why}" for key, why in reasons.items() if why)
            return record | {"status": "refused", "reason": reason}
        peaks = {
            key: trace.peak_extra_bytes(training.step, device)
            for key, training in trainings.items()
        }
        steps: dict[str, Step] = {key: training.step for key, training in trainings.items()}
        times = interleave(steps, settings, clock_of(device))
    except ImportError as error:
        return record | {"status": "left out", "reason": str(error)}
    except Exception as error:  # any: the other settings still count
        return record | {"status": "failed", "reason": parity.first_line(error)}
    for key, calls in times.items():
        step_ms = spread([seconds for (seconds,) in calls])
        record["objectives"].append(
            {
                "key": key,
                "title": OBJECTIVES[key][0],
                "step_ms": step_ms,
                "images_per_second": 1e3 * setting.batch / step_ms["median"],
                "peak_extra_bytes": peaks[key],
            }
        )
    return record


def render(record: dict[str, Any]) -> str:
    kind = " x ".join(map(str, record["image"]))
    title = f"### {record['setting']}: {record['batch']} images of {kind}"
    title += ", mixed precision" * record["mixed_precision"]
    title += ", channels_last" * record["channels_last"]
    if record["status"] != "ok":
        return f"{title}\n\n{record['status']}: {record['reason']}"
    alone = next(o["step_ms"]["median"] for o in record["objectives"] if o["key"] == "kd")
    rows = [
        (
            o["title"],
            "{median:.2f} ({q1:.2f}-{q3:.2f})".format(**o["step_ms"]),
            f"{o['images_per_second']:.0f}",
            f"{o['step_ms']['median'] - alone:+.2f} ms",
            f"{o['peak_extra_bytes'] / 2**20:.0f}",
        )
        for o in record["objectives"]
    ]
    return "\n".join([title, "", *table.lines(HEADER, rows)])


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
    results.add_arguments(made)
    return made
