"""Variants that the cases of several losses have: ours, the reference, the released code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import amd_fused
from amd_fused import _backends
from benchmarks.measure.subject import COMPILED, EAGER, Loss, Variant

# Fused backends by the type of the device.
FUSED = {"cpu": ("cpp",), "cuda": ("triton", "cuda")}


def variants(
    function: Loss,
    oracle: Loss,
    device: torch.device,
    among: tuple[str, ...],
    call: Callable[[Loss], Loss] = lambda loss: loss,
) -> list[Variant]:
    """Ours, the eager reference, and the reference compiled for these sizes alone.

    ``call`` makes a :data:`Loss` of a function that takes its tensors otherwise.
    """
    torch.compiler.reset()
    right = call(oracle)
    return [
        *ours(function, right, device, among, call),
        Variant(EAGER, "eager reference", right, right),
        Variant(COMPILED, "torch.compile reference", call(compiled(oracle)), right, compiles=True),
    ]


def beside_released(
    function: Loss, released: Loss, oracle: Loss, ours: str = "torch"
) -> list[Variant]:
    """Ours where a backend is no choice of the call's; the peers are the released code's lines.

    ours: what it runs on, for the title.
    """
    torch.compiler.reset()
    peer = compiled(released)
    return [
        Variant("amd_fused", f"amd_fused ({ours})", function, oracle, peer=False),
        Variant(EAGER, "eager released style", released, oracle),
        Variant(COMPILED, "torch.compile released style", peer, oracle, compiles=True),
    ]


def compiled(loss: Loss, **options: Any) -> Loss:
    """By torch.compile, for these sizes alone. The first call makes it, so that what is left out
    for lack of time does not import the compiler."""
    made = cache(lambda: torch.compile(loss, dynamic=False, **options))
    return lambda *arguments: made()(*arguments)


def ours(
    function: Loss,
    oracle: Loss,
    device: torch.device,
    among: tuple[str, ...] = ("triton", "cuda", "cpp"),
    call: Callable[[Loss], Loss] = lambda loss: loss,
) -> list[Variant]:
    """The fused backends that can run here; first, as "amd_fused", the one that a plain call gets.

    With AMD_FUSED_BACKEND set, that one alone. ``among``: those that have kernels of this loss.
    """
    first = _backends.choose("benchmarks", "auto", device.type, among)
    made = [Variant("amd_fused", f"amd_fused ({first})", call(function), oracle, peer=False)]
    if os.environ.get(_backends.ENVIRONMENT_VARIABLE):
        return made
    states = amd_fused.backends()
    for name in FUSED.get(device.type, ()):
        if name in among and name != first and states[name] == "usable":
            loss = call(partial(function, backend=name))
            made.append(
                Variant(f"amd_fused_{name}", f"amd_fused ({name})", loss, oracle, peer=False)
            )
    return made


def of_tensors(function: Loss) -> Loss:
    """Of a function of one tensor a side, the same of lists that hold that one."""

    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor], *constants: Tensor) -> Tensor:
        (s,), (t,) = student, teacher
        return function(s, t, *constants)

    return loss


def of_layers(function: Loss) -> Loss:
    """Of a function that takes a list of what each layer has besides, the same of single ones."""

    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor], *constants: Tensor) -> Tensor:
        return function(student, teacher, list(constants))

    return loss
