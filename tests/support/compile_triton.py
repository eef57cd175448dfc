"""Compiles, for one GPU architecture and without a GPU, every launch that the dispatchers make.

Run as a script, for Triton's compiler and its interpreter cannot share a process:
`python compile_triton.py 90 [case ...]` prints one JSON line a kernel: registers, shared
memory, spill bytes, barriers, and the widths in bytes of loads and stores; cases are those of
triton_launches.py, without one all but EDGES. What was compiled stays in Triton's cache in the
checkout's build folder, for other tests and processes, and beside it what ptxas said of it:
Triton's key of a kernel holds Triton itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton_launches import ROW_LOSSES, SHAPES, described

from amd_fused.losses._common.triton.launch import FUSED_MULTIPLY_ADD, TRITON, Launch

CACHE = Path(__file__).parents[2] / "build" / "triton-cache"


class Target:
    """Stands where the driver of a device would: names the architecture, launches nothing."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0


def ptxas_log(ptx: str, capability: int) -> str:
    """Of ptxas itself, what Triton before 3.5 does not pass on."""
    architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as source:
        source.write(ptx)
        source.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={architecture}"]
        command += ["-o", os.devnull, source.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def kernel_and_log(launch: Launch, capability: int) -> tuple[Any, str]:
    """What a launch compiles to, and what ptxas said of it; kept for those who find the kernel in
    the cache."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        kernel = launch.kernel.warmup(
            *launch.args,
            grid=(launch.programs,),
            enable_fp_fusion=FUSED_MULTIPLY_ADD,
            **launch.constants,
        )
    path = CACHE / f"{kernel.hash}.ptxas"
    log = said.getvalue()
    if not log and path.exists():
        return kernel, path.read_text()
    if not log and TRITON < (3, 5):
        log = ptxas_log(kernel.asm["ptx"], capability)
    if not log:  # one of those compiled it that do not listen
        launch.kernel.device_caches.clear()
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.always_compile = True
            return kernel_and_log(launch, capability)
    # In one step, for other processes may write the same file.
    with tempfile.NamedTemporaryFile("w", dir=CACHE, delete=False) as unfinished:
        unfinished.write(log)
    os.replace(unfinished.name, path)
    return kernel, log


def resources(log: str) -> tuple[int, int]:
    """Registers, and the bytes that ptxas says it spills; a stack frame alone is not a spill."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if not registers or not spills:
        raise RuntimeError(f"ptxas said nothing of registers and spills: {log!r}")
    return int(registers[1]), int(spills[1]) + int(spills[2])


def widths(ptx: str, access: str) -> dict[str, int]:
    """How many instructions of a kind move so many bytes a thread."""
    counts: dict[str, int] = {}
    for vector, bits in re.findall(rf"{access}\.global(?:\.\w+)*?(?:\.v(\d))?\.b(\d+)", ptx):
        width = str(int(vector or 1) * int(bits) // 8)
        counts[width] = counts.get(width, 0) + 1
    return counts


def compiled(capability: int, cases: Sequence[str]) -> Iterator[dict[str, Any]]:
    driver.set_active(Target(capability))
    triton.knobs.nvidia.dump_ptxas_log = True
    seen = set()
    for name in cases:
        for case, launches in described(name):
            for launch in launches:
                kernel, log = kernel_and_log(launch, capability)
                if kernel.hash in seen:
                    continue
                seen.add(kernel.hash)
                ptx = kernel.asm["ptx"]
                registers, spills = resources(log)
                yield {
                    "triton": triton.__version__,
                    "capability": capability,
                    **case,
                    "kernel": launch.kernel.fn.__name__,
                    "pass": launch.constants.get("PASS"),
                    "registers": registers,
                    "shared_bytes": kernel.metadata.shared,
                    "spill_bytes": spills,
                    "barriers": len(re.findall(r"\bbar(?:rier)?\.", ptx)),
                    "loads": widths(ptx, "ld"),
                    "stores": widths(ptx, "st"),
                }


if __name__ == "__main__":
    CACHE.mkdir(parents=True, exist_ok=True)
    triton.knobs.cache.dir = str(CACHE)
    for row in compiled(int(sys.argv[1]), sys.argv[2:] or [*SHAPES, *ROW_LOSSES]):
        print(json.dumps(row), flush=True)
