"""Triton kernels of AFD: both means of a feature from one read of it, and its gradient.

Forward, a program goes through channels of a stretch of one sample's positions: it adds their
squares up by position, and stores each block's sums by channel. Where a map is longer than a
stretch, or positions and samples alone would leave multiprocessors idle and the channels are shared
out over programs too, one more launch adds up what they found. Bytes for [B, C, H, W] features,
forward: read once. Backward, one launch: read once, their gradient written once. Any strides: the
threads follow whichever of positions and channels is dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from amd_fused.losses._common.triton.launch import (
    Launch,
    Submit,
    block,
    multiprocessors_of,
    on_device,
    run_all,
)
from amd_fused.losses._common.triton.maps import offsets, strides, tile_of
from amd_fused.losses._common.triton.replay import Replays, described

# Programs that share the channels of a stretch at most.
_MOST_GROUPS = 16

# More than the kernel needs. Without a limit ptxas (CUDA 13) aims below that, and spills words.
_REGISTERS = {torch.float32: 128, torch.float64: 255}

REPLAYS = Replays()


@triton.jit(do_not_specialize=["batch"])
def afd_fwd_kernel(
    features,  # [B, C, H, W], any strides and dtype
    maps,  # [GROUPS, B, N] in the compute dtype
    means,  # [TILES, B, C] in the compute dtype
    batch,  # B
    channels,  # C
    positions,  # N = H W
    width,  # W
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    FLAT: tl.constexpr,
    TILES: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    group = tl.program_id(0) % GROUPS
    tile = tl.program_id(0) // GROUPS % TILES
    b = (tl.program_id(0) // GROUPS // TILES).to(tl.int64)
    dtype = maps.dtype.element_ty
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    at = features + b * stride_b + offsets(n[None, :], width, stride_h, stride_w, FLAT)
    means += (tile * batch + b) * channels
    squares = tl.zeros([BLOCK_C, BLOCK_N], dtype)
    for begin in range(group * BLOCK_C, channels, GROUPS * BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        mask = (c < channels)[:, None] & (n < positions)[None, :]
        a = tl.load(at + c.to(tl.int64)[:, None] * stride_c, mask=mask, other=0.0).to(dtype)
        squares += a * a
        total = tl.sum(a, 1)
        # Of several stretches, the sum is not the whole one yet.
        tl.store(means + c, total / positions if TILES == 1 else total, mask=c < channels)
    total = tl.sum(squares, 0)
    if GROUPS == 1:
        total /= channels
    tl.store(maps + (group * batch + b) * positions + n, total, mask=n < positions)


@triton.jit(do_not_specialize=["size"])
def afd_mean_kernel(
    sums,  # [PARTS, size] in the compute dtype
    means,  # [size]
    size,
    count,  # of what was added up
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The parts, which are added in their order, over the count."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = i < size
    at = sums + i
    total = tl.load(at, mask=valid, other=0.0)
    for _ in range(1, PARTS):
        at += size
        total += tl.load(at, mask=valid, other=0.0)
    tl.store(means + i, total / count, mask=valid)


@triton.jit
def afd_bwd_kernel(
    grad_maps,  # [B, N] in the compute dtype
    grad_means,  # [B, C] in the compute dtype
    features,  # [B, C, H, W], any strides and dtype
    grad,  # [B, C, H, W], strides of its own, dtype of the features
    channels,  # C
    positions,  # N = H W
    width,  # W
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    stride_gb,
    stride_gc,
    stride_gh,
    stride_gw,
    FLAT: tl.constexpr,
    FLAT_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles = tl.cdiv(positions, BLOCK_N)
    blocks = tl.cdiv(channels, BLOCK_C)
    unit = tl.program_id(0) // tiles
    b = (unit // blocks).to(tl.int64)
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = (unit % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (c < channels)[:, None] & (n < positions)[None, :]
    dtype = grad_maps.dtype.element_ty
    # derived: d map_i / d A_ci = 2 A_ci / C and d mean_c / d A_ci = 1 / N.
    factor = tl.load(grad_maps + b * positions + n, mask=n < positions, other=0.0) * 2 / channels
    shift = tl.load(grad_means + b * channels + c, mask=c < channels, other=0.0) / positions
    c = c.to(tl.int64)[:, None]
    at = features + b * stride_b + c * stride_c
    a = tl.load(at + offsets(n[None, :], width, stride_h, stride_w, FLAT), mask=mask, other=0.0).to(
        dtype
    )
    to = grad + b * stride_gb + c * stride_gc
    to += offsets(n[None, :], width, stride_gh, stride_gw, FLAT_G)
    tl.store(to, a * factor[None, :] + shift[:, None], mask=mask)


class _Plan(NamedTuple):
    """How the forward pass of a feature is shared out."""

    block_c: int
    block_n: int
    tiles: int  # stretches of positions
    groups: int  # of channels


def afd_fwd_triton(
    features: Sequence[Tensor],
    in_double: bool,
    submit: Submit = run_all,
    replays: Replays | None = None,
) -> list[Tensor]:
    """The operator `afd_fwd` of amd_fused/losses/afd/operator.py.

    Launches of another ``submit`` are replayed only if it comes with its own ``replays``.
    """
    replays = _replays(submit, replays)
    dtype = torch.float64 if in_double else torch.float32
    maps = [a.new_empty(a.shape[0], 1, *a.shape[2:], dtype=dtype) for a in features]
    means = [a.new_empty(a.shape[:2], dtype=dtype) for a in features]
    device = features[0].device
    call = ("forward", device, in_double, *map(described, features))
    tensors = [*features, *maps, *means]
    with on_device(device):
        if not replays.run(call, tensors):
            made = [
                launch
                for a, of_positions, of_channels in zip(features, maps, means, strict=True)
                for launch in _forward_launches(a, of_positions, of_channels)
            ]
            replays.record(call, made, submit(made), tensors)
    return [*maps, *means]


def afd_bwd_triton(
    grad_maps: Sequence[Tensor],
    grad_means: Sequence[Tensor],
    features: Sequence[Tensor],
    submit: Submit = run_all,
    replays: Replays | None = None,
) -> list[Tensor]:
    """The operator `afd_bwd` of amd_fused/losses/afd/operator.py."""
    replays = _replays(submit, replays)
    grads = [torch.empty_like(a) for a in features]
    device = features[0].device
    tensors = [*grad_maps, *grad_means, *features, *grads]
    call = ("backward", device, *map(described, tensors))
    with on_device(device):
        if not replays.run(call, tensors):
            given = zip(grad_maps, grad_means, features, grads, strict=True)
            made = [_backward_launch(*each) for each in given]
            replays.record(call, made, submit(made), tensors)
    return grads


def _replays(submit: Submit, replays: Replays | None) -> Replays:
    if replays is None:
        return REPLAYS if submit is run_all else Replays()
    return replays


def _forward_launches(a: Tensor, maps: Tensor, means: Tensor) -> list[Launch]:
    batch, channels, height, width = a.shape
    plan = _plan(a, maps.dtype)
    positions = height * width
    found_maps = maps if plan.groups == 1 else maps.new_empty(plan.groups, maps.numel())
    found_means = means if plan.tiles == 1 else means.new_empty(plan.tiles, means.numel())
    flat, *of = strides(a)
    launches = [
        Launch(
            afd_fwd_kernel,
            batch * plan.tiles * plan.groups,
            (a, found_maps, found_means, batch, channels, positions, width, *of),
            {
                "FLAT": flat,
                "TILES": plan.tiles,
                "GROUPS": plan.groups,
                "BLOCK_C": plan.block_c,
                "BLOCK_N": plan.block_n,
                "maxnreg": _REGISTERS[maps.dtype],
            },
        )
    ]
    if plan.groups > 1:
        launches.append(_mean(found_maps, maps, channels))
    if plan.tiles > 1:
        launches.append(_mean(found_means, means, positions))
    return launches


def _mean(sums: Tensor, means: Tensor, count: int) -> Launch:
    size = means.numel()
    width = block(size)
    return Launch(
        afd_mean_kernel,
        triton.cdiv(size, width),
        (sums, means, size, count),
        {"PARTS": sums.shape[0], "BLOCK": width},
    )


def _backward_launch(grad_map: Tensor, grad_means: Tensor, a: Tensor, grad: Tensor) -> Launch:
    batch, channels, height, width = a.shape
    block_c, block_n = tile_of(a, grad_map.dtype)
    (flat, *of), (flat_g, *of_g) = strides(a), strides(grad)
    positions = height * width
    return Launch(
        afd_bwd_kernel,
        batch * triton.cdiv(channels, block_c) * triton.cdiv(positions, block_n),
        (grad_map, grad_means, a, grad, channels, positions, width, *of, *of_g),
        {"FLAT": flat, "FLAT_G": flat_g, "BLOCK_C": block_c, "BLOCK_N": block_n},
    )


def _plan(a: Tensor, dtype: torch.dtype) -> _Plan:
    batch, channels, height, width = a.shape
    block_c, block_n = tile_of(a, dtype)
    tiles = triton.cdiv(height * width, block_n)
    groups = 1
    # Two programs a multiprocessor, while each has channels for several rounds.
    while (
        groups < _MOST_GROUPS
        and batch * tiles * groups < 2 * multiprocessors_of(a.device)
        and channels // (2 * groups) >= 2 * block_c
    ):
        groups *= 2
    return _Plan(block_c, block_n, tiles, groups)
