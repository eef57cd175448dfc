"""afd_loss, the means that it is made of and their gradients are the formulas' in every backend,
dtype, layout and size.

Claim: the error against float64 is at most eager PyTorch's own in the same dtype plus a few
roundings.
"""

from __future__ import annotations

import cases
import pytest
import torch
from afd_oracle import inputs, oracle, reduce, reduced, run
from exhaustive import every_size
from measures import relative_error
from torch import Tensor

from amd_fused import AFDLoss, afd_loss, reference

FUSED = ["cpp", "triton", "cuda"]
every_backend = pytest.mark.parametrize("backend", FUSED, indirect=True)
with_reference = pytest.mark.parametrize("backend", ["reference", *FUSED], indirect=True)


def check(
    backend: str, ours: list[Tensor], eager: list[Tensor], exact: list[Tensor], rounding: float
) -> None:
    for value, same, truth in zip(ours, eager, exact, strict=True):
        assert (value.dtype, value.shape) == (same.dtype, same.shape)
        assert relative_error(value, truth) <= 1.5 * relative_error(same, truth) + 4 * rounding


def check_reduction(backend: str, a: Tensor) -> None:
    rounding = torch.finfo(reference.compute_dtype([a])).eps
    check(backend, reduce(backend, a), reduce("reference", a), reduced(a), rounding)


def check_loss(backend: str, shape: str, dtypes: str, layout: str) -> None:
    given = inputs(shape, dtypes, layout)
    rounding = torch.finfo(reference.compute_dtype([*given.students, *given.teachers])).eps
    # Torch takes differences of maps, in which each one's last digit counts many times: by how much
    # more, eager's own errors say.
    eager, exact = run("reference", given), oracle(given)
    magnified = max(map(relative_error, eager, exact))
    check(backend, run(backend, given), eager, exact, 4 * rounding + magnified)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@every_size(FUSED, cases.SHAPES)
def test_means_are_the_formulas_for_every_size(backend: str, shape: str, layout: str) -> None:
    for a in cases.features(cases.SHAPES[shape], layout=layout):
        check_reduction(backend, a)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@every_backend
def test_means_are_the_formulas_for_every_dtype_and_layout(
    backend: str, dtype: str, layout: str
) -> None:
    for shape in ("7x7", "many channels"):
        for a in cases.features(cases.SHAPES[shape], cases.DTYPES[dtype], layout):
            check_reduction(backend, a)


# B, C, H, W: sizes of one, positions of several tiles and blocks of them, channels in stripes with
# a remainder, past a block of channels, and shared out over a GPU.
SIZES = [
    (1, 1, 1, 1), (3, 5, 1, 1), (2, 5, 1, 40), (2, 5, 40, 1), (2, 33, 5, 1), (1, 131, 13, 17),
    (1, 3, 33, 65), (1, 16, 33, 64), (2, 530, 3, 3), (1, 1040, 6, 6),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "every second channel"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@every_backend
def test_means_of_uneven_sizes(backend: str, size: tuple[int, ...], layout: str) -> None:
    batch, channels, height, width = size
    a, _ = cases.features((batch, channels, 1, height, width), layout=layout)
    check_reduction(backend, a)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", ["3x5", "2x2", "56x56", "one channel", "many channels"])
@every_backend
def test_is_the_formula_for_odd_sizes(backend: str, shape: str, layout: str) -> None:
    check_loss(backend, shape, "float32", layout)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@pytest.mark.parametrize("dtypes", cases.DTYPES)
@every_backend
def test_is_the_formula_for_every_dtype(backend: str, dtypes: str, layout: str) -> None:
    check_loss(backend, "7x7", dtypes, layout)


@pytest.mark.parametrize("training", [True, False])
@every_backend
def test_module_is_that_of_the_reference(backend: str, training: bool) -> None:
    """Which test_afd_loss.py holds against the formula of its layers."""
    given = inputs("9x4", "float64")
    found = []
    for name in ("reference", backend):
        torch.manual_seed(1)
        criterion = AFDLoss([9, 9], [16, 16], attention_features=8, backend=name).double()
        criterion.train(training)
        leaves = [a.detach().requires_grad_() for a in (*given.students, *given.teachers)]
        loss = criterion(leaves[:2], leaves[2:])
        parameters = [p for p in criterion.parameters() if p.requires_grad]
        found.append([loss.detach(), *torch.autograd.grad(loss, leaves + parameters)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@with_reference
def test_maps_of_zeros_have_no_direction_and_no_gradient(backend: str) -> None:
    given = inputs("7x7")
    _, by_s, _, _, by_t, _ = run(backend, given)
    assert not by_s[0].any()
    assert not by_t[-1].any()
    assert by_s[1].any()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 3e19])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@with_reference
def test_nan_inf_and_norms_out_of_range_reach_the_loss(
    backend: str, layout: str, bad: float
) -> None:
    for side in (0, 1):
        given = inputs("7x7", layout=layout)
        given[side][1][0, 3, 2, 3] = bad
        assert afd_loss(*given, backend=backend).isnan()


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "window"])
@every_backend
def test_what_is_not_finite_stays_where_it_is(backend: str, layout: str) -> None:
    """Neighbours in memory that a vector reads beside a row or pixel do not count."""
    a, _ = cases.features((2, 20, 1, 5, 7), layout=layout)
    a[0, 4, 2, 6] = torch.nan
    a[1, 19, 4, 0] = torch.inf
    of_positions, of_channels, _ = reduce(backend, a)
    assert of_positions.isfinite().sum() == of_positions.numel() - 2
    assert of_channels.isfinite().sum() == of_channels.numel() - 2
    assert of_positions[0, 0, 2, 6].isnan()
    assert of_channels[1, 19].isinf()
