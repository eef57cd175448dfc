"""Host side of the Triton AMD loss: from tensors and options to launches.

Forms (rules in `plan`) for one call of any number of layer pairs. F: bytes of all features; M:
bytes of one side's attention maps in the compute dtype, F's by itemsize and channels smaller.

fused    1 launch    F read; M written for each side that wants a gradient
split    2 launches  F read; 2 M written and read; M written for each gradient
chunked  6 launches  F read; 2 M written, and read by each of 5 passes; M written twice and read
         once for (5 without  each gradient. The passes work on a C-th of the features.
         gradients)

Layers of one form share its launches. Backward, any form: 1 launch; the features that want a
gradient and their M read once, the gradients written once. All of it is enqueued on the current
stream without looking at a result, so that a call can be captured in a CUDA graph after one warm-up
call (which compiles).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from amd_fused.kernels import amd_bwd, amd_chunks, amd_fwd, amd_series, plan

# More layers than this go into further launches: a kernel's code grows with its layers.
MAX_LAYERS = 8
# The interpreter has no device to ask: that of an H100.
INTERPRETER_MULTIPROCESSORS = 132


@dataclass
class Launch:
    """One kernel launch, kept as data so that tests can compile it for other devices."""

    kernel: Any
    programs: int
    args: tuple[Any, ...]
    constants: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        # Fusing multiplications with additions is the default of Triton up to 3.9 only.
        self.kernel[(self.programs,)](*self.args, enable_fp_fusion=True, **self.constants)


def run_all(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch.run()


def options(
    margin_polynomial: Sequence[float] | None,
    margin: float,
    scale: float,
    local_weight: float,
    released: bool,
    component_weights: Sequence[float],
    mask_threshold: float | None,
    eps: float,
    position_mean: bool,
    double: bool,
) -> tuple[Any, ...]:
    """OPTIONS of the kernels, which take them apart by number: every value is compiled in."""
    return (
        tuple(margin_polynomial) if margin_polynomial is not None else None,
        margin,
        scale,
        local_weight,
        released,
        tuple(component_weights),
        mask_threshold,
        eps,
        position_mean,
        amd_series.ATANH_64 if double else amd_series.ATANH_32,
        amd_series.ARCCOS_64 if double else amd_series.ARCCOS_32,
    )


def amd_fwd_triton(
    student: list[Tensor],
    teacher: list[Tensor],
    margin_polynomial: list[float] | None,
    margin: float,
    scale: float,
    local_weight: float,
    released: bool,
    component_weights: list[float],
    mask_threshold: float | None,
    layer_weights: list[float],
    eps: float,
    position_mean: bool,
    needs_grad: list[bool],
    submit: Callable[[Sequence[Launch]], None] = run_all,
) -> tuple[Tensor, list[Tensor]]:
    """The operator `amd_fwd` of amd_fused/_ops.py, which describes arguments and result."""
    layers, batch = len(student), student[0].shape[0]
    double = any(a.dtype == torch.float64 for a in [*student, *teacher])
    dtype = torch.float64 if double else torch.float32
    compiled = options(
        margin_polynomial, margin, scale, local_weight, released,
        component_weights, mask_threshold, eps, position_mean, double,
    )  # fmt: skip
    losses = student[0].new_empty(layers, batch, dtype=dtype)
    d_f: list[Tensor | None] = [
        a.new_empty(batch, a.shape[2] * a.shape[3], dtype=dtype) if needed else None
        for a, needed in zip([*student, *teacher], needs_grad, strict=True)
    ]
    pairs = [
        _Pair(row, a_s, a_t, d_f[row], d_f[layers + row], layer_weights[row], layers, double)
        for row, (a_s, a_t) in enumerate(zip(student, teacher, strict=True))
    ]
    launches: list[Launch] = []
    for first in range(0, layers, MAX_LAYERS):
        some = pairs[first : first + MAX_LAYERS]
        # Longest first: the device's tail is then made of short programs.
        some.sort(key=lambda p: -p.student.bytes_per_sample)
        by_form = {
            form: [p for p in some if p.form == form]
            for form in (plan.CHUNKED, plan.SPLIT, plan.FUSED)
        }
        with_maps = by_form[plan.CHUNKED] + by_form[plan.SPLIT]
        if with_maps:
            launches.append(_map_launch(with_maps, dtype))
        if by_form[plan.FUSED]:
            launches.append(_fused_launch(by_form[plan.FUSED], losses, compiled))
        if by_form[plan.SPLIT]:
            launches.append(_sample_launch(by_form[plan.SPLIT], losses, compiled))
        if by_form[plan.CHUNKED]:
            launches += _chunk_launches(by_form[plan.CHUNKED], losses, compiled)
    with _on_device(student[0].device):
        submit(launches)
    return losses.sum(0) if layers > 1 else losses[0].clone(), [a for a in d_f if a is not None]


def amd_bwd_triton(
    grad_loss: Tensor,
    features: list[Tensor],
    d_f: list[Tensor],
    submit: Callable[[Sequence[Launch]], None] = run_all,
) -> list[Tensor]:
    """The operator `amd_bwd` of amd_fused/_ops.py."""
    gradients = [torch.empty_like(a) for a in features]
    launches = []
    for first in range(0, len(features), MAX_LAYERS):
        some = slice(first, first + MAX_LAYERS)
        inputs = [_feature(a) for a in features[some]]
        outputs = [_feature(a) for a in gradients[some]]
        tiles = tuple(plan.bwd_tile(a, out) for a, out in zip(inputs, outputs, strict=True))
        programs = plan.running_total(
            [plan.bwd_programs(a, tile) for a, tile in zip(inputs, tiles, strict=True)]
        )
        launches.append(
            Launch(
                amd_bwd.amd_bwd_kernel,
                programs[-1],
                (
                    grad_loss,
                    grad_loss.stride(0),
                    tuple(features[some]),
                    tuple(gradients[some]),
                    tuple(a.strides for a in inputs),
                    tuple(a.strides for a in outputs),
                    tuple(a.shape[1:] for a in inputs),
                    tuple(d_f[some]),
                    programs,
                ),
                {"TILES": tiles, "num_warps": 8},
            )
        )
    with _on_device(grad_loss.device):
        submit(launches)
    return gradients


class _Pair:
    """One layer pair of a call: its tensors, form and tiles."""

    def __init__(
        self,
        row: int,
        a_s: Tensor,
        a_t: Tensor,
        d_f_s: Tensor | None,
        d_f_t: Tensor | None,
        weight: float,
        layers: int,
        double: bool,
    ) -> None:
        self.row, self.a_s, self.a_t, self.weight = row, a_s, a_t, weight
        self.d_f_s, self.d_f_t = d_f_s, d_f_t
        self.needs_grad = (d_f_s is not None, d_f_t is not None)
        self.student, self.teacher = student, teacher = _feature(a_s), _feature(a_t)
        multiprocessors = _multiprocessors(a_s.device)
        self.form = plan.form_of(student, teacher, layers, multiprocessors, double)
        self.batch = student.shape[0]
        self.maps: list[Tensor] = []
        self.map_tiles = [plan.map_tile(a, multiprocessors) for a in (student, teacher)]


def _map_launch(pairs: list[_Pair], dtype: torch.dtype) -> Launch:
    sides = [(a, f) for p in pairs for a, f in ((p.a_s, p.student), (p.a_t, p.teacher))]
    tiles = tuple(tile for p in pairs for tile in p.map_tiles)
    maps = tuple(
        a.new_empty(tile[3], a.shape[0], f.positions, dtype=dtype)
        for (a, f), tile in zip(sides, tiles, strict=True)
    )
    for number, pair in enumerate(pairs):
        pair.maps = list(maps[2 * number : 2 * number + 2])
    programs = plan.running_total(
        [plan.map_programs(f, tile) for (_, f), tile in zip(sides, tiles, strict=True)]
    )
    return Launch(
        amd_fwd.amd_map_fwd_kernel,
        programs[-1],
        (
            tuple(a for a, _ in sides),
            tuple(f.strides for _, f in sides),
            tuple(f.shape[1:] for _, f in sides),
            maps,
            programs,
            pairs[0].batch,
        ),
        {"TILES": tiles, "ACC": _triton_dtype(dtype), "num_warps": 4},
    )


def _fused_launch(pairs: list[_Pair], losses: Tensor, compiled: tuple[Any, ...]) -> Launch:
    tiles = tuple(plan.fused_tile(p.student, p.teacher) for p in pairs)
    largest = max(4 * tile[2] for tile in tiles)
    return Launch(
        amd_fwd.amd_fused_fwd_kernel,
        len(pairs) * pairs[0].batch,
        (
            tuple(p.a_s for p in pairs),
            tuple(p.a_t for p in pairs),
            tuple(p.student.strides for p in pairs),
            tuple(p.teacher.strides for p in pairs),
            tuple((p.student.shape[1], *p.teacher.shape[1:]) for p in pairs),
            tuple(p.d_f_s for p in pairs),
            tuple(p.d_f_t for p in pairs),
            losses,
            pairs[0].batch,
        ),
        {
            **_sample_constants(pairs, compiled),
            "TILES": tiles,
            "ACC": _triton_dtype(losses.dtype),
            "num_warps": plan.warps(largest),
        },
    )


def _sample_launch(pairs: list[_Pair], losses: Tensor, compiled: tuple[Any, ...]) -> Launch:
    tiles = tuple(
        (plan.quadrant_block(p.student), *(tile[3] for tile in p.map_tiles)) for p in pairs
    )
    return Launch(
        amd_fwd.amd_sample_fwd_kernel,
        len(pairs) * pairs[0].batch,
        (
            tuple(p.maps[0] for p in pairs),
            tuple(p.maps[1] for p in pairs),
            tuple(p.student.shape[2:] for p in pairs),
            tuple(p.d_f_s for p in pairs),
            tuple(p.d_f_t for p in pairs),
            losses,
            pairs[0].batch,
        ),
        {
            **_sample_constants(pairs, compiled),
            "TILES": tiles,
            "num_warps": plan.warps(max(4 * tile[0] for tile in tiles)),
        },
    )


def _chunk_launches(pairs: list[_Pair], losses: Tensor, compiled: tuple[Any, ...]) -> list[Launch]:
    blocks = [min(plan.CHUNK, plan.quadrant_block(p.student)) for p in pairs]
    tiles = tuple(
        (block, *(tile[3] for tile in p.map_tiles)) for p, block in zip(pairs, blocks, strict=True)
    )
    chunks = [plan.chunks(p.student, block) for p, block in zip(pairs, blocks, strict=True)]
    sums = tuple(
        tuple(losses.new_empty(p.batch, count, slots, 4) for slots in (2, 6, 6, 2))
        for p, count in zip(pairs, chunks, strict=True)
    )
    programs = plan.running_total([p.batch * c for p, c in zip(pairs, chunks, strict=True)])
    args = (
        tuple(p.maps[0] for p in pairs),
        tuple(p.maps[1] for p in pairs),
        tuple(p.student.shape[2:] for p in pairs),
        tuple(chunks),
        tuple(p.d_f_s for p in pairs),
        tuple(p.d_f_t for p in pairs),
        losses,
        sums,
        programs,
        pairs[0].batch,
    )
    constants = {**_sample_constants(pairs, compiled), "TILES": tiles, "num_warps": 4}
    wanted = any(any(p.needs_grad) for p in pairs)
    return [
        Launch(amd_chunks.amd_chunk_fwd_kernel, programs[-1], args, {**constants, "PASS": number})
        for number in range(5)
        if wanted or number != amd_chunks.SLOPE.value
    ]


def _sample_constants(pairs: list[_Pair], compiled: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "ROWS_OF_LOSSES": tuple(p.row for p in pairs),
        "LAYER_WEIGHTS": tuple(p.weight for p in pairs),
        "NEEDS_GRAD": tuple(p.needs_grad for p in pairs),
        "OPTIONS": compiled,
    }


def _feature(a: Tensor) -> plan.Feature:
    batch, channels, height, width = a.shape
    stride_b, stride_c, stride_h, stride_w = a.stride()
    return plan.Feature(
        (batch, channels, height, width), (stride_b, stride_c, stride_h, stride_w), a.element_size()
    )


def _triton_dtype(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32


_MULTIPROCESSORS: dict[torch.device, int] = {}


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETER_MULTIPROCESSORS
    if device not in _MULTIPROCESSORS:
        properties = torch.cuda.get_device_properties(device)
        _MULTIPROCESSORS[device] = properties.multi_processor_count
    return _MULTIPROCESSORS[device]


def _on_device(device: torch.device) -> Any:
    """Triton launches on the current device: make it the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else _NOTHING


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_exception: object) -> None: ...


_NOTHING = _Nothing()
