"""Host side of the Triton AMD loss: from tensors and options to launches.

Forms (rules in `plan`) for one call of any number of layer pairs. F: bytes of all features; M:
bytes of one side's attention maps in the compute dtype, F's by itemsize and channels smaller.

fused    1 launch    F read; M written for each side that wants a gradient
split    2 launches  F read; 2 M written and read; M written for each gradient
chunked  6 launches  F read; 2 M written, and read by each of 5 passes; M written twice and read
         once for each gradient (without gradients 5 launches). The passes work on a C-th of the
         features.

Layers of one form share its launches. Backward, any form: 1 launch; the features that want a
gradient and their M read once, the gradients written once. All of it is enqueued on the current
stream without looking at a result, so that a call can be captured in a CUDA graph after one warm-up
call (which compiles). A call like one before replays that one's launches
(_common/triton/replay.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from amd_fused.losses._common.triton.launch import Launch, Submit, on_device, run_all
from amd_fused.losses._common.triton.replay import Replays, described
from amd_fused.losses.amd.options import Operands
from amd_fused.losses.amd.triton import backward, plan
from amd_fused.losses.amd.triton.launches import (
    Options,
    Pair,
    chunk_launches,
    columns,
    feature,
    fused_launch,
    map_launch,
    options,
    sample_launch,
)

# More layers than this go into further launches: a kernel's code grows with its layers.
MAX_LAYERS = 8
REPLAYS = Replays()


def amd_fwd_triton(
    student: list[Tensor],
    teacher: list[Tensor],
    operands: Operands,
    needs_grad: list[bool],
    submit: Submit = run_all,
    replays: Replays | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The operator `amd_fwd` of losses/amd/operator.py, which describes arguments and result.

    Launches of another ``submit`` are replayed only if it comes with its own ``replays``.
    """
    if replays is None:
        replays = REPLAYS if submit is run_all else Replays()
    layers, features = len(student), [*student, *teacher]
    batch, device = student[0].shape[0], student[0].device
    double = any(a.dtype == torch.float64 for a in features)
    dtype = torch.float64 if double else torch.float32
    losses = student[0].new_empty(layers, batch, dtype=dtype)
    d_f: list[Tensor | None] = [
        a.new_empty(batch, a.shape[2] * a.shape[3], dtype=dtype) if needed else None
        for a, needed in zip(features, needs_grad, strict=True)
    ]
    # The polynomial is one of the margin.
    _, margin, scale, local_weight, released, components, threshold, weights, *others = operands
    call = (
        *("forward", device, margin, scale, local_weight, released, *components),
        *(threshold, *weights, *others, *needs_grad),
        *map(described, features),
    )
    tensors = [*features, losses, *d_f]
    with on_device(device):
        if not replays.run(call, tensors):
            chosen = options(operands, double)
            pairs = [
                Pair(row, a_s, a_t, d_f[row], d_f[layers + row], weights[row], layers, double)
                for row, (a_s, a_t) in enumerate(zip(student, teacher, strict=True))
            ]
            launches = _forward_launches(pairs, losses, chosen)
            replays.record(call, launches, submit(launches), tensors)
    return losses.sum(0) if layers > 1 else losses[0].clone(), [a for a in d_f if a is not None]


def _forward_launches(pairs: list[Pair], losses: Tensor, chosen: Options) -> list[Launch]:
    launches: list[Launch] = []
    for first in range(0, len(pairs), MAX_LAYERS):
        some = pairs[first : first + MAX_LAYERS]
        # Longest first: the device's tail is then made of short programs.
        some.sort(key=lambda p: -p.student.bytes_per_sample)
        by_form = {
            form: [p for p in some if p.form == form]
            for form in (plan.CHUNKED, plan.SPLIT, plan.FUSED)
        }
        with_maps = by_form[plan.CHUNKED] + by_form[plan.SPLIT]
        if with_maps:
            launches.append(map_launch(with_maps, losses.dtype))
        if by_form[plan.FUSED]:
            launches.append(fused_launch(by_form[plan.FUSED], losses, chosen))
        if by_form[plan.SPLIT]:
            launches.append(sample_launch(by_form[plan.SPLIT], losses, chosen))
        if by_form[plan.CHUNKED]:
            launches += chunk_launches(by_form[plan.CHUNKED], losses, chosen)
    return launches


def amd_bwd_triton(
    grad_loss: Tensor,
    features: list[Tensor],
    d_f: list[Tensor],
    submit: Submit = run_all,
    replays: Replays | None = None,
) -> list[Tensor]:
    """The operator `amd_bwd` of amd_fused/losses/amd/operator.py."""
    if replays is None:
        replays = REPLAYS if submit is run_all else Replays()
    gradients = [torch.empty_like(a) for a in features]
    tensors = [grad_loss, *features, *gradients, *d_f]
    call = ("backward", grad_loss.device, *map(described, tensors))
    with on_device(grad_loss.device):
        if not replays.run(call, tensors):
            launches = [
                _backward_launch(grad_loss, features[some], gradients[some], d_f[some])
                for first in range(0, len(features), MAX_LAYERS)
                for some in [slice(first, first + MAX_LAYERS)]
            ]
            replays.record(call, launches, submit(launches), tensors)
    return gradients


def _backward_launch(
    grad_loss: Tensor, features: list[Tensor], gradients: list[Tensor], d_f: list[Tensor]
) -> Launch:
    inputs, outputs = [feature(a) for a in features], [feature(a) for a in gradients]
    tiles = tuple(plan.bwd_tile(a, out) for a, out in zip(inputs, outputs, strict=True))
    programs = plan.running_total(
        [plan.bwd_programs(a, tile) for a, tile in zip(inputs, tiles, strict=True)]
    )
    return Launch(
        backward.amd_bwd_kernel,
        programs[-1] * grad_loss.shape[0],
        (
            grad_loss,
            grad_loss.stride(0),
            tuple(features),
            tuple(gradients),
            tuple(a.strides for a in inputs),
            tuple(a.strides for a in outputs),
            tuple(a.shape[1:] for a in inputs),
            tuple(d_f),
            programs,
            grad_loss.shape[0],
        ),
        {**columns(("BLOCKS_N", "BLOCKS_C", "FORMS", "ALIGNS"), tiles), "num_warps": 8},
    )
