"""Counts what Triton would compile over a schedule of options and batches, and compiles nothing.

Run as a script, for Triton's compiler and its interpreter cannot share a process. Prints one JSON
line a schedule: its name, the kernels of its first step, and those of all of its steps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
import triton
from compile_triton import Target
from triton.runtime import driver
from triton_launches import amd_launches

from amd_fused.losses._common.triton.launch import FUSED_MULTIPLY_ADD

# One map of each form: C_S, C_T, H, W.
LAYERS = [(12, 20, 7, 7), (20, 16, 56, 56), (3, 2, 67, 131)]
# Batches that differ in whether 16 divides them, and in nothing that chooses a form or its blocks.
BATCHES = (48, 37, 33)
# Every schedule begins with its part switched on, and margins keep their polynomial's length: what
# is off and how long a sum is belongs to the program.
SCHEDULES: dict[str, list[dict[str, Any]]] = {
    "margin": [{"margin": m} for m in (1.35, 1.34, 1.36)],
    "scale": [{"scale": s} for s in (64.0, 1.0, 32.5)],
    "eps": [{"eps": e} for e in (1e-6, 0.0, 1.0)],
    "local_weight": [{"local_weight": w} for w in (0.2, 1.0, 0.21)],
    "component_weights": [{"component_weights": w} for w in ((1.0, 1.0, 1.0), (2.0, 0.0, 16.0))],
    "mask_threshold": [{"mask_threshold": t} for t in (0.5, 1.0, 0.0)],
    "layer_weights": [{"layer_weights": w} for w in ((1.0, 1.0, 1.0), (0.1, 16.0, 0.0))],
    "margin past the polynomial": [{"margin": m} for m in (7.5, 8.0, 9.25)],
}


def compiled(batch: int, dtype: torch.dtype, options: dict[str, Any]) -> set[tuple[str, str]]:
    """What Triton would compile: each kernel with the key that it keeps it by."""
    asked = set()

    def skip(*, key: Any, fn: Any, **_: Any) -> bool:
        asked.add((fn.name, str(key)))
        return True

    triton.knobs.runtime.jit_cache_hook = skip
    for launch in amd_launches(batch, LAYERS, "nchw", dtype, **options):
        launch.kernel.warmup(
            *launch.args,
            grid=(launch.programs,),
            enable_fp_fusion=FUSED_MULTIPLY_ADD,
            **launch.constants,
        )
    return asked


def counts(dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    schedules = {name: [(BATCHES[0], step) for step in of] for name, of in SCHEDULES.items()}
    schedules["batch"] = [(batch, {}) for batch in BATCHES]
    for name, steps in schedules.items():
        kernels = [compiled(batch, dtype, step) for batch, step in steps]
        yield {"schedule": name, "first": len(kernels[0]), "all": len(set().union(*kernels))}


if __name__ == "__main__":
    driver.set_active(Target(90))
    for name in sys.argv[1:]:
        for row in counts(getattr(torch, name)):
            print(json.dumps({"dtype": name, **row}), flush=True)
