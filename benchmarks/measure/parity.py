"""Whether a variant is right: what computes something else is not worth timing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.measure.subject import Case, Inputs, Loss, Variant

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
    """``status`` says whether the variant may be timed, ``reason`` why not.

    It is "ok", "refused" (a wrong answer), "failed" (no answer) or "left out" (not asked). Errors
    are relative, and None where the answer is not finite. ``first_call_ms`` includes what
    the variant compiles.
    """

    status: str
    reason: str = ""
    loss_error: float | None = None
    gradient_error: float | None = None
    first_call_ms: float | None = None


def answer(loss: Loss, case: Case, inputs: Inputs) -> Answer:
    """One forward and backward pass."""
    value = loss(*inputs.arguments)
    gradients = torch.autograd.grad(value, inputs.student, case.upstream_of(value))
    return Answer(value.detach(), list(gradients))


def right_answers(case: Case) -> dict[Loss, Answer]:
    """What each oracle of the case says, in float64, on the first set of inputs."""
    inputs = case.inputs[0].in_float64()
    oracles = {variant.oracle for variant in case.variants}
    return {oracle: answer(oracle, case, inputs) for oracle in oracles}


def verdicts(
    case: Case, right: dict[Loss, Answer], refusal: Callable[[Variant], str]
) -> dict[str, Verdict]:
    """Of all variants by key: left out for the reason that ``refusal`` gives, else checked."""
    found = {}
    for variant in case.variants:
        reason = refusal(variant)
        checked = None if reason else check(variant, case, right[variant.oracle])
        found[variant.key] = checked or Verdict("left out", reason)
    return found


def check(variant: Variant, case: Case, right: Answer) -> Verdict:
    """Runs the variant once on the first set of inputs and compares."""
    start = time.perf_counter()
    try:
        got = answer(variant.loss, case, case.inputs[0])
        got.loss.item()  # waits for the device
    except Exception as error:  # any: a peer may lack a compiler, and the others still count
        return Verdict("failed", first_line(error))
    first_call_ms = 1e3 * (time.perf_counter() - start)
    return replace(compare(got, right, TOLERANCE[case.dtype]), first_call_ms=first_call_ms)


def compare(got: Answer, right: Answer, tolerance: float) -> Verdict:
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
    )


def first_line(error: Exception) -> str:
    """Type and first line of the message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _relative_error(got: Tensor, right: Tensor) -> float:
    """Euclidean norm of the difference over that of ``right``; infinite where not comparable."""
    if got.shape != right.shape or not bool(got.isfinite().all()):
        return math.inf
    # Where the right answer is zero, only zero is right.
    difference, size = float((got.double() - right).norm()), float(right.norm())
    if size == 0:
        return math.inf if difference else 0.0
    return difference / size
