"""Parameters of which several tests leave a part to `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest

# To trace shows what Dynamo and AOTAutograd make of our operators; Inductor compiles the rest.
every_compiler = pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)]
)


def one_backend(backends: Iterable[str]) -> pytest.MarkDecorator:
    """For what backends share, as the layers of a criterion: "cpp" in `make test`."""
    return pytest.mark.parametrize(
        "backend",
        [pytest.param(name, marks=[pytest.mark.exhaustive] * (name != "cpp")) for name in backends],
        indirect=True,
    )


def every_size(backends: Iterable[str], shapes: Iterable[str]) -> pytest.MarkDecorator:
    """Backend and shape; every sample has programs of its own, one by one in the interpreter."""
    return pytest.mark.parametrize(
        ("backend", "shape"),
        [
            pytest.param(
                *case, marks=[pytest.mark.exhaustive] * (case == ("triton", "many samples"))
            )
            for case in product(backends, shapes)
        ],
        indirect=["backend"],
    )
