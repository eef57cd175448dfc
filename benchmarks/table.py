"""Result records as Markdown, readable in a terminal too."""

from __future__ import annotations

from typing import Any

LEGEND = (
    "vs eager, vs compile: how many times faster, forward and backward together. "
    "x floor: that time over the time in which a plain copy moves the ideal bytes. "
    "peak / gradient: memory allocated at the highest over the size of the gradients."
)
HEADER = (
    "variant",
    "forward ms",
    "fwd+bwd ms (quartiles)",
    "vs eager",
    "vs compile",
    "x floor",
    "peak / gradient",
)


def render_environment(machine: dict[str, Any]) -> str:
    """The machine, the versions, the commit and the date, in one line."""
    return (
        f"{machine['device']}, {machine['threads']} of {machine['cores']} cores, "
        f"torch {machine['torch']}, amd_fused {machine['amd_fused']}, commit {machine['commit']}, "
        f"{machine['date']}"
    )


def render_case(case: dict[str, Any]) -> str:
    """One case: a title, its floor, a row a variant, and why a variant has no figures."""
    title = f"### {case['subject']}: {case['shape']}, {case['layout']}, {case['dtype']}"
    floor = (
        f"floor {case['floor_ms']['total']:.2f} ms (forward {case['floor_ms']['forward']:.2f}): "
        f"{case['ideal_bytes']['total'] / 1e6:.1f} MB at a copy's "
        f"{case['copy']['bytes_per_second'] / 1e9:.1f} GB/s"
    )
    rows = [HEADER, *(_row(variant, case["gradient_bytes"]) for variant in case["variants"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    head, *body = [_line(row, widths) for row in rows]
    rule = _line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], widths)
    notes = [
        f"{variant['title']}: {variant['status']}, {variant['reason']}"
        for variant in case["variants"]
        if variant["status"] != "ok"
    ]
    return "\n".join([title, "", floor, "", head, rule, *body, *([""] if notes else []), *notes])


def _row(variant: dict[str, Any], gradient_bytes: int) -> tuple[str, ...]:
    if variant["status"] != "ok":
        return (variant["title"], variant["status"], *["-"] * (len(HEADER) - 2))
    total, ratios = variant["total_ms"], variant["ratios"]
    return (
        variant["title"],
        f"{variant['forward_ms']['median']:.2f}",
        f"{total['median']:.2f} ({total['q1']:.2f}-{total['q3']:.2f})",
        _ratio(ratios["speedup_over_eager"]),
        _ratio(ratios["speedup_over_compile"]),
        _ratio(ratios["times_floor"]),
        f"{variant['peak_extra_bytes'] / gradient_bytes:.2f}",
    )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: tuple[str, ...] | list[str], widths: list[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join([first, *rest]) + " |"
