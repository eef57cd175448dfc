"""Folders of finished runs, written as the engine writes them, with numbers a test chooses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amd_fused.distill import models
from amd_fused.distill.config import Settings
from amd_fused.distill.methods import parse
from amd_fused.distill.run_dir import SCHEMA, STUDENT, TEACHER, RunDir

EDGES = [i / 15 for i in range(16)]
# 20 images in two bins: the others are empty.
RELIABILITY = {
    "edges": EDGES,
    "count": [0] * 13 + [5, 15],
    "confidence": [0.0] * 13 + [0.9, 0.98],
    "accuracy": [0.0] * 13 + [0.8, 1.0],
}


def teacher_run(path: Path, top1: float = 97.0, **changes: Any) -> Path:
    """A teacher's folder; `changes` are as in :func:`write_run`."""
    return write_run(path, top1=top1, role=TEACHER, parts=("ce",), **changes)


def student_run(
    path: Path, method: str, top1: float, teacher: Path | None = None, **changes: Any
) -> Path:
    """A student's folder; `teacher` is a folder that :func:`teacher_run` wrote."""
    return write_run(path, top1=top1, role=STUDENT, method=method, teacher=teacher, **changes)


def write_run(
    path: Path,
    *,
    top1: float,
    role: str,
    method: str = "scratch",
    teacher: Path | None = None,
    teacher_epoch: int | None = None,
    network: str | None = None,
    parts: Sequence[str] = ("ce", "kd", "amd"),
    curve: Sequence[float] | None = None,
    amd_distance: float | None = None,
    metrics: dict[str, float | None] | None = None,
    reliability: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """config.json, log.jsonl and result.json; `curve` is the top-1 of each epoch, which ends at
    `top1`, `metrics` replaces some of the last epoch's, `settings` some of the defaults."""
    curve = [top1 - 40, top1 - 10, top1] if curve is None else curve
    chosen = Settings(method=parse(method), epochs=len(curve), milestones=(), **settings)
    path.mkdir(parents=True)
    config = {
        "schema": SCHEMA,
        "role": role,
        "settings": chosen.to_json(),
        "network": network or ("WRN16-3" if role == TEACHER else "WRN16-1"),
        "parameters": 1234,
        "teacher": None if teacher is None else _identity(teacher, teacher_epoch),
        "command": ["amd-fused", "distill", "--method", method],
        "versions": {"amd_fused": "0.1.0", "torch": "2.10.0", "python": "3.10.0"},
        "commit": "0123abc",
        "device": "cpu",
        "processes": 1,
        "started": "2026-01-02T03:04:05+00:00",
    }
    lines = []
    for epoch, accuracy in enumerate(curve, 1):
        test = {"top1": accuracy, "top5": 99.5, "nll": 2.0 / epoch, "ece": 3.0 / epoch}
        values = {name: (1 + k) / epoch for k, name in enumerate(parts)}
        line = {"epoch": epoch, "step": 7 * epoch, "lr": 0.1, "seconds": 1.0, "loss": 3.0 / epoch}
        lines.append(line | {"images_per_second": 100.0, "parts": values, "test": test})
    lines[-1]["test"] |= metrics or {}
    best = max(range(len(curve)), key=lambda index: curve[index])
    result = {
        "epochs": len(curve),
        "seconds": 3.0,
        "images_per_second": 100.0,
        "test": lines[-1]["test"],
        "best": {"epoch": best + 1, "top1": curve[best]},
        "reliability": reliability or RELIABILITY,
        "amd_distance": amd_distance,
        "parameters": 1234,
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "result.json").write_text(json.dumps(result))
    return path


def write_weights(path: Path, network: str = "WRN10-1", seed: int = 0) -> Path:
    """The weights after the last epoch of a run on digits, freshly drawn from a seed."""
    model = models.build(network, num_classes=10, channels=1, image_size=8, seed=seed)
    run = RunDir(path)
    epoch = len(run.epochs())
    content = {"network": network, "epoch": epoch, "state_dict": model.state_dict()}
    run.checkpoints.mkdir()
    torch.save(
        {**content, "num_classes": 10, "channels": 1, "image_size": 8}, run.weights_file(epoch)
    )
    return path


def _identity(teacher: Path, epoch: int | None) -> dict[str, Any]:
    """What a student's config.json says of its teacher."""
    config = json.loads((teacher / "config.json").read_text())
    log = [json.loads(line) for line in (teacher / "log.jsonl").read_text().splitlines()]
    epoch = epoch or len(log)
    return {
        "run": str(teacher),
        "network": config["network"],
        "epoch": epoch,
        "epochs": len(log),
        "weights_sha256": hashlib.sha256(f"{teacher} {epoch}".encode()).hexdigest(),
        "top1": log[epoch - 1]["test"]["top1"],
    }
