"""config.json: what a run's result is worth nothing without."""

from __future__ import annotations

import platform
import sys
from datetime import datetime, timezone
from typing import Any

import torch

import amd_fused
from amd_fused._machine import version_of
from amd_fused.distill.config import Settings
from amd_fused.distill.provenance import commit
from amd_fused.distill.run_dir import SCHEMA

_PACKAGES = ("accelerate", "numpy", "torchmetrics", "torchvision", "triton")


def describe(
    role: str,
    settings: Settings,
    network: str,
    parameters: int,
    teacher: dict[str, Any] | None,
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "schema": SCHEMA,
        "role": role,
        "settings": settings.to_json(),
        "network": network,
        "parameters": parameters,
        "teacher": teacher,
        "command": sys.argv,
        "versions": versions(),
        "commit": commit(),
        "device": device_name(device),
        "processes": processes,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Of this package, of torch and Python, and of what is installed of the trainer's others."""
    found = {package: version_of(package) for package in _PACKAGES}
    return {
        "amd_fused": amd_fused.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{package: version for package, version in found.items() if version},
    }


def device_name(device: torch.device) -> str:
    """As its maker calls a GPU; "cpu" otherwise."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
