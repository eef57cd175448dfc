"""Result records as Markdown, readable in a terminal too: one table form for every command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Record = dict[str, Any]
# Title, and the cell of a variant that was timed, by its record and its case's.
Column = tuple[str, Callable[[Record, Record], str]]

_LEGENDS = {
    "losses": "vs eager, vs compile: how many times faster, forward and backward together. "
    "x floor: that time over the time in which a plain copy moves the ideal bytes, or "
    "torch.mm computes the ideal FLOPs if that is longer. GFLOP/s: of these FLOPs. "
    "peak / gradient: memory allocated at the highest over the size of the gradients.",
    "host": "us: microseconds of the host, medians; the device is idle when a call begins. "
    "x eager: that time over the eager reference's.",
    "training": "A step: teacher forward (or TeacherCache), student forward, Eq. 8 (or a part), "
    "backward, SGD. "
    "peak: memory allocated at the highest above what is there between steps (networks, "
    "optimizer, images).",
}
_CUDA_LEGEND = (
    " graph ms: forward and backward replayed in a CUDA graph, the GPU's time alone; % of copy: "
    "the floor over that. host ms: what a call takes the host. launches: kernels, copies and fills."
)
# The objective without a feature loss.
KD = "kd"

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
_PRODUCTS: list[Column] = [
    ("GFLOP/s", lambda v, case: f"{1e-6 * case['flops']['total'] / v['total_ms']['median']:.0f}")
]
_MEMORY: list[Column] = [
    ("peak / gradient", lambda v, case: f"{v['peak_extra_bytes'] / case['gradient_bytes']:.2f}")
]
_HOST: list[Column] = [
    ("forward us", lambda v, case: f"{v['forward_us']['median']:.0f}"),
    ("backward us", lambda v, case: f"{v['backward_us']['median']:.0f}"),
    ("fwd+bwd us (quartiles)", lambda v, case: _spread(v["total_us"], 0)),
    ("x eager", lambda v, case: _number(v["times_eager"], 3)),
]
_TRAINING: list[Column] = [
    ("step ms (quartiles)", lambda v, case: _spread(v["step_ms"], 2)),
    ("images/s", lambda v, case: f"{v['images_per_second']:.0f}"),
    ("over KD alone", lambda v, case: f"{v['step_ms']['median'] - _alone(case):+.2f} ms"),
    ("peak MiB", lambda v, case: f"{v['peak_extra_bytes'] / 2**20:.0f}"),
]


def legend(result: Record) -> str:
    """What the columns of a command's tables are."""
    on_gpu = result["environment"]["device_type"] == "cuda"
    if result["command"] in ("host", "training"):
        return _LEGENDS[result["command"]]
    return _LEGENDS["losses"] + _CUDA_LEGEND * on_gpu


def render_environment(machine: Record) -> str:
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


def render_case(case: Record) -> str:
    """One case of any command: a title, a row a variant, and why a variant has no figures."""
    about = _about(case)
    if case.get("status", "ok") != "ok":
        return "\n\n".join([*about, f"{case['status']}: {case['reason']}"])
    first = "objective" if case["subject"] == "training" else "variant"
    rows = [(v["title"], v, case) for v in case["variants"]]
    notes = [note for variant in case["variants"] for note in _notes(variant)]
    return "\n\n".join(
        [*about, "\n".join(_table(first, rows)), *(["\n".join(notes)] * bool(notes))]
    )


def render_ours(cases: Sequence[Record]) -> str:
    """Our own variants of many cases in one table, a row each."""
    rows = [
        (f"{name(case)}: {variant['title'].removeprefix('amd_fused ')}", variant, case)
        for case in cases
        for variant in case["variants"]
        if not variant["peer"]
    ]
    return "\n".join(_table("amd_fused", rows))


def name(case: Record) -> str:
    """Of a case among others of its subject."""
    return f"{case['shape']}, {case['layout']}, {case['dtype']}"


def digits(value: float) -> str:
    """Three of them, zeros too, and all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".removesuffix(".")


def lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in [header, rule, *rows]
    ]


def _about(case: Record) -> list[str]:
    """The title, and of a loss its floor."""
    if case["subject"] == "host":
        return [f"### host: {case['shape']}"]
    if case["subject"] == "training":
        kind = " x ".join(map(str, case["image"]))
        title = f"### {case['setting']}: {case['batch']} images of {kind}"
        title += ", mixed precision" * case["mixed_precision"]
        return [title + ", channels_last" * case["channels_last"]]
    floor = (
        f"floor {case['floor_ms']['total']:.3f} ms (forward {case['floor_ms']['forward']:.3f}): "
        f"{digits(case['ideal_bytes']['total'] / 1e6)} MB at a copy's "
        f"{case['copy']['bytes_per_second'] / 1e9:.1f} GB/s"
    )
    if case.get("flops"):
        speed = f"{case['product']['flops_per_second'] / 1e9:.0f} GFLOP/s"
        floor += f"; {digits(case['flops']['total'] / 1e9)} GFLOP at torch.mm's {speed}"
    if case.get("note"):
        floor += f". {case['note']}"
    return [f"### {case['subject']}: {name(case)}", floor]


def _columns(named: Sequence[tuple[str, Record, Record]]) -> list[Column]:
    """By what was measured where."""
    cases = [case for *_, case in named]
    by_subject = {"host": _HOST, "training": _TRAINING}
    if cases and cases[0]["subject"] in by_subject:
        return by_subject[cases[0]["subject"]]
    on_gpu = any(variant["graph"] for _, variant, _ in named)
    products = _PRODUCTS if all(case.get("flops") for case in cases) else []
    return [*_TIMES, *(_CUDA if on_gpu else _CPU), *products, *_MEMORY]


def _table(first: str, named: Sequence[tuple[str, Record, Record]]) -> list[str]:
    """A row for each (name, variant, case)."""
    columns = _columns(named)
    rows = [
        (name, *(cell(variant, case) for _, cell in columns))
        if variant["status"] == "ok"
        else (name, variant["status"], *["-"] * (len(columns) - 1))
        for name, variant, case in named
    ]
    return lines((first, *(title for title, _ in columns)), rows)


def _notes(variant: Record) -> list[str]:
    """Why it, or its graph, has no figures."""
    graph = variant.get("graph")
    if variant["status"] != "ok":
        return [f"{variant['title']}: {variant['status']}, {variant['reason']}"]
    if graph and graph["status"] != "ok":
        return [f"{variant['title']}, graph: {graph['status']}, {graph['reason']}"]
    return []


def _spread(ms: Record, places: int | None = None) -> str:
    places = _places(ms["median"]) if places is None else places
    return f"{ms['median']:.{places}f} ({ms['q1']:.{places}f}-{ms['q3']:.{places}f})"


def _ms(value: float) -> str:
    return f"{value:.{_places(value)}f}"


def _places(ms: float) -> int:
    return 2 if ms >= 1 else 3


def _graph_ms(graph: Record) -> str:
    return _spread(graph["total_ms"]) if graph["total_ms"] else graph["status"]


def _percent(times_floor: float | None) -> str:
    return "-" if times_floor is None else f"{100 / times_floor:.0f}"


def _number(value: float | None, places: int = 2) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _alone(case: Record) -> float:
    """Milliseconds of a training step with KD alone."""
    return next(v["step_ms"]["median"] for v in case["variants"] if v["key"] == KD)
