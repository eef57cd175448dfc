"""Collects these tests where there is a GPU, and in the dry form what needs none.

Elsewhere nothing of this folder is collected: `make test` has the same claims checked in Triton's
interpreter, and `make gpu` names this folder.
"""

from __future__ import annotations

import pytest
import torch
from on_device import DRY

collect_ignore_glob = [] if DRY or torch.cuda.is_available() else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a GPU; not part of the dry form")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if DRY:
        left_out = [item for item in items if item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
