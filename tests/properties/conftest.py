"""How many examples a property is tried on: a bounded number, or many (marker ``exhaustive``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

hypothesis = pytest.importorskip("hypothesis")

# Examples follow from the code alone, so that a failure is there on the next run too.
BOUNDED, EXHAUSTIVE = 60, 500
_SETTINGS = hypothesis.settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile("bounded", _SETTINGS, max_examples=BOUNDED)
hypothesis.settings.register_profile("exhaustive", _SETTINGS, max_examples=EXHAUSTIVE)


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread: None) -> None:
    """What is drawn is small."""


@pytest.fixture(params=["bounded", pytest.param("exhaustive", marks=pytest.mark.exhaustive)])
def holds(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``holds(property, strategy, share=1.0)``: tries a property on drawn cases; the share is for
    what is slow, as kernels in an interpreter."""

    def check(of_case: Callable[[Any], None], strategy: Any, share: float = 1.0) -> None:
        settings = hypothesis.settings.get_profile(request.param)
        count = max(1, int(settings.max_examples * share))
        settings = hypothesis.settings(settings, max_examples=count)
        settings(hypothesis.given(strategy)(of_case))()

    return check
