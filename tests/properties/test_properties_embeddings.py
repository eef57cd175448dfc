"""ND and LSH on any embeddings, against their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from drawn import EXTREME, Recipe, breakages, broken, is_finite, recipes, tensor
from hypothesis import assume
from hypothesis import strategies as st
from measured import assert_rows_near, compute_eps
from torch import Tensor

from amd_fused import lsh_loss, nd_loss

pytestmark = pytest.mark.filterwarnings(
    "ignore:(invalid value|divide by zero|overflow):RuntimeWarning"
)  # numpy, in the interpreter
backends = pytest.mark.parametrize("backend", ["reference", "cpp", "triton"], indirect=True)
SHARE = {"triton": 0.3}
CLASSES = 4


class Case(NamedTuple):
    shape: tuple[int, int]
    student: Recipe
    teacher: Recipe
    hashes: int
    bias: bool
    kind: str
    l2_weight: float
    broken: Any


cases_of_embeddings = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 7, 8, 9, 33])),
    student=recipes(2),
    teacher=recipes(2),
    hashes=st.sampled_from([1, 5, 17]),
    bias=st.booleans(),
    kind=st.sampled_from(["bce", "l2", "l1"]),
    l2_weight=st.sampled_from([0.0, 1.0, 3.0]),
    broken=breakages,
)


def pair_of(case: Case) -> tuple[Tensor, Tensor]:
    pair = tensor(case.student, case.shape), tensor(case.teacher, case.shape)
    return pair if case.broken is None else broken(pair, case.broken)


def run(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> list[Tensor]:
    leaves = [a.detach().requires_grad_() for a in (student, teacher)]
    value = loss(*leaves)
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *grads]


def extreme(case: Case) -> bool:
    return case.student.values in EXTREME or case.teacher.values in EXTREME


def nd_formula(s: Tensor, t: Tensor, e: Tensor) -> Tensor:
    longer = torch.where(s.norm(dim=1) >= t.norm(dim=1), s.norm(dim=1), t.norm(dim=1))
    return (1 - (s * e).sum(1) / longer).mean()


@backends
def test_nd_is_its_formula_or_not_a_number(backend: str, holds: Callable[..., None]) -> None:
    def check(case: Case) -> None:
        student, teacher = pair_of(case)
        generator = torch.Generator().manual_seed(case.student.seed)
        target = torch.randint(CLASSES, case.shape[:1], generator=generator)
        means = torch.randn(CLASSES, case.shape[1], generator=generator)

        def loss(s: Tensor, t: Tensor) -> Tensor:
            return nd_loss(s, t, target, means, backend=backend)

        value, *grads = run(loss, student, teacher)
        if not is_finite(student, teacher):
            assert not value.isfinite()
            return
        if extreme(case) and not value.isfinite():
            return  # heard
        dtype = torch.promote_types(
            torch.promote_types(student.dtype, teacher.dtype), torch.float32
        )
        # A norm whose square is below the range of the sums counts as 0.
        wide = [
            a.double() * (a.to(dtype).square().sum(1, keepdim=True) > 0) for a in (student, teacher)
        ]
        norms = torch.stack([a.norm(dim=1) for a in wide])
        assume((norms.amax(0) > 0).all() or (norms == 0).all())
        if (norms == 0).all():
            assert value == 1
            assert all((g == 0).all() for g in grads)
            return
        assume(((norms[0] - norms[1]).abs() > 1e-5 * norms.amax(0)).all())
        e = F.normalize(means.double())[target]
        exact, *true = run(lambda s, t: nd_formula(s, t, e), *wide)
        eps = compute_eps(student, teacher)
        assert abs(float(value) - float(exact)) <= 100 * eps
        for found, expected in zip(grads, true, strict=True):
            assert_rows_near(found, expected.nan_to_num(), 100 * eps / norms.amax(0), case)

    holds(check, cases_of_embeddings, SHARE.get(backend, 1.0))


@backends
def test_lsh_is_its_formula_or_not_finite(backend: str, holds: Callable[..., None]) -> None:
    def check(case: Case) -> None:
        student, teacher = pair_of(case)
        generator = torch.Generator().manual_seed(case.teacher.seed)
        weight = torch.randn(case.hashes, case.shape[1], generator=generator)
        bias = torch.randn(case.hashes, generator=generator) if case.bias else None

        def loss(s: Tensor, t: Tensor) -> Tensor:
            return lsh_loss(
                s, t, weight, bias, kind=case.kind, l2_weight=case.l2_weight, backend=backend
            )

        value, *grads = run(loss, student, teacher)
        if not is_finite(student, teacher):
            assert not value.isfinite()
            return
        if extreme(case) and not value.isfinite():
            return  # heard
        w, b = weight.double(), None if bias is None else bias.double()

        def formula(s: Tensor, t: Tensor) -> Tensor:
            if case.kind == "bce":
                side = (F.linear(t, w, b) > 0).double()
                of = F.binary_cross_entropy_with_logits(F.linear(s, w, b), side)
            else:
                apart = F.linear(s - t, w)  # exactly 0 where they are equal
                of = (apart.square() if case.kind == "l2" else apart.abs()).mean()
            return of + case.l2_weight * F.mse_loss(s, t)

        wide = student.double(), teacher.double()
        eps = compute_eps(student, teacher)
        # A number on a hyperplane, or two on one place of it, may be rounded to either side.
        on, size = (wide[1], wide[1].abs()) if case.kind == "bce" else (
            wide[0] - wide[1], wide[0].abs() + wide[1].abs())  # fmt: skip
        shift = 0 if b is None or case.kind != "bce" else b
        line = on @ w.T + shift
        # So may a subnormal number, which matrix products may take for 0.
        least = torch.finfo(torch.float32).smallest_normal * case.shape[1]
        unsure = (size @ w.abs().T + abs(shift)) * 50 * eps + least
        assume(case.kind == "l2" or bool(((line.abs() > unsure) | (line == 0)).all()))
        exact, *true = run(formula, *wide)
        scale = float((sum(a.abs() for a in wide) @ w.abs().T).max()) + 1
        rounded = 50 * eps * scale * (1 if case.kind != "l2" else scale)
        rounded += 50 * eps * case.l2_weight * float(sum(a.abs() for a in wide).max()) ** 2
        assert abs(float(value) - float(exact)) <= rounded + 1e-5 * float(exact), case
        size = float(sum(a.abs() for a in wide).max()) * (case.l2_weight + scale)
        allowed = 50 * eps * (size + float(w.abs().sum(0).max()))
        for found, expected in zip(grads, true, strict=True):
            assert_rows_near(found, expected, allowed, case)

    holds(check, cases_of_embeddings, SHARE.get(backend, 1.0))
