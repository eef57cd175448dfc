"""Settings of the examples' tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _one_thread_for_training(one_thread: None) -> None:
    """Networks this small train slower on several."""
