"""config.json: what a run's result is worth nothing without."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import amd_fused
from amd_fused.distill.config import Settings
from amd_fused.distill.run_dir import SCHEMA

# Names the commit where the sources travel without their repository.
_COMMIT_VARIABLE = "AMD_FUSED_COMMIT"
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
    found = {
        "amd_fused": amd_fused.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this package's own checkout, "-dirty" where tracked files differ from it.

    None where it is installed elsewhere, also where that lies in some other repository.
    """
    root = Path(amd_fused.__file__).resolve().parents[1]
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root:
        return os.environ.get(_COMMIT_VARIABLE)
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}-dirty" if head and dirty else head or None


def device_name(device: torch.device) -> str:
    """As its maker calls a GPU; "cpu" otherwise."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
