"""Processes that fill caches, killed or at once; run by test_teacher_cache_processes.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from killing import end, kill_at, start

from amd_fused.teacher_cache import files
from teacher_cache.cached_teachers import cache, loader, teacher

# Batches of the teacher, flushes to the disk and renamings, before and after: while the files are
# made, while the header is, in the first batch, and later.
EVENTS = [2, 13, 16, 23, 60]


def fill(folder: Path, seed: int, event: int = 0) -> None:
    """Flushes after every batch; kills itself at the event, 0: never. FOLDER.SEED gets the number
    of the teacher's passes."""
    passes = 0
    tick = kill_at(event)

    def run(*_: Any) -> None:
        nonlocal passes
        passes += 1
        tick()

    files.FLUSH_BYTES = 1
    model = teacher()
    model.register_forward_hook(run)
    with cache(folder, teacher=model) as kept:
        kept.fill(loader(seed))
    folder.with_suffix(f".{seed}").write_text(str(passes))


def passes(folder: Path, seed: int) -> int:
    return int(folder.with_suffix(f".{seed}").read_text())


def killed(folder: Path, event: int) -> dict[str, Any]:
    codes = end(start(lambda: fill(folder, 0, event)))
    shutil.copytree(folder, folder.with_suffix(".left"))
    codes += end(start(lambda: fill(folder, 0)))
    return {"codes": codes, "passes": passes(folder, 0)}


def at_once(folder: Path) -> dict[str, Any]:
    codes = end(start(lambda: fill(folder, 1)), start(lambda: fill(folder, 2)))
    codes += end(start(lambda: fill(folder, 3)))
    return {"codes": codes, "passes": [passes(folder, seed) for seed in (1, 2, 3)]}


def main(folder: Path) -> None:
    """Makes a cache FOLDER/EVENT for each of EVENTS, whose first process dies by SIGKILL at that
    event, and caches that two processes fill; prints as JSON what they did. Each filling is a
    process of its own."""
    found: dict[str, Any] = {str(event): killed(folder / str(event), event) for event in EVENTS}
    found["two"] = at_once(folder / "two")
    end(start(lambda: fill(folder / "half", 0, 30)))
    found["half"] = {"missing": cache(folder / "half").missing, **at_once(folder / "half")}
    print(json.dumps(found))
