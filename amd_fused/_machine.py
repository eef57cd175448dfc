"""Which packages are installed, and which processor computes."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def version_of(package: str) -> str | None:
    """None where it is not installed. Looked for once in a process."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """As its maker calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()
