"""afds_loss and its gradients are the formula's in every backend, dtype, layout and size.

Claim: the error against float64 is at most eager PyTorch's own in the same dtype plus a few
roundings.
"""

from __future__ import annotations

import cases
import pytest
import torch
from afds_oracle import Inputs, inputs, oracle, run
from exhaustive import every_size
from measures import relative_error

from amd_fused import afds_loss, reference

FUSED = ["cpp", "triton", "cuda"]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)
with_reference = pytest.mark.parametrize("backend", ["reference", *FUSED], indirect=True)
# 56x56 and more: the Jacobians of the oracle are as large as the map squared.
SMALL = [name for name in cases.SHAPES if name not in ("56x56", "67x131")]


def check(backend: str, given: Inputs, exact: list[torch.Tensor], eps: float = 1e-6) -> None:
    eager, ours = run("reference", given, eps=eps), run(backend, given, eps=eps)
    rounding = torch.finfo(reference.compute_dtype(given[:2])).eps
    assert ours[0].dtype == eager[0].dtype
    for value, same, truth in zip(ours, eager, exact, strict=True):
        assert (value.dtype, value.shape) == (same.dtype, same.shape)
        assert relative_error(value, truth) <= 1.5 * relative_error(same, truth) + 4 * rounding


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@every_size(FUSED, SMALL)
def test_is_the_formula_for_every_size(backend: str, shape: str, layout: str) -> None:
    given = inputs(shape, layout=layout)
    check(backend, given, oracle(given))


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("shape", ["56x56", "67x131"])
@every_backend
def test_channels_of_several_tiles(backend: str, shape: str, layout: str) -> None:
    """Held against the reference in float64, which the other tests hold against the formula."""
    given = inputs(shape, layout=layout)
    exact = run("reference", Inputs(*(a.double() for a in given)))
    check(backend, given, exact)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtypes", cases.DTYPES)
@every_backend
def test_is_the_formula_for_every_dtype_and_layout(backend: str, dtypes: str, layout: str) -> None:
    given = inputs("7x7", dtypes, layout)
    check(backend, given, oracle(given))


@pytest.mark.parametrize("sides", [("nchw", "channels_last"), ("channels_last", "window")])
@pytest.mark.parametrize("dtypes", ["float32", "float32 and bfloat16"])
@every_backend
def test_sides_of_different_layouts(backend: str, dtypes: str, sides: tuple[str, str]) -> None:
    given = inputs("9x4", dtypes)
    student, teacher = (
        cases.LAYOUTS[layout](a) for layout, a in zip(sides, given[:2], strict=True)
    )
    mixed = given._replace(student=student, teacher=teacher)
    check(backend, mixed, oracle(given))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(("height", "width"), [(1, 40), (40, 1)])
@every_backend
def test_maps_of_one_row_or_column(backend: str, height: int, width: int, layout: str) -> None:
    given = Inputs(*cases.features((3, 5, 5, height, width), layout=layout), torch.ones(3, 5))
    check(backend, given, oracle(given))


@every_backend
def test_one_position_has_a_sign_and_no_gradient_but_rounding(backend: str) -> None:
    given = Inputs(*cases.features((3, 5, 5, 1, 1)), torch.ones(3, 5))
    ours, exact = run(backend, given), oracle(given)
    assert relative_error(ours[0], exact[0]) < 1e-6
    for a, grad, truth in zip(given[:2], ours[1:3], exact[1:3], strict=True):
        assert float(((grad - truth) * a).abs().max()) < 1e-6


@pytest.mark.parametrize("dtypes", ["float32", "float64"])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
@every_backend
def test_eps_keeps_its_digits(backend: str, dtypes: str, eps: float) -> None:
    given = inputs("3x5", dtypes)
    check(backend, given, oracle(given, eps), eps)


@with_reference
def test_any_eps_is_a_number(backend: str) -> None:
    for eps, expected in ((1e308, 0.0), (1e-320, None)):
        loss = run(backend, inputs("3x5"), eps=eps)[0]
        assert loss.isfinite()
        assert expected is None or loss == expected


@every_backend
def test_channels_that_almost_agree_keep_the_digits_of_their_distance(backend: str) -> None:
    """As the differences of two sums nothing of it would be left."""
    given = inputs("7x7")
    student = given.teacher * (1 + 1e-4 * torch.randn(given.teacher.shape))
    given = given._replace(student=student)
    for value, exact in zip(run(backend, given), oracle(given), strict=True):
        assert relative_error(value, exact) < 1e-3


@with_reference
def test_a_channel_that_is_off_has_no_gradient(backend: str) -> None:
    given = inputs("7x7")
    _, by_s, by_t, _ = run(backend, given)
    assert not by_s[0, 1].any()
    assert not by_t[-1, 2].any()
    assert by_s[0, 2].any()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 3e19])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@with_reference
def test_nan_inf_and_norms_out_of_range_reach_the_loss(
    backend: str, layout: str, bad: float
) -> None:
    for side in (0, 1):
        given = inputs("7x7", layout=layout)
        given[side][1, 3, 2, 6] = bad
        assert afds_loss(*given, backend=backend).isnan()


@every_backend
def test_layers_are_averaged_with_their_weights(backend: str) -> None:
    given = [inputs("3x5"), inputs("3x5", "float64")]
    layers = [list(side) for side in zip(*given, strict=True)]
    weights = [0.5, 3.0]
    exact = sum(w * oracle(layer)[0] for w, layer in zip(weights, given, strict=True)) / 2
    loss = afds_loss(*layers, layer_weights=weights, backend=backend)
    assert loss.dtype == torch.float64
    assert relative_error(loss, exact) < 1e-6
