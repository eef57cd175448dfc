"""What a result is worth nothing without: the machine, the versions, the commit and the date."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

import amd_fused

_HERE = Path(__file__).parent
# Where the operating system does not tell the size; large enough for most machines.
_ASSUMED_CACHE_BYTES = 64 * 2**20


def describe() -> dict[str, object]:
    """The record written into every result file."""
    return {
        "device": device_name(),
        "device_type": "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "amd_fused": amd_fused.__version__,
        "backends": {name: str(state) for name, state in amd_fused.backends().items()},
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def device_name() -> str:
    """The processor as its maker calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def last_level_cache_bytes() -> int:
    """Size of the largest cache that the cores share."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [0]
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = entry.read_text().strip()
        if text[:-1].isdigit() and text[-1] in units:
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes) or _ASSUMED_CACHE_BYTES


def commit() -> str | None:
    """The commit of this checkout, with "-dirty" where tracked files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    return f"{head}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else head


def file_stem(record: dict[str, object]) -> str:
    """Default name of a result file: device, threads and date, to the minute."""
    device = re.sub(r"[^a-z0-9]+", "-", str(record["device"]).lower()).strip("-")
    date = datetime.fromisoformat(str(record["date"])).strftime("%Y-%m-%d-%H%M")
    return f"{device}-{record['threads']}-threads-{date}"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_HERE, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
