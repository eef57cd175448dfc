"""Collects these tests where there is a GPU, and in the dry form what needs none.

Elsewhere nothing of this folder is collected: `make test` has the same claims checked in Triton's
interpreter and by tests/cuda_on_host, and `make gpu` names this folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from on_device import BACKENDS, DRY
from torch import Tensor

from amd_fused import amd_loss, backends

collect_ignore_glob = [] if DRY or torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend of the GPU by name; the test is skipped where it cannot run."""
    if DRY and request.param == "cuda":
        request.getfixturevalue("cuda_on_host")
    elif backends()[request.param] != "usable":
        pytest.skip(f"{request.param} is {backends()[request.param]}")
    return request.param


@pytest.fixture
def amd(backend: str) -> Callable[..., Tensor]:
    """The loss by that backend."""
    return functools.partial(amd_loss, backend=backend)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a GPU; not part of the dry form")
    config.addinivalue_line("markers", "smoke: run before all else")
    config.addinivalue_line("markers", "core: run in the first stage of `make gpu`")
    config.addinivalue_line("markers", "large: takes most of a GPU's memory")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if DRY:
        left_out = [item for item in items if item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
