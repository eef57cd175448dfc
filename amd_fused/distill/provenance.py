"""Which code a result is of."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import amd_fused

# Names the commit where the sources travel without their repository.
_COMMIT_VARIABLE = "AMD_FUSED_COMMIT"


@cache
def commit() -> str | None:
    """The commit of this package's own checkout, "-dirty" where tracked files differ from it.

    None where it is installed elsewhere, also where that lies in some other repository. Asked for
    once: what a process has imported stays what it is when the checkout moves on.
    """
    root = Path(amd_fused.__file__).resolve().parents[1]
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root:
        return os.environ.get(_COMMIT_VARIABLE)
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}-dirty" if head and dirty else head or None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
