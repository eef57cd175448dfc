"""SP and RKD on any batch: values pair by pair in Python's floats, gradients against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from drawn import EXTREME, Recipe, breakages, broken, is_finite, recipes, tensor
from hypothesis import strategies as st
from measured import assert_rows_near, compute_eps
from torch import Tensor

from amd_fused import reference, rkd_loss, sp_loss

pytestmark = pytest.mark.filterwarnings("ignore:(sp|rkd)_loss. the gradient is 0")


class Case(NamedTuple):
    batch: int
    widths: tuple[int, int]
    maps: bool
    student: Recipe
    teacher: Recipe
    norm_p: float
    weights: tuple[float, float]
    broken: Any


def cases_of_batches(smallest: int, maps: bool) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        batch=st.integers(smallest, 6),
        widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        maps=st.just(maps),
        student=recipes(4 if maps else 2),
        teacher=recipes(4 if maps else 2),
        norm_p=st.sampled_from([1, 2, 3.5]),
        weights=st.sampled_from([(25.0, 50.0), (1.0, 0.0), (0.0, 2.0)]),
        broken=breakages,
    )


def pair_of(case: Case) -> tuple[Tensor, Tensor]:
    tail = (2, 3) if case.maps else ()
    pair = (
        tensor(case.student, (case.batch, case.widths[0], *tail)),
        tensor(case.teacher, (case.batch, case.widths[1], *tail)),
    )
    return pair if case.broken is None else broken(pair, case.broken)


def run(
    loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, *options: float
) -> list[Tensor]:
    leaves = [a.detach().requires_grad_() for a in (student, teacher)]
    value = loss(*leaves, *options)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def rows(a: Tensor) -> list[list[float]]:
    return a.double().flatten(1).tolist()


def dot(x: list[float], y: list[float]) -> float:
    return math.fsum(u * v for u, v in zip(x, y, strict=True))


def alike(x: list[list[float]], p: float) -> list[list[float]]:
    """Rows of inner products, each of p-norm 1; 0 for a sample of zeros."""
    unit = []
    for one in x:
        gram = [dot(one, other) for other in x]
        largest = max(map(abs, gram))
        if largest == 0:
            unit.append(gram)
            continue
        norm = largest * math.fsum((abs(g) / largest) ** p for g in gram) ** (1 / p)
        unit.append([g / max(norm, 1e-12) for g in gram])
    return unit


def test_sp_is_its_formula_or_not_finite(holds: Callable[..., None]) -> None:
    def check(case: Case) -> None:
        student, teacher = pair_of(case)
        value, *grads = run(sp_loss, student, teacher, case.norm_p)
        if not is_finite(student, teacher):
            assert not value.isfinite()
            return
        if not value.isfinite():
            assert {case.student.values, case.teacher.values} & EXTREME.keys()
            return  # heard
        double = torch.float64 in (student.dtype, teacher.dtype)
        dtype = torch.float64 if double else torch.float32
        # A sample whose square is below the range of the sums counts as zeros.
        wide = [
            a.double() * (a.to(dtype).flatten(1).square().sum(1) > 0).view(-1, *[1] * (a.ndim - 1))
            for a in (student, teacher)
        ]
        sides = [alike(rows(a), case.norm_p) for a in wide]
        exact = sum(
            (sides[0][i][j] - sides[1][i][j]) ** 2 for i, j in product(range(case.batch), repeat=2)
        )
        # A row is as wrong as its products cancel, beside what is left of them.
        eps, wrong = compute_eps(student, teacher), 0.0
        for a in wide:
            x = a.flatten(1)
            lengths, left = x.norm(dim=1), (x @ x.T).norm(dim=1)
            ratio = lengths * lengths.max() / torch.where(left == 0, torch.inf, left)
            wrong = max(wrong, 50 * eps * float(ratio.max()))
        root = math.sqrt(exact / case.batch**2)
        assert abs(math.sqrt(max(float(value), 0.0)) - root) <= 1e-4 * root + wrong, case
        exact_run = run(_sp_reference(case.norm_p), *wide)
        size = [
            20 * wrong / torch.where(n == 0, torch.inf, n)
            for n in (a.flatten(1).norm(dim=1) for a in wide)
        ]
        for found, true, allowed in zip(grads, exact_run[1:], size, strict=True):
            assert_rows_near(found, true, allowed.max().item(), case)

    holds(check, cases_of_batches(1, maps=True))


def _sp_reference(norm_p: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda s, t: reference.sp_loss(s, t, norm_p=norm_p)


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def relations(x: list[list[float]]) -> tuple[list[float], list[float]]:
    batch = range(len(x))
    apart = {(i, j): [b - a for a, b in zip(x[i], x[j], strict=True)] for i in batch for j in batch}
    distance = {key: math.hypot(*d) for key, d in apart.items()}
    real = [d for d in distance.values() if d > 0]
    mean = math.fsum(real) / len(real) if real else 1.0
    unit = {
        key: [u / distance[key] for u in d] if distance[key] else [0.0 for _ in d]
        for key, d in apart.items()
    }
    cosines = [dot(unit[i, j], unit[i, k]) for i in batch for j in batch for k in batch]
    return [d / mean for d in distance.values()], cosines


def test_rkd_is_its_formula_everywhere(holds: Callable[..., None]) -> None:
    def check(case: Case) -> None:
        student, teacher = pair_of(case)
        value, *grads = run(rkd_loss, student, teacher, *case.weights)
        if not is_finite(student, teacher):
            assert not value.isfinite()
            return
        sides = [relations(rows(a)) for a in (student, teacher)]
        exact = 0.0
        for weight, of_s, of_t in zip(case.weights, *sides, strict=True):
            terms = [huber(s - t) for s, t in zip(of_s, of_t, strict=True)]
            exact += weight * math.fsum(terms) / len(terms)
        assert float(value) == pytest.approx(exact, rel=1e-5, abs=1e-12 * sum(case.weights)), case
        wide = student.double(), teacher.double()
        _, *true = run(_rkd_reference(case.weights), *wide)
        nearest = [
            torch.where(d == 0, torch.inf, d).min().item()
            for d in (torch.cdist(a.flatten(1), a.flatten(1)) for a in wide)
        ]
        for found, expected, near in zip(grads, true, nearest, strict=True):
            assert_rows_near(found, expected, 1e-9 * sum(case.weights) / near, case)

    holds(check, cases_of_batches(2, maps=False))


def _rkd_reference(weights: tuple[float, float]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda s, t: reference.rkd_loss(
        s, t, distance_weight=weights[0], angle_weight=weights[1]
    )
