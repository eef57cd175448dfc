"""How pictures look: a line, colour and marker a method, the same in every picture."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from amd_fused.distill.methods import BUILT_IN
from amd_fused.distill.methods.term import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Look,
)

DPI = 110
_PANEL = (2.75, 2.5)  # inches
_COLUMNS = 4
_TICKS = (*range(0, 100, 10), 85, 93, 95, 96, 97, 98, 99, 99.5, 100)


_OWN = {"teacher": Look(BLACK, "--", "*")}
_OWN |= {term.key: term.look for term in BUILT_IN if term.look is not None}
# Colours and dashes that no method above has together; markers take turns.
_FREE = [
    (colour, line)
    for line, colour in product(
        ("-", ":", "-.", "--"),
        (SKY, BLACK, RED, GREEN, ORANGE, PURPLE, BLUE, GREY),
    )
    if (colour, line) not in {(look.colour, look.line) for look in _OWN.values()}
]
_OTHERS = [Look(*pair, marker) for pair, marker in zip(_FREE, cycle("><XH"), strict=False)]


def own_look(key: str) -> Look:
    """Of a built-in method or the teacher."""
    return _OWN[key]


def looks(groups: Iterable[tuple[str, str]]) -> dict[str, Look]:
    """By name, for groups given as (key, name): a method's own look to its first group, and to
    sums of methods and further settings what is left."""
    found: dict[str, Look] = {}
    for key, name in groups:
        look = _OWN.get(key)
        if look is None or look in found.values():
            left = [other for other in _OTHERS if other not in found.values()]
            look = left[0] if left else _OTHERS[len(found) % len(_OTHERS)]
        found[name] = look
    return found


def panels(
    count: int, *, height: float = _PANEL[1], columns: int = _COLUMNS, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of one size, up to `columns` in a row, their x scale shared."""
    across = min(count, columns)
    down = -(-count // across)
    # A single panel is drawn larger.
    width = {1: 6.0, 2: 4.2, 3: 3.4}.get(across, _PANEL[0])
    tall = 3.4 if count == 1 else height
    figure = Figure(figsize=(across * width, down * tall), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=share_y, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    used = list(grid[:count])
    for axes in used:
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=9)
    # Below a panel that is not drawn, the last one of a column still needs its numbers.
    for axes in used[-across:]:
        axes.tick_params(labelbottom=True)
    return figure, used


def title(axes: Axes, text: str, width: int = 30) -> None:
    axes.set_title(textwrap.fill(text, width), fontsize=10)


def epoch_axis(axes: Axes) -> None:
    """Whole epochs only."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))


def accuracy_axis(axes: Axes, values: Iterable[float]) -> None:
    """Logarithmic in the error, which spreads out the last percent, where methods differ."""
    above = 100.5  # finite at 100 %

    def forward(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.log(np.maximum(above - accuracy, 1e-3))

    def inverse(height: NDArray[np.float64]) -> NDArray[np.float64]:
        return above - np.exp(-height)

    known = np.array(list(values), dtype=float)
    known = np.array([0.0, 100.0]) if known.size == 0 else known
    low, high = forward(known.min()), forward(known.max())
    margin = max(0.06 * float(high - low), 0.02)
    bottom = max(0.0, float(inverse(low - margin)))
    top = min(100.2, float(inverse(high + margin)))
    axes.set_yscale("function", functions=(forward, inverse))
    # From the top down: those high up matter most, and crowd out others that are too close.
    ticks: list[float] = []
    candidates = sorted((tick for tick in _TICKS if bottom <= tick <= top), reverse=True)
    if len(candidates) < 3:
        candidates = list(np.round(np.linspace(min(top, 100.0), bottom, 5), 1))
    room = 0.11 * float(forward(np.array(top)) - forward(np.array(bottom)))
    for tick in candidates:
        if not ticks or float(forward(np.array(ticks[-1])) - forward(np.array(tick))) >= room:
            ticks.append(tick)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.minorticks_off()
    axes.set_ylim(bottom, top)


def legend_below(figure: Figure, handles: Sequence[Any], *, columns: int = 4) -> None:
    """One legend for all panels."""
    figure.legend(
        handles,
        [textwrap.fill(str(handle.get_label()), 34) for handle in handles],
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=9.5,
    )


def png(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    return drawn.getvalue()
