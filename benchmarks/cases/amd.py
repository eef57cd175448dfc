"""Subject: the AMD loss, forward and backward, gradients to the student."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import amd_fused
from amd_fused import _backends
from benchmarks.cases import common
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
    compiled = torch.compile(amd_fused.reference.amd_loss, dynamic=False)
    paper = amd_fused.reference.amd_loss
    released = partial(amd_fused.reference.amd_loss, formula="released", local_weight=0.0)
    peers = [
        Variant(EAGER, "eager reference", paper, paper),
        Variant(COMPILED, "torch.compile reference", compiled, paper, compiles=True),
        Variant("released", "released style, global only", released_style, released),
    ]
    if device.type == "cuda":
        mode = "max-autotune-no-cudagraphs"
        autotuned = torch.compile(paper, dynamic=False, mode=mode)
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
        Variant("attention", title, term, plain_at, peer=False, part=ATTENTION),
        Variant("at", "plain AT loss, attention part", plain_at, plain_at, part=ATTENTION),
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


def plain_at(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Attention transfer: mean squared difference of ``normalize(mean_c A^2)``, mean over layers.

    In float32 at least, as autocast has ``pow`` computed on a GPU.
    """

    def attention(a: Tensor) -> Tensor:
        wide = a.to(torch.promote_types(a.dtype, torch.float32))
        return F.normalize(wide.pow(2).mean(1).flatten(1), dim=1)

    pairs = zip(student, teacher, strict=True)
    return torch.stack([F.mse_loss(attention(a_s), attention(a_t)) for a_s, a_t in pairs]).mean()


def released_style(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The global loss, ``formula="released"``, by the kind of operations the authors' code uses.

    ``abs`` and ``pow`` for the square, ``acos`` behind a clamp, probabilities by ``exp``, their
    logarithms again for each term; layer by layer, then the mean. The negative map is cast to
    float32 whatever the input; at a scale of 90 or more, and in float16, ``exp`` overflows.
    """
    losses = [_released_pair(a_s, a_t) for a_s, a_t in zip(student, teacher, strict=True)]
    return torch.stack(losses).mean()


def _released_pair(a_s: Tensor, a_t: Tensor) -> Tensor:
    pairs = zip(_released_terms(a_s), _released_terms(a_t), strict=True)
    # Eq. 7: a mean squared error for each of the three terms.
    return torch.stack([F.mse_loss(x_s, x_t) for x_s, x_t in pairs]).mean()


def _released_terms(a: Tensor, margin: float = 1.35, scale: float = 64.0) -> list[Tensor]:
    f = torch.sum(torch.pow(torch.abs(a), 2), dim=1, keepdim=True)  # Eq. 4
    q = torch.div(f, torch.norm(f, dim=(2, 3), keepdim=True) + 1e-6).flatten(1)
    theta = torch.acos(torch.clamp(q, -1.0 + 1e-7, 1.0 - 1e-7))
    logit = scale * torch.cos(margin * theta)
    positive, negative = torch.exp(logit), torch.exp(scale * (1 - q).float())
    g = logit - torch.log(positive + negative)  # Eq. 6
    return [F.normalize(x, dim=1) for x in (g, torch.log(positive), torch.log(negative))]
