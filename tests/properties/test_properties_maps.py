"""AMD and AT on any maps: values against the formula in 30 digits, gradients against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import torch
from drawn import EXTREME, Recipe, as_counted, breakages, broken, is_finite, recipes, tensor
from hypothesis import assume
from hypothesis import strategies as st
from measured import assert_rows_near, compute_eps
from measures import run
from torch import Tensor

from amd_fused import amd_loss, at_loss, reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow):RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:(amd|at)_loss. the gradient is 0"),
]
backends = pytest.mark.parametrize("backend", ["reference", "cpp", "triton"], indirect=True)
SHARE = {"triton": 0.1}


class Case(NamedTuple):
    shape: tuple[int, int, int]  # B, H, W
    channels: tuple[int, int]
    student: Recipe
    teacher: Recipe
    options: dict[str, Any]
    broken: Any
    spread: bool  # an upstream gradient of stride 0


amd_options = st.fixed_dictionaries(
    {
        "margin": st.sampled_from([0.6, 1.35, 3.7, 7.5]),
        "scale": st.sampled_from([0.5, 64.0, 120.0]),
        "local_weight": st.sampled_from([0.0, 0.2, 1.0]),
        "formula": st.sampled_from(["paper", "released"]),
        "component_weights": st.sampled_from([(1.0, 1.0, 1.0), (0.0, 2.0, 0.5), (1.0, 0.0, 0.0)]),
        "mask_threshold": st.sampled_from([None, 0.0, 0.31]),
        "eps": st.sampled_from([1e-6, 0.0, 1.0]),
        "reduction": st.sampled_from(["mean", "batchmean", "none"]),
    }
)
at_options = st.fixed_dictionaries(
    {"p": st.sampled_from([2, 2, 2, 1, 1.5, 3]), "mode": st.sampled_from(["code", "paper"])}
)


def cases_of_maps(options: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
        channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
        student=recipes(4),
        teacher=recipes(4),
        options=options,
        broken=breakages,
        spread=st.booleans(),
    )


def pair_of(case: Case) -> tuple[Tensor, Tensor]:
    (batch, height, width), (c_s, c_t) = case.shape, case.channels
    pair = (
        tensor(case.student, (batch, c_s, height, width)),
        tensor(case.teacher, (batch, c_t, height, width)),
    )
    return pair if case.broken is None else broken(pair, case.broken)


def counted(case: Case, *sides: Tensor) -> list[Tensor]:
    if case.options.get("eps", 0) > 0:  # which is what such maps are divided by
        return [a.double() for a in sides]
    double = any(a.dtype == torch.float64 for a in sides)
    return [as_counted(a, case.options.get("p", 2), double) for a in sides]


def with_gradients(
    loss_fn: Callable[..., Tensor], case: Case, student: Tensor, teacher: Tensor, **options: Any
) -> tuple[Tensor, tuple[Tensor, ...]]:
    if not case.spread:
        return run(loss_fn, student, teacher, **options)
    leaves = [a.detach().requires_grad_() for a in (student, teacher)]
    loss = loss_fn(*leaves, **options)
    upstream = torch.tensor(1.5, dtype=loss.dtype).expand(loss.shape)
    return loss.detach(), torch.autograd.grad(loss, leaves, upstream)


def natural_size(
    loss_fn: Callable[..., Tensor], case: Case, a: Tensor, side: int, **options: Any
) -> Tensor:
    """How large a sample's gradient is where the other side is a map of another kind: what is lost
    of a small difference is a rounding of that."""
    others = [torch.zeros_like(a[:, :1]) for _ in range(2)]
    others[0][..., 0, 0] = 1.0
    others[1][..., -1, -1] = 1.0
    sizes = torch.zeros(len(a), dtype=torch.float64)
    for other in [*others, torch.ones_like(a[:, :1])]:
        pair = (a, other) if side == 0 else (other, a)
        grad = with_gradients(loss_fn, case, *pair, **options)[1][side]
        sizes = torch.maximum(sizes, grad.flatten(1).norm(dim=1))
    return sizes


def check_amd(case: Case, backend: str) -> None:
    options = dict(case.options)
    if min(case.shape[1:]) < 2:
        options["local_weight"] = 0.0
    student, teacher = pair_of(case)
    loss, grads = with_gradients(amd_loss, case, student, teacher, backend=backend, **options)
    if not is_finite(student, teacher):
        assert loss.isnan().any()
        return
    wide = counted(case, student, teacher)
    if options["eps"] == 0:
        # Where one position has all of a map, n = 1 - q is 0, and without eps its rounding stands
        # alone against the floor of its norm.
        f = [a.square().sum(1).flatten(1) for a in wide]
        assume(all((x.amax(1) < (1 - 1e-9) * x.norm(dim=1))[x.any(1)].all() for x in f))
    if options["mask_threshold"]:
        maps = [
            oracle.angular_maps(b.numpy(), 1.0, 1.0, eps=options["eps"])[0:3]
            for a in wide
            for b in a
        ]
        values = np.array([float(n) for m in maps for n in m[2].values()])
        # The threshold is a line that a rounded number may miss.
        assume((abs(values - options["mask_threshold"]) > 1e-5).all())
    compare(case, reference.amd_loss, options, (student, teacher), loss, grads)
    if loss.isfinite().all():
        exact = oracle.amd_loss(*(a.numpy() for a in wide), **options)
        values = [float(x) for x in (exact if isinstance(exact, list) else [exact])]
        assert_distances(case, loss, torch.tensor(values, dtype=torch.float64), student, teacher)


def assert_distances(case: Case, loss: Tensor, exact: Tensor, *sides: Tensor) -> None:
    """Roots of the loss: it is a squared distance, whose smallest digits are those of its root."""
    eps = compute_eps(*sides)
    size = math.prod(case.shape[1:]) if case.options.get("reduction") == "batchmean" else 1
    root, true = loss.double().flatten().clamp(min=0).sqrt(), exact.flatten().sqrt()
    allowed = 1e-4 * true + 200 * eps * size**0.5
    assert ((root - true).abs() <= allowed).all(), f"{case}: {loss} instead of {exact}"


def compare(
    case: Case,
    loss_fn: Callable[..., Tensor],
    options: dict[str, Any],
    sides: tuple[Tensor, Tensor],
    loss: Tensor,
    grads: tuple[Tensor, ...],
) -> None:
    extreme = case.student.values in EXTREME or case.teacher.values in EXTREME
    if extreme and not loss.isfinite().all():
        return  # heard
    wide = counted(case, *sides)
    exact, true = with_gradients(loss_fn, case, *wide, **options)
    assert loss.isfinite().all()
    assert_distances(case, loss, exact, *sides)
    eps = compute_eps(*sides)
    for i, (found, expected) in enumerate(zip(grads, true, strict=True)):
        size = natural_size(loss_fn, case, wide[i], i, **options)
        length = wide[i].flatten(1).norm(dim=1)
        least = (
            20 * eps * (1 + options.get("scale", 0.0)) / torch.where(length == 0, torch.inf, length)
        )
        # What counts as zero has the gradient of noise.
        nothing = (length == 0) & (sides[i].flatten(1) != 0).any(1)
        least = torch.where(nothing, torch.inf, least)
        assert_rows_near(found, expected, 500 * eps * size + least, case)


@backends
def test_amd_is_its_formula_or_not_a_number(backend: str, holds: Callable[..., None]) -> None:
    holds(
        lambda case: check_amd(case, backend), cases_of_maps(amd_options), SHARE.get(backend, 1.0)
    )


def at_formula(a: Tensor, p: float) -> Tensor:
    """The attention map of float64 features, of length 1; 0 of an all-zero map."""
    largest = a.abs().amax((1, 2, 3), keepdim=True)
    a = a / torch.where(largest == 0, 1.0, largest)  # so that no power leaves the range
    f = a.abs().pow(p).sum(1).flatten(1)
    norm = f.norm(dim=1, keepdim=True)
    return f / torch.where(norm == 0, 1.0, norm)


def check_at(case: Case, backend: str) -> None:
    p, mode = case.options["p"], case.options["mode"]
    chosen = backend if p == 2 else "reference"
    student, teacher = pair_of(case)
    loss, grads = with_gradients(at_loss, case, student, teacher, p=p, mode=mode, backend=chosen)
    if not is_finite(student, teacher):
        assert loss.isnan()
        return
    compare(case, reference.at_loss, case.options, (student, teacher), loss, grads)
    if loss.isfinite():
        q_s, q_t = (at_formula(a, p) for a in counted(case, student, teacher))
        squared = (q_s - q_t).square().sum(1).mean()
        exact = squared / q_s.shape[1] if mode == "code" else squared
        assert_distances(case, loss, exact, student, teacher)


@backends
def test_at_is_its_formula_or_not_a_number(backend: str, holds: Callable[..., None]) -> None:
    holds(lambda case: check_at(case, backend), cases_of_maps(at_options), SHARE.get(backend, 1.0))
