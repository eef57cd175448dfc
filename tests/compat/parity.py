"""Every loss on every backend that runs here, value and gradient, against float64.

The exact values come from the formulas in tests/support, which share no code with the package.
Those written as loss alone are differentiated by central differences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import afd_oracle
import afds_oracle
import at_oracle
import cases
import crd_oracle
import kd_oracle
import lsh_oracle
import nd_oracle
import numpy as np
import oracle
import rkd_oracle
import sp_oracle
import torch
import trained_oracle
import vid_oracle
from measures import relative_error
from torch import Tensor

import amd_fused

STEP = 1e-5
# Relative, of loss and gradient. Measured: 4e-7 and 3e-7 in float32; in float64 2e-10, which is
# what central differences are good to.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-8}
AMD_FORMS: dict[str, dict[str, Any]] = {
    "amd (g)": {"local_weight": 0.0},
    "amd (g+l)": {},
    "amd masked": {"mask_threshold": 0.5},
    "amd released": {"formula": "released"},
}


class Case(NamedTuple):
    """A loss of a student, what else it takes being bound, and what is right at this student."""

    student: Tensor
    loss: Callable[..., Tensor]  # (student, **options); the other inputs keep their dtype
    backends: tuple[str, ...]  # () where the loss has no such option
    exact_loss: float
    exact_gradient: Tensor  # at the entries `where` of the student
    where: Any = ...


def cases_of(fused: tuple[str, ...]) -> Iterator[tuple[str, Case]]:
    """Each loss by name, with those backends that have it."""
    backends = (*fused, "reference")
    logits = kd_oracle.logits((4, 67))
    for name, form in {"kd": {}, "skd": {"norm": "std"}}.items():
        function = functools.partial(
            kd_oracle.loss_of(form), teacher_logits=logits[1], temperature=2.5, **form
        )
        exact = kd_oracle.oracle(form, *logits, temperature=2.5)
        yield name, Case(logits[0], function, backends, float(exact.loss), exact.by_student)
    nd = nd_oracle.inputs("odd")
    function = functools.partial(
        amd_fused.nd_loss, teacher=nd.teacher, target=nd.target, class_means=nd.class_means
    )
    value, gradient, _ = nd_oracle.oracle(nd)
    yield "nd", Case(nd.student, function, backends, float(value), gradient)
    lsh = lsh_oracle.inputs()
    function = functools.partial(
        amd_fused.lsh_loss, teacher=lsh.teacher, weight=lsh.weight, bias=lsh.bias
    )
    value, gradient, _ = lsh_oracle.oracle(lsh)
    yield "lsh", Case(lsh.student, function, backends, float(value), gradient)
    student, teacher = cases.features(cases.SHAPES["3x5"])
    for name, options in AMD_FORMS.items():
        loss = functools.partial(amd_fused.amd_loss, teacher=teacher, **options)
        yield name, _amd_case(student, teacher, loss, backends, options)
    yield (
        "at",
        _differentiated(
            student,
            functools.partial(amd_fused.at_loss, teacher=teacher),
            backends,
            lambda x: at_oracle.formula([x], [teacher]),
        ),
    )
    yield (
        "sp",
        _differentiated(
            student,
            functools.partial(amd_fused.sp_loss, teacher=teacher),
            (),
            lambda x: sp_oracle.formula(x, teacher),
        ),
    )
    yield (
        "rkd",
        _differentiated(
            student,
            functools.partial(amd_fused.rkd_loss, teacher=teacher),
            (),
            lambda x: rkd_oracle.formula(x, teacher, 25, 50),
        ),
    )
    yield (
        "cc",
        _differentiated(
            lsh.student,
            functools.partial(amd_fused.cc_loss, teacher=lsh.teacher, formula="paper"),
            (),
            lambda x: trained_oracle.cc_paper(x, lsh.teacher),
        ),
    )
    yield from _with_layers(backends)


def _with_layers(backends: tuple[str, ...]) -> Iterator[tuple[str, Case]]:
    """The losses beside whose student there are layers in training, or banks."""
    student, teacher, rho = vid_oracle.inputs("3x5")
    value, gradient, *_ = vid_oracle.oracle([student, teacher, rho])
    function = functools.partial(amd_fused.vid_loss, teacher=teacher, rho=rho, eps=vid_oracle.EPS)
    yield "vid", Case(student, function, backends, float(value), gradient)
    crd = crd_oracle.inputs()
    value, gradient, _ = crd_oracle.oracle(crd)
    others = {name: crd[name] for name in crd if name != "student"}
    function = functools.partial(amd_fused.crd_loss, **others, temperature=0.2)
    yield "crd", Case(crd["student"], function, backends, float(value), gradient)
    afd = afd_oracle.inputs("7x7")
    value, gradient, *_ = afd_oracle.oracle(afd)

    def of_first(a: Tensor, **options: str) -> Tensor:
        return amd_fused.afd_loss([a, afd.students[1]], *afd[1:], **options)

    yield "afd", Case(afd.students[0], of_first, backends, float(value), gradient)
    afds = afds_oracle.inputs("7x7")
    value, gradient, *_ = afds_oracle.oracle(afds)
    function = functools.partial(
        amd_fused.afds_loss, teacher=afds.teacher, importance=afds.importance
    )
    yield "afds", Case(afds.student, function, backends, float(value), gradient)


def error(case: Case, dtype: torch.dtype, **options: str) -> float:
    """The larger of the relative errors of loss and gradient."""
    leaf = case.student.detach().to(dtype).requires_grad_()
    loss = case.loss(leaf, **options)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return max(
        relative_error(loss.detach(), torch.tensor(case.exact_loss, dtype=torch.float64)),
        relative_error(gradient[case.where], case.exact_gradient),
    )


def check(fused: tuple[str, ...]) -> dict[str, float]:
    """The largest error in float32 of each backend, and of the losses that have none.

    Raises:
        AssertionError: an error is beyond TOLERANCE; names loss, backend and dtype.
    """
    largest: dict[str, float] = {}
    for name, case in cases_of(fused):
        for backend in case.backends or ("torch",):
            options = {"backend": backend} if case.backends else {}
            for dtype, tolerance in TOLERANCE.items():
                found = error(case, dtype, **options)
                assert found <= tolerance, (
                    f"{name} on {backend} in {str(dtype).removeprefix('torch.')}: relative error "
                    f"{found:.1e}, allowed {tolerance:.0e}"
                )
                if dtype == torch.float32:
                    largest[backend] = max(found, largest.get(backend, 0.0))
    return largest


def _amd_case(
    student: Tensor,
    teacher: Tensor,
    loss: Callable[..., Tensor],
    backends: tuple[str, ...],
    options: dict[str, Any],
) -> Case:
    """The gradient at every 23rd entry: the oracle works in 30 digits."""
    sides = student.double().numpy(), teacher.double().numpy()
    entries = list(np.ndindex(*student.shape))[::23]
    gradient = oracle.gradient(*sides, entries, **options)
    return Case(
        student,
        loss,
        backends,
        float(oracle.amd_loss(*sides, **options)),
        torch.tensor([gradient[entry] for entry in entries], dtype=torch.float64),
        tuple(torch.tensor(entries).T),
    )


def _differentiated(
    student: Tensor,
    loss: Callable[..., Tensor],
    backends: tuple[str, ...],
    formula: Callable[[Tensor], float],
) -> Case:
    """The gradient by central differences, entry by entry."""
    x = student.double()
    gradient = torch.zeros_like(x)
    for entry in np.ndindex(*x.shape):
        moved = [x.clone(), x.clone()]
        moved[0][entry] += STEP
        moved[1][entry] -= STEP
        gradient[entry] = (formula(moved[0]) - formula(moved[1])) / (2 * STEP)
    return Case(student, loss, backends, float(formula(x)), gradient)
