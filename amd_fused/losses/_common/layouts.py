"""Features that are no maps [B, C, H, W] by themselves: tokens, sequences and volumes, as views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from amd_fused.losses._common.value_checks import float_tensor, kind

LAYOUTS = ("NLC", "NCL")


@dataclass(kw_only=True, eq=False)
class LayoutOptions:
    """What the axes of features are. Each loss that takes them documents the three."""

    layout: str | None = None
    prefix_tokens: int = 0
    grid: Sequence[int] | None = None


def check(owner: str, options: LayoutOptions) -> None:
    """Every rule that does not depend on the features."""
    layout, prefix, grid = options.layout, options.prefix_tokens, options.grid
    if layout is not None and (not isinstance(layout, str) or layout not in LAYOUTS):
        raise ValueError(f"{owner}: layout must be None, 'NLC' or 'NCL', got {layout!r}")
    if isinstance(prefix, bool) or not isinstance(prefix, int):
        raise TypeError(f"{owner}: prefix_tokens must be a whole number, got {kind(prefix)}")
    if prefix < 0:
        raise ValueError(f"{owner}: prefix_tokens must be >= 0, got {prefix}")
    if prefix and layout != "NLC":
        raise ValueError(
            f'{owner}: prefix_tokens must be 0 unless layout="NLC", got {prefix} for {layout!r}'
        )
    if grid is None:
        return
    if not isinstance(grid, (list, tuple)) or not all(
        isinstance(size, int) and not isinstance(size, bool) for size in grid
    ):
        raise TypeError(f"{owner}: grid must be None or two whole numbers (H, W), got {grid!r}")
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"{owner}: grid must be two numbers (H, W) >= 1, got {tuple(grid)}")
    if layout is None:
        raise ValueError(
            f'{owner}: grid must come with layout="NLC" or "NCL", got {tuple(grid)} and layout=None'
        )


def check_feature(owner: str, name: str, a: Any) -> None:
    """A dense tensor of a floating dtype with a batch, channels and positions."""
    float_tensor(owner, name, a)
    if a.ndim not in (3, 4, 5):
        raise ValueError(
            f"{owner}: {name} must be [B, C, H, W], [B, C, D, H, W] or, with a layout, [B, N, C] "
            f"or [B, C, L], got {a.ndim}-D: shape {tuple(a.shape)}"
        )
    axes = "BCHW" if a.ndim == 4 else "BCDHW" if a.ndim == 5 else ("B", "axis 1", "axis 2")
    for axis, size in zip(axes, a.shape, strict=True):
        if size < 1:
            raise ValueError(f"{owner}: {name} must have {axis} >= 1, got shape {tuple(a.shape)}")


def as_map(owner: str, name: str, a: Tensor, options: LayoutOptions) -> Tensor:
    """Features as [B, C, H, W]: a view, but of volumes whose strides allow none.

    [B, C, D * H, W] of volumes, [B, C, *grid] of tokens and sequences, else [B, C, L, 1].
    """
    if a.ndim == 4:
        return a
    if a.ndim == 5:
        return a.flatten(2, 3)
    if options.layout is None:
        raise ValueError(
            f'{owner}: {name} is 3-D, and its axes may be either: layout="NLC" says tokens '
            f'[B, N, C], layout="NCL" [B, C, L], got shape {tuple(a.shape)}'
        )
    prefix = options.prefix_tokens
    if prefix >= a.shape[1] and options.layout == "NLC":
        raise ValueError(
            f"{owner}: {name} must have more than prefix_tokens={prefix} tokens, got shape "
            f"{tuple(a.shape)}"
        )
    sequence = a[:, prefix:].transpose(1, 2) if options.layout == "NLC" else a
    if options.grid is None:
        return sequence.unsqueeze(-1)
    height, width = options.grid
    if height * width != sequence.shape[2]:
        left = f" after {prefix} prefix_tokens" if prefix else ""
        raise ValueError(
            f"{owner}: {name} must have {height} x {width} positions, as grid={(height, width)} "
            f"says, got {sequence.shape[2]}{left}: shape {tuple(a.shape)}"
        )
    return sequence.unflatten(2, (height, width))


def positions(a: Tensor, options: LayoutOptions) -> tuple[int, ...]:
    """(H, W) of a grid, (D, H, W) of a volume, (L,) of a sequence or of tokens without a grid."""
    if a.ndim != 3:
        return tuple(a.shape[2:])
    if options.grid is not None:
        return tuple(options.grid)
    return (a.shape[1] - options.prefix_tokens if options.layout == "NLC" else a.shape[2],)
