"""Tensors that hypothesis draws: shapes, strides, dtypes and values that no training loop should
have, and some do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cases
import embeddings
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

DTYPES = {
    "float32": torch.float32, "float64": torch.float64, "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}  # fmt: skip


def _overlapping(a: Tensor) -> Tensor:
    """Rows that begin one number after the other, as windows of a signal do."""
    strides = (1,) * (a.ndim - 1)
    return a.flatten()[: sum(a.shape)].clone().as_strided(a.shape, (*strides, 1))


def _expanded(a: Tensor) -> Tensor:
    """One sample's first channel for all of them: strides 0 and the rest."""
    return a[:, :1].expand(a.shape)


def _repeated(a: Tensor) -> Tensor:
    return a[:1].expand(a.shape)


SHARED: dict[str, Callable[[Tensor], Tensor]] = {
    "overlapping": _overlapping, "expanded": _expanded, "repeated sample": _repeated,
}  # fmt: skip
LAYOUTS = {4: {**cases.LAYOUTS, **SHARED}, 2: {**embeddings.LAYOUTS, **SHARED}}


def _one_hot(noise: Tensor, tiny: float, largest: float) -> Tensor:
    flat = torch.zeros_like(noise).flatten(1)
    return flat.index_fill(1, torch.tensor([flat.shape[1] // 2]), 3.0).view(noise.shape)


def _sizes(noise: Tensor, tiny: float, largest: float) -> Tensor:
    """Either sign, and sizes over six orders of magnitude."""
    generator = torch.Generator().manual_seed(noise.numel())
    exponents = 6 * torch.rand(noise.shape, dtype=noise.dtype, generator=generator) - 4
    return noise.sign() * 10**exponents


# (noise in float64, smallest normal and largest number of the dtype) to values.
ORDINARY: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "normal": lambda noise, tiny, largest: noise,
    "positive": lambda noise, tiny, largest: noise.abs(),
    "half are zero": lambda noise, tiny, largest: noise.relu(),
    "mixed sizes": _sizes,
    "constant": lambda noise, tiny, largest: torch.full_like(noise, 0.7),
    "zero": lambda noise, tiny, largest: torch.zeros_like(noise),
    "one-hot": _one_hot,
}
EXTREME: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "subnormal": lambda noise, tiny, largest: noise * tiny / 4,
    "tiny": lambda noise, tiny, largest: noise * max(tiny, 1e-12),
    "large": lambda noise, tiny, largest: (noise * 1e10).clamp(-largest, largest),
    "huge": lambda noise, tiny, largest: (noise * 1e30).clamp(-largest, largest),
}
VALUES = {**ORDINARY, **EXTREME}


class Recipe(NamedTuple):
    """One tensor, small to print."""

    dtype: str
    layout: str
    values: str
    seed: int


def recipes(ndim: int, values: Any = tuple(VALUES)) -> st.SearchStrategy[Recipe]:
    return st.builds(
        Recipe,
        dtype=st.sampled_from(list(DTYPES)),
        layout=st.sampled_from(list(LAYOUTS[ndim])),
        values=st.sampled_from(list(values)),
        seed=st.integers(0, 9),
    )


def tensor(recipe: Recipe, shape: tuple[int, ...]) -> Tensor:
    dtype = DTYPES[recipe.dtype]
    generator = torch.Generator().manual_seed(recipe.seed)
    noise = torch.randn(shape, dtype=torch.float64, generator=generator)
    # float64 keeps to what the float64 oracle can square twice.
    range_of = torch.finfo(torch.float32 if dtype == torch.float64 else dtype)
    made = VALUES[recipe.values](noise, range_of.tiny, range_of.max).to(dtype)
    return LAYOUTS[len(shape)][recipe.layout](made)


# Where a number is replaced, as a fraction of the tensor, by what; None for nowhere.
breakages = st.none() | st.tuples(
    st.floats(0, 0.999), st.sampled_from([torch.nan, torch.inf, -torch.inf]), st.booleans()
)


def broken(tensors: tuple[Tensor, Tensor], breakage: Any) -> tuple[Tensor, Tensor]:
    """The pair, one number of either replaced (in tensors of their own memory)."""
    place, value, of_student = breakage
    pair = [a.clone() for a in tensors]
    flat = pair[not of_student]
    flat[tuple(int(place * n) for n in flat.shape)] = value
    return pair[0], pair[1]


def as_counted(a: Tensor, p: float, double: bool) -> Tensor:
    """The tensor in float64, samples whose squared attention is below the range of the sums being
    0: that is what they count as."""
    f = a.to(torch.float64 if double else torch.float32).abs().pow(p).flatten(2).sum(1)
    square = f.square().sum(1)
    counts = square > 0
    # In between a sum has a few digits left, which are those of nothing.
    assume(not (counts & (square < 1e6 * torch.finfo(square.dtype).smallest_normal)).any())
    return a.double() * counts.view(-1, *[1] * (a.ndim - 1))


def is_finite(*tensors: Tensor) -> bool:
    return all(bool(a.isfinite().all()) for a in tensors)
