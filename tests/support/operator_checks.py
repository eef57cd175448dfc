"""torch.library.opcheck in two parts: what it sees in a call, and in a trace with symbolic shapes.

The trace takes nine tenths of the time, and goes through schema, autograd and fake kernel, which
backends, dtypes and layouts of an operator share: `make test` traces each test's first case.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

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
