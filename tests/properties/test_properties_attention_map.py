"""attention_map of any features is its formula, or beyond the range where that is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from drawn import DTYPES, Recipe, recipes, tensor
from hypothesis import strategies as st

from amd_fused import attention_map

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
backends = pytest.mark.parametrize("backend", ["reference", "cpp", "triton"], indirect=True)
SHARE = {"triton": 0.2}


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    features: Recipe
    dtype: str | None
    spread: bool  # an upstream gradient of stride 0


maps = st.builds(
    Case,
    shape=st.tuples(*[st.integers(1, most) for most in (3, 6, 5, 5)]),
    features=recipes(4),
    dtype=st.none() | st.sampled_from(list(DTYPES)),
    spread=st.booleans(),
)


def check(case: Case, backend: str) -> None:
    features = tensor(case.features, case.shape).requires_grad_()
    dtype = None if case.dtype is None else DTYPES[case.dtype]
    found = attention_map(features, dtype, backend=backend)
    batch, _, height, width = case.shape
    assert found.shape == (batch, 1, height, width)
    in_double = torch.float64 in (dtype, features.dtype)
    computed_in = torch.float64 if in_double else torch.float32
    assert found.dtype == (computed_in if dtype is None else dtype)

    wide = features.detach().double()
    exact = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    # Half of the last digit of the map's dtype, and of the sums a few digits, all within range.
    sums, kept = torch.finfo(computed_in), torch.finfo(found.dtype)
    error = (found.detach().double() - exact).abs()
    held = exact * (kept.eps + 8 * sums.eps) + kept.smallest_normal * kept.eps
    below, past = exact < (sums.tiny / sums.eps) ** 0.5, exact > 0.99 * min(sums.max**0.5, kept.max)
    assert (past | below | (error <= held)).all(), f"{case}: {found} instead of {exact}"
    assert (~below | (found.detach() <= 2 * exact + kept.smallest_normal)).all()

    upstream = torch.tensor(1.5, dtype=found.dtype).expand(found.shape)
    (grad,) = torch.autograd.grad(found, features, upstream if case.spread else upstream.clone())
    assert grad.dtype == features.dtype
    truth = 1.5 * wide / torch.where(exact == 0, 1.0, exact)
    info = torch.finfo(features.dtype)
    off = (grad.double() - truth).abs() > 3 * info.eps + 50 * sums.eps + info.smallest_normal
    assert not (off & ~below & ~past).any(), f"{case}: {grad} instead of {truth}"
    assert not grad[(wide == 0).all(1, keepdim=True).expand_as(grad)].any()


@backends
def test_attention_map_is_its_formula(backend: str, holds: Callable[..., None]) -> None:
    holds(lambda case: check(case, backend), maps, SHARE.get(backend, 1.0))
