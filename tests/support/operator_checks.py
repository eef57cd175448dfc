"""What is asked of every operator: torch.library.opcheck, and that it compiles to one graph.

Opcheck comes in two parts: what it sees in a call, and in a trace with symbolic shapes. The trace
takes nine tenths of the time, and goes through schema, autograd and fake kernel, which backends,
dtypes and layouts of an operator share: `make test` traces each test's first case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

PARTS = {
    "call": ("test_schema", "test_autograd_registration", "test_faketensor"),
    "trace": ("test_aot_dispatch_dynamic",),
}


def every_part(names: tuple[str, ...], cases: Iterable[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """Cases and a part of opcheck; the backend comes first, by its name."""
    cases = list(cases)
    first, others = cases[:1], cases[1:]
    return pytest.mark.parametrize(
        (*names, "part"),
        [
            *((*case, "call") for case in cases),
            *((*case, "trace") for case in first),
            *(pytest.param(*case, "trace", marks=pytest.mark.exhaustive) for case in others),
        ],
        indirect=["backend"] if "backend" in names else [],
    )


def passes(operator: Any, arguments: tuple[Any, ...], part: str) -> bool:
    results = torch.library.opcheck(operator, arguments, test_utils=PARTS[part])
    return set(results.values()) == {"SUCCESS"}


def assert_compiles(
    function: Callable[..., Tensor],
    compiler: str,
    student: Tensor | Sequence[Tensor],
    *others: Any,
    rtol: float,
    atol: float,
) -> None:
    """To one graph, with the same loss and gradients of the student's features."""
    alone = isinstance(student, Tensor)
    results = []
    for called in (function, torch.compile(function, fullgraph=True, backend=compiler)):
        leaves = [a.detach().requires_grad_() for a in ([student] if alone else student)]
        loss = called(leaves[0] if alone else leaves, *others)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=rtol, atol=atol)
