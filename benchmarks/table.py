"""Result records as Markdown, readable in a terminal too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

_LEGEND = (
    "vs eager, vs compile: how many times faster, forward and backward together. "
    "x floor: that time over the time in which a plain copy moves the ideal bytes, or "
    "torch.mm computes the ideal FLOPs if that is longer. GFLOP/s: of these FLOPs. "
    "peak / gradient: memory allocated at the highest over the size of the gradients."
)
_CUDA_LEGEND = (
    "graph ms: forward and backward replayed in a CUDA graph, the GPU's time alone; % of copy: the "
    "floor over that. host ms: what a call takes the host. launches: kernels, copies and fills."
)
# Title and cell of each column; all but the first two need a variant that was timed.
Column = tuple[str, Callable[[dict[str, Any], dict[str, Any]], str]]
_TIMES: list[Column] = [
    ("forward ms", lambda v, case: _ms(v["forward_ms"]["median"])),
    ("fwd+bwd ms (quartiles)", lambda v, case: _spread(v["total_ms"])),
    ("vs eager", lambda v, case: _number(v["ratios"]["speedup_over_eager"])),
    ("vs compile", lambda v, case: _number(v["ratios"]["speedup_over_compile"])),
]
_CPU: list[Column] = [("x floor", lambda v, case: _number(v["ratios"]["times_floor"]))]
_CUDA: list[Column] = [
    ("graph ms", lambda v, case: _graph_ms(v["graph"])),
    ("% of copy", lambda v, case: _percent(v["graph"]["times_floor"])),
    ("launches", lambda v, case: str(v["launches"])),
    ("host ms", lambda v, case: f"{v['host_ms']['median']:.3f}"),
]
_PRODUCTS: list[Column] = [("GFLOP/s", lambda v, case: _gflops(v, case))]
_MEMORY: list[Column] = [
    ("peak / gradient", lambda v, case: f"{v['peak_extra_bytes'] / case['gradient_bytes']:.2f}")
]


def legend(device: torch.device) -> str:
    return f"{_LEGEND} {_CUDA_LEGEND}" if device.type == "cuda" else _LEGEND


def render_environment(machine: dict[str, Any]) -> str:
    """The machine, the versions, the commit and the date, in one line."""
    cuda = machine["cuda"]
    parts = [
        machine["device"],
        f"CUDA {cuda['runtime']}, driver {cuda['driver']}, triton {machine['triton']}"
        if cuda
        else f"{machine['threads']} of {machine['cores']} cores",
        f"torch {machine['torch']}",
        f"amd_fused {machine['amd_fused']}",
        f"commit {machine['commit']}",
        machine["date"],
    ]
    return ", ".join(parts)


def render_case(case: dict[str, Any]) -> str:
    """One case: a title, its floor, a row a variant, and why a variant has no figures."""
    floor = (
        f"floor {case['floor_ms']['total']:.3f} ms (forward {case['floor_ms']['forward']:.3f}): "
        f"{digits(case['ideal_bytes']['total'] / 1e6)} MB at a copy's "
        f"{case['copy']['bytes_per_second'] / 1e9:.1f} GB/s"
    )
    if case.get("flops"):
        speed = f"{case['product']['flops_per_second'] / 1e9:.0f} GFLOP/s"
        floor += f"; {digits(case['flops']['total'] / 1e9)} GFLOP at torch.mm's {speed}"
    rows = [(variant["title"], variant, case) for variant in case["variants"]]
    title = f"### {case['subject']}: {name(case)}"
    if case.get("note"):
        floor += f". {case['note']}"
    return "\n".join([title, "", floor, "", *_table("variant", rows), *_notes(case["variants"])])


def render_ours(cases: Sequence[dict[str, Any]]) -> str:
    """Our own variants of many cases in one table, a row each."""
    rows = [
        (f"{name(case)}: {variant['title'].removeprefix('amd_fused ')}", variant, case)
        for case in cases
        for variant in case["variants"]
        if not variant["peer"]
    ]
    return "\n".join(_table("amd_fused", rows))


def name(case: dict[str, Any]) -> str:
    """Of a case among others of its subject."""
    return f"{case['shape']}, {case['layout']}, {case['dtype']}"


def digits(value: float) -> str:
    """Three of them, zeros too, and all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".removesuffix(".")


def lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its columns as wide as they need to be."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [_line(row, widths) for row in [header, rule, *rows]]


def _table(first: str, named: Sequence[tuple[str, dict[str, Any], dict[str, Any]]]) -> list[str]:
    """A row for each (name, variant, case), its cells by what was measured where."""
    on_gpu = any(variant["graph"] for _, variant, _ in named)
    products = _PRODUCTS if all(case.get("flops") for _, _, case in named) else []
    columns = [*_TIMES, *(_CUDA if on_gpu else _CPU), *products, *_MEMORY]
    rows = [
        (name, *(cell(variant, case) for _, cell in columns))
        if variant["status"] == "ok"
        else (name, variant["status"], *["-"] * (len(columns) - 1))
        for name, variant, case in named
    ]
    return lines((first, *(title for title, _ in columns)), rows)


def _notes(variants: list[dict[str, Any]]) -> list[str]:
    """Behind an empty line: why a variant, or its graph, has no figures."""
    notes = []
    for variant in variants:
        graph = variant["graph"]
        if variant["status"] != "ok":
            notes.append(f"{variant['title']}: {variant['status']}, {variant['reason']}")
        elif graph and graph["status"] != "ok":
            notes.append(f"{variant['title']}, graph: {graph['status']}, {graph['reason']}")
    return ["", *notes] if notes else []


def _spread(ms: dict[str, Any]) -> str:
    places = _places(ms["median"])
    return f"{_ms(ms['median'])} ({ms['q1']:.{places}f}-{ms['q3']:.{places}f})"


def _ms(value: float) -> str:
    return f"{value:.{_places(value)}f}"


def _places(ms: float) -> int:
    return 2 if ms >= 1 else 3


def _graph_ms(graph: dict[str, Any]) -> str:
    return _spread(graph["total_ms"]) if graph["total_ms"] else graph["status"]


def _gflops(variant: dict[str, Any], case: dict[str, Any]) -> str:
    return f"{1e-6 * case['flops']['total'] / variant['total_ms']['median']:.0f}"


def _percent(times_floor: float | None) -> str:
    return "-" if times_floor is None else f"{100 / times_floor:.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join([first, *rest]) + " |"
