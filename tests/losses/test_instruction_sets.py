"""Every instruction set that the C++ kernels are compiled for computes the same, for every loss.

What a process has once chosen, it keeps: the widest here, each other in a process of its own. On a
machine that lacks one of them, its name stands for the widest there is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from amd_fused import (
    afd_loss,
    afds_loss,
    amd_loss,
    at_loss,
    backends,
    crd_loss,
    kd_loss,
    lsh_loss,
    nd_loss,
    sp_loss,
    spherical_kd_loss,
    vid_loss,
)

NARROWER = ("baseline", "avx2")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SAVE = "import sys, torch, test_instruction_sets as t; torch.save(t.everything(), sys.argv[1])"

needs_cpp = pytest.mark.skipif(backends()["cpp"] != "usable", reason=backends()["cpp"])


def everything() -> dict[str, list[Tensor]]:
    """The losses, and their gradients by both inputs, by what was computed."""
    return dict([*amd(), *kd(), *nd(), *lsh(), *afd(), *afds(), *at(), *sp(), *crd()])


def amd() -> Iterator[tuple[str, list[Tensor]]]:
    layouts = (torch.contiguous_format, torch.channels_last)
    for dtype, layout, size in product(DTYPES, layouts, ((7, 7), (3, 37))):
        pair = [draw((3, c, *size), dtype).to(memory_format=layout) for c in (19, 33)]
        for options in ({}, {"formula": "released", "margin": 9.3, "mask_threshold": 0.5}):
            result = losses(amd_loss, *pair, reduction="none", **options)
            yield f"amd {dtype} {layout} {size} {sorted(options)}", result


def kd() -> Iterator[tuple[str, list[Tensor]]]:
    for dtype, transposed in product(DTYPES, (False, True)):
        pair = [draw((3, 2100), dtype, seed) for seed in (0, 1)]
        if transposed:
            pair = [z.t().contiguous().t() for z in pair]
        name = f"{dtype} {transposed}"
        yield f"kd {name}", losses(kd_loss, *pair)
        # To a radius of 60, 2100 logits differ by about 1: a smaller one would leave little but
        # rounding in the loss.
        for norm, multiplier in (("std", None), ("std", 2.5), ("l2", None), ("l2", 60.0)):
            options = {"norm": norm, "multiplier": multiplier}
            yield f"skd {name} {options}", losses(spherical_kd_loss, *pair, **options)


def nd() -> Iterator[tuple[str, list[Tensor]]]:
    target = torch.tensor([4, 0, 2])
    for dtype, width in product(DTYPES, (5, 261)):
        pair = [draw((3, width), dtype, seed) for seed in (0, 1)]
        means = draw((6, width), torch.float32, 2)
        yield f"nd {dtype} {width}", losses(nd_loss, *pair, target, means)


def lsh() -> Iterator[tuple[str, list[Tensor]]]:
    for dtype, kind in product(DTYPES, ("bce", "l2", "l1")):
        pair = [draw((3, 21), dtype, seed) for seed in (0, 1)]
        planes = draw((77, 21), torch.float32, 2), draw((77,), torch.float32, 3)
        yield f"lsh {dtype} {kind}", losses(lsh_loss, *pair, *planes, kind=kind)


def afd() -> Iterator[tuple[str, list[Tensor]]]:
    """Channels in stripes and a rest, of two vectors and more; positions of two blocks."""
    layouts = (torch.contiguous_format, torch.channels_last)
    for dtype, layout, size in product(DTYPES, layouts, ((7, 7), (35, 37))):
        pair = [draw((3, 37, *size), dtype, seed).to(memory_format=layout) for seed in (0, 1)]
        attention = torch.ones(3, 1, 1)
        yield f"afd {dtype} {layout} {size}", losses(afd_loss, *pair, attention)


def afds() -> Iterator[tuple[str, list[Tensor]]]:
    layouts = (torch.contiguous_format, torch.channels_last)
    for dtype, layout, size in product(DTYPES, layouts, ((7, 7), (3, 5))):
        pair = [draw((3, 19, *size), dtype, seed).to(memory_format=layout) for seed in (0, 1)]
        importance = draw((3, 19), torch.float32, 2).softmax(1)
        yield f"afds {dtype} {layout} {size}", losses(afds_loss, *pair, importance)
        yield f"vid {dtype} {layout} {size}", losses(vid_loss, *pair, importance[0])


def at() -> Iterator[tuple[str, list[Tensor]]]:
    for dtype in DTYPES:
        pair = [draw((3, c, 9, 5), dtype) for c in (19, 33)]
        yield f"at {dtype}", losses(at_loss, *pair)


def sp() -> Iterator[tuple[str, list[Tensor]]]:
    for dtype, transposed in product(DTYPES, (False, True)):
        pair = [draw((11, width), dtype) for width in (1100, 50)]
        if transposed:
            pair = [x.t().contiguous().t() for x in pair]
        # It has no option: the kernels run wherever they can.
        yield f"sp {dtype} {transposed}", losses(lambda s, t, backend: sp_loss(s, t), *pair)


def crd() -> Iterator[tuple[str, list[Tensor]]]:
    samples = torch.randint(30, (3, 50), generator=torch.Generator().manual_seed(4))
    for dtype, width in product(DTYPES, (16, 21)):
        pair = [draw((3, width), dtype, seed) / 8 for seed in (0, 1)]
        banks = [draw((30, width), torch.float32, seed) / 8 for seed in (2, 3)]
        found = losses(crd_loss, *pair, *banks, samples, torch.ones(2), temperature=0.5)
        yield f"crd {dtype} {width}", found


def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def losses(loss, student: Tensor, teacher: Tensor, *more: Tensor, **options) -> list[Tensor]:
    """The loss, and its gradients by those of the two inputs that it has any by."""
    student, teacher = student.requires_grad_(), teacher.requires_grad_()
    value = loss(student, teacher, *more, backend="cpp", **options)
    grads = torch.autograd.grad((1e3 * value).sum(), (student, teacher), allow_unused=True)
    return [value.detach(), *(grad for grad in grads if grad is not None)]


@needs_cpp
def test_every_instruction_set_gives_the_same_result(tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parents[1], here.parent / "support", here)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, str(tmp_path / isa)],
            env=os.environ | {"AMD_FUSED_CPU_ISA": isa, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for isa in NARROWER
    ]
    widest = everything()
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    baseline, *others = (*(torch.load(tmp_path / isa) for isa in NARROWER), widest)
    assert len(baseline) == 32 + 8 * 5 + 8 + 12 + 16 + 2 * 16 + 4 + 8 + 8
    for other in others:
        assert other.keys() == baseline.keys()
        for name, tensors in baseline.items():
            compute = torch.float64 if "float64" in name else torch.float32
            for value, same in zip(tensors, other[name], strict=True):
                assert value.dtype == same.dtype
                assert value.isfinite().all()
                # AMD's margin 9.3 turns an error of q by eps into m^2 eps; gradients are rounded
                # to their dtype last.
                tolerance = 100 * torch.finfo(compute).eps + torch.finfo(value.dtype).eps
                difference = (value.double() - same.double()).abs().max()
                assert difference <= tolerance * value.double().abs().max(), name
