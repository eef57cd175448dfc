"""KD and its spherical form on any logits, against the formula in complex float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import kd_oracle
import pytest
import torch
from drawn import EXTREME, ORDINARY, Recipe, breakages, broken, is_finite, recipes, tensor
from hypothesis import assume
from hypothesis import strategies as st
from kd_oracle import FORMS
from measured import assert_rows_near, compute_eps
from torch import Tensor

pytestmark = pytest.mark.filterwarnings(
    "ignore:(invalid value|divide by zero|overflow):RuntimeWarning"
)  # numpy, in the interpreter and in the oracle
backends = pytest.mark.parametrize("backend", ["reference", "cpp", "triton"], indirect=True)
SHARE = {"triton": 0.3}


class Case(NamedTuple):
    shape: tuple[int, int]
    student: Recipe
    teacher: Recipe
    temperature: float
    form: str
    broken: Any


cases_of_logits = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 5), st.sampled_from([2, 3, 7, 8, 9, 33, 67])),
    student=recipes(2),
    teacher=recipes(2),
    temperature=st.floats(0.05, 50.0),
    form=st.sampled_from(list(FORMS)),
    broken=breakages,
)


def length(z: Tensor, form: dict[str, Any]) -> Tensor:
    z = z.double()
    if form.get("norm") == "std":
        return z.std(1)
    return z.norm(dim=1)


@backends
def test_value_and_gradients_are_those_of_the_formula_or_the_loss_is_not_finite(
    backend: str, holds: Callable[..., None]
) -> None:
    def check(case: Case) -> None:
        form = FORMS[case.form]
        assume(not (form.get("norm") == "std" and case.shape[1] == 2))
        z_s, z_t = tensor(case.student, case.shape), tensor(case.teacher, case.shape)
        if case.broken is not None:
            z_s, z_t = broken((z_s, z_t), case.broken)
        result = kd_oracle.run(form, z_s, z_t, case.temperature, backend=backend)
        if not is_finite(z_s, z_t):
            masked = case.broken[1] == -torch.inf and not case.broken[2]
            if not masked:
                assert not result.loss.isfinite()
            elif not form:
                assert result.loss.isfinite()
            # A masked class leaves its row no norm, which is heard unless the student has none.
            elif (length(z_s, form) > 1e-11).all():
                assert result.loss.isnan()
            return
        _compare(case, form, z_s, z_t, result)

    holds(check, cases_of_logits, SHARE.get(backend, 1.0))


def _compare(
    case: Case, form: dict[str, Any], z_s: Tensor, z_t: Tensor, result: kd_oracle.Result
) -> None:
    extreme = case.student.values in EXTREME or case.teacher.values in EXTREME
    if extreme and not result.loss.isfinite():
        return  # heard
    scales_s, scales_t = torch.ones(len(z_s)).double(), torch.ones(len(z_t)).double()
    if form:
        lengths = length(z_s, form), length(z_t, form)
        # At its floor a norm counts as 0, which is a line that a rounded one may miss.
        assume(all(((n < 1e-13) | (n > 1e-11)).all() for n in lengths))
        if any((n < 1e-12).any() for n in lengths):
            assert result.loss.isfinite()
            return
        radius = lengths[1] if "multiplier" not in form else form["multiplier"]
        scales_s, scales_t = radius / lengths[0], radius / lengths[1]
    exact = kd_oracle.oracle(form, z_s, z_t, case.temperature)
    tau, batch, eps = case.temperature, len(z_s), compute_eps(z_s, z_t)
    spread = [
        (z.double() - z.double().mean(1, keepdim=True) * bool(form)).abs().amax(1) * scale / tau
        for z, scale in ((z_s, scales_s), (z_t, scales_t))
    ]
    # An exponent is wrong by its own rounding, and so, relatively, is a probability.
    wrong = 8 * eps * (1 + torch.maximum(*spread))
    gaps = 1 + spread[0] + spread[1]
    allowed = float((tau**2 * wrong * gaps).mean())
    assert abs(float(result.loss) - float(exact.loss)) <= allowed + 1e-4 * float(exact.loss), case
    each = tau / batch * wrong.clamp(max=2) * case.shape[1] ** 0.5
    assert_rows_near(result.by_student, exact.by_student, each * scales_s * gaps, case)
    assert_rows_near(result.by_teacher, exact.by_teacher, each * scales_t * gaps * 2, case)


@backends
def test_a_row_does_not_change_with_its_neighbours(
    backend: str, holds: Callable[..., None]
) -> None:
    """Each sample's share of the batch's loss is its own loss."""

    def check(case: Case) -> None:
        form = FORMS[case.form]
        assume(not (form.get("norm") == "std" and case.shape[1] == 2))
        z_s, z_t = tensor(case.student, case.shape), tensor(case.teacher, case.shape)
        together = kd_oracle.run(form, z_s, z_t, case.temperature, backend=backend)
        alone = [
            kd_oracle.run(form, z_s[b : b + 1], z_t[b : b + 1], case.temperature, backend=backend)
            for b in range(len(z_s))
        ]
        mean = sum(float(r.loss) for r in alone) / len(alone)
        size = max(10.0, float(z_s.abs().max()), float(z_t.abs().max()))
        rounded = 1e-6 * (case.temperature**2 + case.temperature * size)
        assert float(together.loss) == pytest.approx(mean, rel=1e-4, abs=rounded, nan_ok=True)

    holds(check, cases_of_logits, 0.3 * SHARE.get(backend, 1.0))


class DenseCase(NamedTuple):
    shape: tuple[int, int, int]
    student: Recipe
    teacher: Recipe
    labels: int
    form: str


dense_cases = st.builds(
    DenseCase,
    shape=st.tuples(st.integers(1, 3), st.sampled_from([3, 5, 9, 33]), st.integers(1, 19)),
    student=recipes(2, ORDINARY),
    teacher=recipes(2, ORDINARY),
    labels=st.integers(0, 9),
    form=st.sampled_from(list(FORMS)),
)


@backends
def test_dense_logits_are_the_rows_of_the_positions_that_count(
    backend: str, holds: Callable[..., None]
) -> None:
    """Whatever the layout; positions that do not count have gradients of exactly 0."""

    def check(case: DenseCase) -> None:
        form, (batch, classes, positions) = FORMS[case.form], case.shape
        dense = [
            tensor(recipe, (batch * positions, classes)).unflatten(0, (batch, positions)).mT
            for recipe in (case.student, case.teacher)
        ]
        if form:
            lengths = [length(z.mT.flatten(0, 1), form) for z in dense]
            assume(all((n > 1e-3).all() for n in lengths))
        generator = torch.Generator().manual_seed(case.labels)
        target = torch.randint(0, 2, (batch, positions), generator=generator) * 7
        on = (target != 7).flatten()
        options = {"target": target, "ignore_index": 7, "backend": backend}
        found = kd_oracle.run(form, *dense, 2.5, **options)
        for gradient in found[1:]:
            assert (gradient.mT.flatten(0, 1)[~on] == 0).all()
        if not on.any():
            assert float(found.loss) == 0
            return
        rows = [z.mT.flatten(0, 1)[on].contiguous() for z in dense]
        expected = kd_oracle.run(form, *rows, 2.5, backend="reference")
        size = 1e-5 * max(10.0, *(float(z.abs().max()) for z in rows)) ** 2
        assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-3, abs=size)
        for a, b in zip(found[1:], expected[1:], strict=True):
            near = a.mT.flatten(0, 1)[on].double() - b.double()
            assert float(near.abs().max()) <= 1e-2 * float(b.abs().max()) + size

    holds(check, dense_cases, 0.3 * SHARE.get(backend, 1.0))
