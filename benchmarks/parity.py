"""Whether a variant is right: what computes something else is not worth timing."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.subject import Case, Inputs, Loss, Variant

# Largest accepted relative error of the loss, and of each layer's gradient in the Euclidean norm,
# against the float64 oracle on the same inputs. Half types: the rounding of the gradient itself.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 5e-3,
}


@dataclass(frozen=True)
class Answer:
    """A loss and its gradients by the student's features."""

    loss: Tensor
    gradients: list[Tensor]


@dataclass(frozen=True)
class Verdict:
    """``status`` is "ok", "refused" (a wrong answer) or "failed" (no answer); ``reason`` says why.

    Errors are relative, and None where the answer is not finite. ``first_call_ms`` includes what
    the variant compiles.
    """

    status: str
    reason: str = ""
    loss_error: float | None = None
    gradient_error: float | None = None
    first_call_ms: float | None = None


def answer(loss: Loss, inputs: Inputs, upstream: float) -> Answer:
    """One forward and backward pass."""
    value = loss(inputs.student, inputs.teacher)
    gradients = torch.autograd.grad(value, inputs.student, torch.full_like(value, upstream))
    return Answer(value.detach(), list(gradients))


def right_answers(case: Case) -> dict[Loss, Answer]:
    """What each oracle of the case says, in float64, on the first set of inputs."""
    inputs = Inputs(
        [a.detach().double().requires_grad_() for a in case.inputs[0].student],
        [a.double() for a in case.inputs[0].teacher],
    )
    oracles = {variant.oracle for variant in case.variants}
    return {oracle: answer(oracle, inputs, case.upstream) for oracle in oracles}


def check(variant: Variant, case: Case, right: Answer) -> Verdict:
    """Runs the variant once on the first set of inputs and compares."""
    start = time.perf_counter()
    try:
        got = answer(variant.loss, case.inputs[0], case.upstream)
    except Exception as error:  # any: a peer may lack a compiler, and the others still count
        first_line = (str(error).strip().splitlines() or [""])[0]
        return Verdict("failed", f"{type(error).__name__}: {first_line}")
    first_call_ms = 1e3 * (time.perf_counter() - start)

    tolerance = TOLERANCE[case.dtype]
    errors = {
        "loss": _relative_error(got.loss, right.loss),
        "gradient": max(map(_relative_error, got.gradients, right.gradients)),
    }
    wrong = [f"{what} off by {error:.2g}" for what, error in errors.items() if error > tolerance]
    reason = f"{' and '.join(wrong)} against float64, tolerance {tolerance:g}"
    return Verdict(
        status="refused" if wrong else "ok",
        reason=reason if wrong else "",
        loss_error=errors["loss"] if math.isfinite(errors["loss"]) else None,
        gradient_error=errors["gradient"] if math.isfinite(errors["gradient"]) else None,
        first_call_ms=first_call_ms,
    )


def _relative_error(got: Tensor, right: Tensor) -> float:
    """Euclidean norm of the difference over that of ``right``; infinite where not comparable."""
    if got.shape != right.shape or not bool(got.isfinite().all()):
        return math.inf
    # Where the right answer is zero, only zero is right.
    difference, size = float((got.double() - right).norm()), float(right.norm())
    if size == 0:
        return math.inf if difference else 0.0
    return difference / size
