"""Triton's attention map: amd's map kernel, which stores square roots.

One launch, which reads the features once. Where positions and samples alone would leave
multiprocessors idle, the channels are shared out over programs too, and a second launch adds up
their sums.
"""

from __future__ import annotations

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
from amd_fused.losses._common.triton.replay import Replays, described
from amd_fused.losses.amd.triton import launches, plan
from amd_fused.losses.amd.triton.attention_map import root

REPLAYS = Replays()


@triton.jit(do_not_specialize=["size"])
def attention_map_groups_kernel(
    sums,  # [GROUPS, size] in the compute dtype
    maps,  # [size]
    size,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The square root of the groups' sums, which are added in their order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = i < size
    f = tl.load(sums + i, mask=valid, other=0.0)
    for group in tl.static_range(1, GROUPS):
        f += tl.load(sums + group * size + i, mask=valid, other=0.0)
    tl.store(maps + i, root(f), mask=valid)


def attention_map_triton(
    features: Tensor, in_double: bool, submit: Submit = run_all, replays: Replays | None = None
) -> Tensor:
    """The operator `attention_map` of losses/attention_map/operator.py.

    Launches of another ``submit`` are replayed only if it comes with its own ``replays``.
    """
    if replays is None:
        replays = REPLAYS if submit is run_all else Replays()
    batch, _, height, width = features.shape
    dtype = torch.float64 if in_double else torch.float32
    maps = features.new_empty(batch, 1, height, width, dtype=dtype)
    call = ("forward", features.device, in_double, described(features))
    with on_device(features.device):
        if not replays.run(call, [features, maps]):
            made = _launches(features, maps)
            replays.record(call, made, submit(made), [features, maps])
    return maps


def _launches(features: Tensor, maps: Tensor) -> list[Launch]:
    device = features.device
    tile = plan.map_tile(launches.feature(features), multiprocessors_of(device))
    groups, size = tile[-1], maps.numel()
    if groups == 1:
        return [launches.launch_of_maps([features], [tile], [maps], root=True)]
    sums = maps.new_empty(groups, size)
    width = block(size)
    return [
        launches.launch_of_maps([features], [tile], [sums], root=False),
        Launch(
            attention_map_groups_kernel,
            triton.cdiv(size, width),
            (sums, maps, size),
            {"GROUPS": groups, "BLOCK": width, "num_warps": 4},
        ),
    ]
