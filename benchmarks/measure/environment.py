"""What a result is worth nothing without: the machine, the versions, the commit and the date."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib import util
from pathlib import Path
from typing import Any

import torch

import amd_fused
from amd_fused._machine import processor, version_of
from amd_fused.distill import provenance

CPU = torch.device("cpu")
# Where the operating system does not tell the size; large enough for most machines.
_ASSUMED_CACHE_BYTES = 64 * 2**20


def describe(device: torch.device = CPU) -> dict[str, Any]:
    """The record written into every result file."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "cuda": _cuda(device) if device.type == "cuda" else None,
        "processor": device_name(CPU),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": last_level_cache_bytes(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "amd_fused": amd_fused.__version__,
        "backends": {name: str(state) for name, state in amd_fused.backends().items()},
        "commit": provenance.commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def device_name(device: torch.device = CPU) -> str:
    """The processor or the GPU as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()


def last_level_cache_bytes(device: torch.device = CPU) -> int:
    """Size of the largest cache that the cores, or a GPU's multiprocessors, share."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [0]
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = entry.read_text().strip()
        if text[:-1].isdigit() and text[-1] in units:
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes) or _ASSUMED_CACHE_BYTES


def file_stem(record: dict[str, Any]) -> str:
    """Default name of a result file: device, threads (of a CPU) and date, to the minute."""
    device = re.sub(r"[^a-z0-9]+", "-", str(record["device"]).lower()).strip("-")
    date = datetime.fromisoformat(str(record["date"])).strftime("%Y-%m-%d-%H%M")
    threads = f"{record['threads']}-threads-" if record["device_type"] == "cpu" else ""
    return f"{device}-{threads}{date}"


def has(package: str) -> bool:
    """Whether an optional package is installed."""
    return util.find_spec(package) is not None


def _cuda(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "runtime": torch.version.cuda,
        "driver": _driver(),
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str:
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
