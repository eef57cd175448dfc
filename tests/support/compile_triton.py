"""Compiles, for one GPU architecture and without a GPU, every launch that the dispatchers make.

Run as a script, for Triton's compiler and its interpreter cannot share a process:
`python compile_triton.py 90 [case ...]` prints one JSON line a kernel: registers, shared
memory, spill bytes, barriers, and the widths in bytes of loads and stores. The launches come from
the dispatchers themselves (`amd_fwd_triton` and its like), over tensors without data. What was
compiled stays in Triton's cache in the checkout's build folder, for other tests and processes, and
beside it what ptxas said of it: Triton's key of a kernel holds Triton itself. A case is a
shape of the AMD loss (SHAPES, EDGES) or a name of ROW_LOSSES; without one, SHAPES and ROW_LOSSES.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from amd_fused.losses._common.triton.launch import FUSED_MULTIPLY_ADD, Launch
from amd_fused.losses.afds import triton as afds
from amd_fused.losses.amd.options import AMDOptions, operands
from amd_fused.losses.amd.triton import launcher as amd
from amd_fused.losses.attention_map import triton as attention_map
from amd_fused.losses.kd.triton import launcher as kd
from amd_fused.losses.lsh import triton as lsh
from amd_fused.losses.nd import triton as nd

CACHE = Path(__file__).parents[2] / "build" / "triton-cache"

# DESIGN's benchmark shapes and the largest map: B, then (C_S, C_T, H, W) a layer.
SHAPES = {
    "cifar-wrn": (128, [(16, 48, 32, 32), (32, 96, 16, 16), (64, 192, 8, 8)]),
    "imagenet-resnet": (
        256,
        [(64, 64, 56, 56), (128, 128, 28, 28), (256, 256, 14, 14), (512, 512, 7, 7)],
    ),
    "detection": (4, [(256, 256, 200, 336), (256, 256, 100, 168), (256, 256, 50, 84)]),
    "512x512": (2, [(16, 24, 512, 512)]),
}
# Every size that can be 1, which Triton makes a constant of the program, in all three forms.
EDGES = {
    "one-sample": (1, [(20, 16, 56, 56), (12, 20, 7, 7), (3, 2, 67, 131)]),
    "one-channel": (1, [(1, 1, 56, 56), (1, 1, 7, 7), (1, 1, 67, 131)]),
    "one-large-map": (1, [(1, 1, 67, 131)]),
    "two-rows": (1, [(4, 1, 2, 40), (1, 3, 40, 2), (1, 1, 2, 2), (700, 1, 2, 2)]),
    "one-row": (1, [(4, 1, 1, 40), (1, 3, 40, 1), (1, 1, 1, 1), (700, 1, 1, 1)]),
}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def amd_launches(
    batch: int,
    layers: Sequence[tuple[int, int, int, int]],
    layout: str,
    dtype: torch.dtype,
    **options: Any,
) -> list[Launch]:
    """Of one forward and backward pass of layers (C_S, C_T, H, W), gradients to the student;
    ``options``: of amd_loss."""
    collected: list[Launch] = []

    def features(side: int) -> list[torch.Tensor]:
        return [
            torch.empty(batch, layer[side], *layer[2:], dtype=dtype, device="meta").contiguous(
                memory_format=LAYOUTS[layout]
            )
            for layer in layers
        ]

    students, teachers, count = features(0), features(1), len(layers)
    _, d_f = amd.amd_fwd_triton(
        students,
        teachers,
        operands(AMDOptions(**options), students + teachers),
        [True] * count + [False] * count,
        submit=collected.extend,
    )
    upstream = d_f[0].new_empty(batch)
    amd.amd_bwd_triton(upstream, students, d_f, submit=collected.extend)
    return collected


def ptxas_log(ptx: str, capability: int) -> str:
    """Of ptxas itself: Triton before 3.5 keeps what it says, and so does a kernel of the cache."""
    architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as source:
        source.write(ptx)
        source.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={architecture}"]
        command += ["-o", os.devnull, source.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def kept_log(kernel: Any, log: str, capability: int) -> str:
    """What ptxas said of a kernel, kept for those who find the kernel in the cache."""
    path = CACHE / f"{kernel.hash}.ptxas"
    if not log and path.exists():
        return path.read_text()
    log = log or ptxas_log(kernel.asm["ptx"], capability)
    # In one step, for other processes may write the same file.
    with tempfile.NamedTemporaryFile("w", dir=CACHE, delete=False) as unfinished:
        unfinished.write(log)
    os.replace(unfinished.name, path)
    return log


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


Described = Iterator[tuple[dict[str, Any], list[Launch]]]


def amd_cases(shape: str) -> Described:
    batch, layers = (SHAPES | EDGES)[shape]
    dtypes = {"float32": torch.float32} if shape in EDGES else DTYPES
    # A map of one row or column has no local part.
    local_weight = 0.2 if all(min(layer[2:]) > 1 for layer in layers) else 0.0
    for layout in LAYOUTS:
        for name, dtype in dtypes.items():
            case = {"loss": "amd", "shape": shape, "layout": layout, "dtype": name}
            yield case, amd_launches(batch, layers, layout, dtype, local_weight=local_weight)


def kd_cases() -> Described:
    """Short, aligned and odd rows, the longest in registers, rows in blocks, one row of one class
    and of two; gradients to the student, and to both sides where the radius is fixed."""
    for width, dtype, norm, multiplier in (
        (100, torch.float32, 0, None),
        (1000, torch.float32, 0, None),
        (1000, torch.bfloat16, 1, None),
        (8192, torch.float32, 1, 5.0),
        (21841, torch.float32, 0, None),
        (21841, torch.float32, 1, 5.0),
        (21841, torch.bfloat16, 2, None),
        (2048, torch.float64, 1, 5.0),
        (21841, torch.float64, 1, None),
        (1, torch.float32, 0, None),
        (2, torch.float32, 1, 5.0),
    ):
        collected: list[Launch] = []
        z = torch.empty(256 if width > 2 else 1, width, dtype=dtype, device="meta")
        numbers = torch.tensor([4.0, multiplier or 0.0], dtype=torch.float64)
        loss, rows = kd.kd_fwd_triton(
            z, z, numbers, norm, multiplier is not None, submit=collected.extend
        )
        both = multiplier is not None
        kd.kd_bwd_triton(loss, z, z, rows, numbers, True, both, submit=collected.extend)
        case = {"loss": "kd", "width": width, "dtype": str(dtype).removeprefix("torch.")}
        yield case | {"norm": norm, "multiplier": multiplier}, collected


def nd_cases() -> Described:
    """Rows of a block or several, narrower ones and one of one number; gradients to the student,
    and to both sides."""
    for width, dtype, both in (
        (512, torch.float32, False),
        (2048, torch.float32, True),
        (2048, torch.bfloat16, False),
        (100, torch.bfloat16, True),
        (2048, torch.float64, True),
        (1, torch.float32, True),
    ):
        collected: list[Launch] = []
        batch, classes = (256, 1000) if width > 1 else (1, 1)
        a = torch.empty(batch, width, dtype=dtype, device="meta")
        target = torch.empty(batch, dtype=torch.int64, device="meta")
        means = torch.empty(classes, width, device="meta")
        inputs = (a, a, target, means)
        loss, slopes = nd.nd_fwd_triton(*inputs, submit=collected.extend)
        upstream = loss[:1].expand(batch)  # as of a mean
        nd.nd_bwd_triton(upstream, *inputs, slopes, [True, both], submit=collected.extend)
        yield {"loss": "nd", "width": width, "dtype": str(dtype).removeprefix("torch.")}, collected


def lsh_cases() -> Described:
    """Several blocks of hashes, less than one and a single hash; with the gradient and without."""
    for hashes, dtype, biased in (
        (8192, torch.float32, True),
        (8192, torch.float32, False),
        (100, torch.float32, True),
        (2048, torch.float64, True),
        (1, torch.float32, True),
    ):
        collected: list[Launch] = []
        values = torch.empty(256 if hashes > 1 else 1, hashes, dtype=dtype, device="meta")
        bias = values[0] if biased else None
        for needs_grad in (True, False):
            lsh.lsh_bce_triton(values, values, bias, needs_grad, submit=collected.extend)
        case = {"loss": "lsh", "width": hashes, "dtype": str(dtype).removeprefix("torch.")}
        yield case, collected


def attention_map_cases() -> Described:
    """Rows and pixels of whole 16-byte words and of single numbers; channels of one program, and
    shared out over several; sizes of one."""
    for shape, dtype, in_double in (
        ((128, 48, 32, 32), torch.float32, False),
        ((128, 48, 32, 32), torch.bfloat16, False),
        ((128, 64, 8, 8), torch.float16, True),
        ((128, 64, 8, 8), torch.float64, True),
        ((2, 512, 8, 8), torch.float32, False),
        ((2, 512, 8, 8), torch.float64, True),
        ((2, 512, 7, 7), torch.bfloat16, False),
        ((1, 1, 1, 1), torch.float32, True),
    ):
        for layout, memory_format in LAYOUTS.items():
            collected: list[Launch] = []
            a = torch.empty(shape, dtype=dtype, device="meta").contiguous(
                memory_format=memory_format
            )
            attention_map.attention_map_triton(a, in_double, submit=collected.extend)
            case = {"loss": "attention_map", "layout": layout, "width": shape[-1]}
            yield case | {"dtype": str(dtype).removeprefix("torch.")}, collected


def afds_cases() -> Described:
    """Rows and pixels of whole 16-byte words and of single numbers; channels of one tile, and of
    several; strides that no two axes share; sizes of one; gradients to the student, and to both."""
    for shape, dtype, both in (
        ((128, 64, 8, 8), torch.float32, False),
        ((128, 64, 8, 8), torch.bfloat16, True),
        ((32, 64, 56, 56), torch.float32, True),
        ((32, 64, 56, 56), torch.float64, True),
        ((32, 512, 7, 7), torch.float16, False),
        ((1, 1, 1, 1), torch.float32, True),
    ):
        for layout in (*LAYOUTS, "window"):
            collected: list[Launch] = []
            a = torch.empty(shape, dtype=dtype, device="meta")
            if layout == "window":
                larger = a.new_empty(*shape[:2], shape[2] + 3, shape[3] + 3)
                a = larger[:, :, : shape[2], : shape[3]]
            else:
                a = a.contiguous(memory_format=LAYOUTS[layout])
            distance, numbers = afds.afds_fwd_triton(a, a, 1e-6, submit=collected.extend)
            given = (distance, a, a, numbers, [True, both])
            afds.afds_bwd_triton(*given, submit=collected.extend)
            case = {"loss": "afds", "layout": layout, "width": shape[-1]}
            yield case | {"dtype": str(dtype).removeprefix("torch.")}, collected


# Losses on rows and channels and the attention map, by the stem of their files: the launches to
# compile, each list with what names it.
ROW_LOSSES: dict[str, Callable[[], Described]] = {
    "kd": kd_cases,
    "nd": nd_cases,
    "lsh": lsh_cases,
    "afds": afds_cases,
    "attention_map": attention_map_cases,
}


def compiled(capability: int, cases: Sequence[str]) -> Iterator[dict[str, Any]]:
    driver.set_active(Target(capability))
    triton.knobs.nvidia.dump_ptxas_log = True
    seen = set()
    for name in cases:
        described = ROW_LOSSES[name]() if name in ROW_LOSSES else amd_cases(name)
        for case, launches in described:
            for launch in launches:
                with contextlib.redirect_stdout(io.StringIO()) as log:
                    kernel = launch.kernel.warmup(
                        *launch.args,
                        grid=(launch.programs,),
                        enable_fp_fusion=FUSED_MULTIPLY_ADD,
                        **launch.constants,
                    )
                if kernel.hash in seen:
                    continue
                seen.add(kernel.hash)
                ptx = kernel.asm["ptx"]
                registers, spills = resources(kept_log(kernel, log.getvalue(), capability))
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
