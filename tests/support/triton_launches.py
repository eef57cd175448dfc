"""Every launch that the dispatchers make, as data: over tensors without data, and none is launched.

The launches come from the dispatchers themselves (`amd_fwd_triton` and its like). A case is a shape
of the AMD loss (SHAPES, EDGES) or a name of ROW_LOSSES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from amd_fused.losses._common.triton.launch import Launch
from amd_fused.losses.afd import triton as afd
from amd_fused.losses.afds import triton as afds
from amd_fused.losses.amd.options import AMDOptions, operands
from amd_fused.losses.amd.triton import launcher as amd
from amd_fused.losses.attention_map import triton as attention_map
from amd_fused.losses.crd import triton as crd
from amd_fused.losses.kd.triton import launcher as kd
from amd_fused.losses.lsh import triton as lsh
from amd_fused.losses.nd import triton as nd

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
# Launches, each list with what names it.
Described = Iterator[tuple[dict[str, Any], list[Launch]]]


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


def amd_cases(shape: str, few: bool = False) -> Described:
    batch, layers = (SHAPES | EDGES)[shape]
    dtypes = {"float32": torch.float32} if shape in EDGES else DTYPES
    # A map of one row or column has no local part.
    local_weight = 0.2 if all(min(layer[2:]) > 1 for layer in layers) else 0.0
    for layout in LAYOUTS:
        for name, dtype in dtypes.items():
            if few and (layout, name) in (("nchw", "bfloat16"), ("channels_last", "float32")):
                continue
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


def kd_map_cases() -> Described:
    """Dense logits whose positions or whose classes lie side by side, all counted or not."""
    for classes, dtype, norm, channels_last in (
        (21, torch.float32, 0, False),
        (21, torch.bfloat16, 0, True),
        (150, torch.float32, 1, False),
        (19, torch.float64, 2, False),
    ):
        collected: list[Launch] = []
        shape = (4, 128 * 128, classes) if channels_last else (4, classes, 128 * 128)
        z = torch.empty(shape, dtype=dtype, device="meta")
        z = z.mT if channels_last else z
        counted = torch.empty(4, 128 * 128, dtype=torch.bool, device="meta")
        numbers = torch.tensor([4.0, 5.0], dtype=torch.float64)
        loss, rows = kd.kd_map_fwd_triton(
            z, z, counted, numbers, norm, norm == 1, submit=collected.extend
        )
        kd.kd_map_bwd_triton(loss, z, z, rows, numbers, True, norm == 1, submit=collected.extend)
        case = {"loss": "kd_map", "classes": classes, "dtype": str(dtype).removeprefix("torch.")}
        yield case | {"norm": norm, "channels_last": channels_last}, collected


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
            a = laid_out(torch.empty(shape, dtype=dtype, device="meta"), layout)
            distance, numbers = afds.afds_fwd_triton(a, a, 1e-6, submit=collected.extend)
            # VID's.
            afds.afds_fwd_triton(a, a, None, submit=collected.extend)
            given = (distance, a, a, numbers, [True, both])
            afds.afds_bwd_triton(*given, submit=collected.extend)
            case = {"loss": "afds", "layout": layout, "width": shape[-1]}
            yield case | {"dtype": str(dtype).removeprefix("torch.")}, collected


def afd_cases() -> Described:
    """Rows and pixels of whole 16-byte words and of single numbers; maps of one stretch, and of
    several; channels of one program, and shared out over several; sizes of one."""
    for shape, dtype, in_double in (
        ((128, 64, 8, 8), torch.float32, False),
        ((128, 64, 8, 8), torch.bfloat16, False),
        ((32, 64, 56, 56), torch.float32, False),
        ((32, 64, 56, 56), torch.float64, True),
        ((2, 512, 7, 7), torch.float16, True),
        ((1, 1, 1, 1), torch.float32, False),
    ):
        for layout in (*LAYOUTS, "window"):
            collected: list[Launch] = []
            a = laid_out(torch.empty(shape, dtype=dtype, device="meta"), layout)
            maps, means = afd.afd_fwd_triton([a], in_double, submit=collected.extend)
            afd.afd_bwd_triton([maps], [means], [a], submit=collected.extend)
            case = {"loss": "afd", "layout": layout, "width": shape[-1]}
            yield case | {"dtype": str(dtype).removeprefix("torch.")}, collected


def laid_out(a: torch.Tensor, layout: str) -> torch.Tensor:
    """A tensor of that shape: of a layout of LAYOUTS, or a window of a larger map."""
    if layout == "window":
        height, width = a.shape[2:]
        return a.new_empty(*a.shape[:2], height + 3, width + 3)[:, :, :height, :width]
    return a.contiguous(memory_format=LAYOUTS[layout])


def crd_cases() -> Described:
    """Rows of whole 16-byte words and of single numbers; a stretch and less; with the gradient."""
    for width, negatives, dtype, bank_dtype in (
        (128, 16384, torch.float32, torch.float32),
        (128, 16384, torch.float32, torch.bfloat16),
        (128, 4096, torch.float64, torch.float64),
        (50, 100, torch.float32, torch.float32),
        (1, 1, torch.float32, torch.float32),
    ):
        collected: list[Launch] = []
        batch, rows = (64, 50000) if width > 1 else (1, 1)
        a = torch.empty(batch, width, dtype=dtype, device="meta")
        bank = torch.empty(rows, width, dtype=bank_dtype, device="meta")
        samples = torch.empty(batch, 1 + negatives, dtype=torch.int64, device="meta")
        log_z, numbers = torch.empty(2, device="meta"), torch.tensor([0.07, 1e-7])
        given = (a, a, bank, bank, samples, log_z, numbers, [True, False])
        crd.crd_fwd_triton(*given, submit=collected.extend)
        yield {"loss": "crd", "width": width, "dtype": str(dtype).removeprefix("torch.")}, collected


# Losses on rows and channels and the attention map, by the stem of their files: the launches to
# compile, each list with what names it.
ROW_LOSSES: dict[str, Callable[[], Described]] = {
    "kd": kd_cases,
    "kd_map": kd_map_cases,
    "nd": nd_cases,
    "lsh": lsh_cases,
    "afd": afd_cases,
    "afds": afds_cases,
    "crd": crd_cases,
    "attention_map": attention_map_cases,
}


def described(case: str) -> Described:
    """The launches of a case; with ":few" behind it, of a shape one dtype a layout, of rows and
    channels what `_new` takes of them."""
    name, few = case.removesuffix(":few"), case.endswith(":few")
    if name not in ROW_LOSSES:
        return amd_cases(name, few)
    return _new(ROW_LOSSES[name]()) if few else ROW_LOSSES[name]()


def _new(cases: Described) -> Described:
    """Those with a kernel that none before has in that dtype, float32 or bfloat16, and layout."""
    seen = set()
    for case, launches in cases:
        dtype, layout = case["dtype"], case.get("layout")
        if dtype not in DTYPES or layout == "window":
            continue
        kernels = {(launch.kernel.fn.__name__, dtype, layout) for launch in launches}
        if not kernels <= seen:
            seen |= kernels
            yield case, launches
