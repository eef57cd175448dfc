"""Subject: the AMD loss, forward and backward, gradients to the student."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import amd_fused
from amd_fused import _backends
from benchmarks.cases import common, released
from benchmarks.cases.shapes import Shape
from benchmarks.measure.subject import (
    ATTENTION,
    AUTOTUNED,
    COMPILED,
    EAGER,
    Case,
    Inputs,
    Variant,
    input_sets,
)

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# The loss's weight in the objective.
_GAMMA = 5000.0


def case(shape: Shape, layout: str, dtype: torch.dtype, device: torch.device) -> Case:
    """The loss with its default options, and its peers, on features of one shape."""
    return Case(
        subject="amd",
        shape=shape.name,
        layout=layout,
        dtype=dtype,
        inputs=feature_sets(shape, layout, dtype, device),
        ideal=shape.ideal_bytes(dtype, device),
        variants=variants(device),
        weight=_GAMMA,
    )


def variants(device: torch.device) -> list[Variant]:
    """Ours and the peers of every table, each with what it has to agree with.

    The modes of torch.compile are those without CUDA graphs: the harness captures every variant in
    one itself, so that all are replayed alike.
    """
    # Kernels for this case's sizes alone, which is the peer's best; none left from the case before.
    torch.compiler.reset()
    paper = amd_fused.reference.amd_loss
    global_only = partial(amd_fused.reference.amd_loss, formula="released", local_weight=0.0)
    peers = [
        Variant(EAGER, "eager reference", paper, paper),
        Variant(COMPILED, "torch.compile reference", common.compiled(paper), paper, compiles=True),
        Variant("released", "released style, global only", released.amd, global_only),
    ]
    if device.type == "cuda":
        mode = "max-autotune-no-cudagraphs"
        autotuned = common.compiled(paper, mode=mode)
        title = "torch.compile max-autotune"
        peers.insert(2, Variant(AUTOTUNED, title, autotuned, paper, compiles=True))
    ours = common.ours(amd_fused.amd_loss, paper, device)
    return [*ours, *peers, *attention_part(device)]


def attention_part(device: torch.device) -> list[Variant]:
    """The second term of Eq. 7 alone, ours and in plain PyTorch: the same numbers."""
    backend = _backends.choose("benchmarks", "auto", device.type)
    term = partial(amd_fused.amd_loss, component_weights=(0.0, 3.0, 0.0), local_weight=0.0)
    title = f"amd_fused ({backend}), attention part"
    return [
        Variant("attention", title, term, released.plain_at, peer=False, part=ATTENTION),
        Variant(
            "at",
            "plain AT loss, attention part",
            released.plain_at,
            released.plain_at,
            part=ATTENTION,
        ),
    ]


def feature_sets(
    shape: Shape, layout: str, dtype: torch.dtype, device: torch.device
) -> list[Inputs]:
    """Sets of :func:`features`, as many as :func:`input_sets` says."""
    # An ideal forward pass reads one set once, so its bytes are the set's.
    sets = input_sets(shape.ideal_bytes(dtype, device).forward, device)
    return [features(shape, layout, dtype, device, seed) for seed in range(sets)]


def features(
    shape: Shape, layout: str, dtype: torch.dtype, device: torch.device, seed: int
) -> Inputs:
    """Random features whose attention maps have peaks, as those of trained networks have.

    Maps of plain noise are almost flat: student and teacher would differ by little above rounding.
    """
    generator = torch.Generator(device).manual_seed(seed)
    batch = shape.batch_on(device)
    draw_normal = partial(torch.randn, generator=generator, device=device)

    def draw(channels: int, height: int, width: int) -> Tensor:
        noise = draw_normal(batch, channels, height, width)
        peaks = draw_normal(batch, 1, height, width).mul(0.5).exp()
        return (noise * peaks).to(dtype).contiguous(memory_format=LAYOUTS[layout])

    return Inputs(
        student=[draw(p.c_student, p.height, p.width).requires_grad_() for p in shape.pairs],
        teacher=[draw(p.c_teacher, p.height, p.width) for p in shape.pairs],
    )
