"""The fused kernels are as accurate as eager PyTorch, for every option, dtype, layout and odd size.

Claim: its error against float64 is at most eager's own in the same dtype plus a tolerance: rounding
of a few float32 operations (float64 for float64). In half precision both round the gradient to the
same dtype last, so the same tolerance holds there.

The CUDA kernels run on the CPU here, in some milliseconds (tests/cuda_on_host). Triton's run in its
interpreter (conftest.py), a quarter of a second a call: they take every option and dtype, and every
layout, at a few sizes, one for each form of `losses/amd/triton/plan.py`. `make test` has any two of
size, layout and dtype together, and `make test-all` any three; it crosses options with storage
types in the interpreter too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import product
from typing import Any

import cases
import pytest
import torch
from measures import oracle, relative_error, run

from amd_fused import amd_loss, reference

# Beyond eager's own error: (loss, gradient), relative in the L2 norm.
TOLERANCE = {torch.float32: (2e-6, 5e-6), torch.float64: (1e-13, 1e-12)}

# The fixture of this name loads it, or skips where it cannot run.
FUSED = ["cpp", "cuda", "triton"]
FAST = ["cpp", "cuda"]
# The smallest map of the split form, and one that is chunked with the fixture `small_chunks`.
SMALL_SPLIT, SMALL_CHUNKED = (1, 3, 2, 33, 33), (1, 3, 2, 11, 9)


def check(
    backend: str,
    shape: str | tuple[int, ...],
    dtypes: str,
    layout: str,
    options: dict[str, Any],
    seed: int = 0,
) -> None:
    size = cases.SHAPES[shape] if isinstance(shape, str) else shape
    student, teacher = cases.features(size, cases.DTYPES[dtypes], layout, seed)
    exact = oracle(student, teacher, **options)
    eager = run(reference.amd_loss, student, teacher, **options)
    fused = run(functools.partial(amd_loss, backend=backend), student, teacher, **options)

    computed_in = reference.compute_dtype([student, teacher])
    assert fused.loss.dtype == eager.loss.dtype == computed_in
    loss_tolerance, grad_tolerance = TOLERANCE[computed_in]
    eager_error = relative_error(eager.loss, exact.loss)
    assert relative_error(fused.loss, exact.loss) <= eager_error + loss_tolerance
    for leaf, ours, theirs, truth in zip(
        (student, teacher), fused.grads, eager.grads, exact.grads, strict=True
    ):
        assert ours.dtype == leaf.dtype
        assert ours.shape == leaf.shape
        eager_error = relative_error(theirs, truth)
        assert relative_error(ours, truth) <= eager_error + grad_tolerance


def of_option_and_dtype(backend: str, dtypes: str, option: str) -> Any:
    """In the interpreter, options meet single precision, those of the series in the margin double
    precision too, and storage types the default."""
    meets = ["float32"] if "margin" not in option else ["float32", "float64"]
    apart = backend == "triton" and option != "default" and dtypes not in meets
    marks = [pytest.mark.exhaustive] if apart else []
    return pytest.param(backend, dtypes, cases.OPTIONS[option], marks=marks)


@pytest.mark.parametrize(
    ("backend", "dtypes", "options"),
    [of_option_and_dtype(*case) for case in product(FUSED, cases.DTYPES, cases.OPTIONS)],
    ids=["-".join(case) for case in product(FUSED, cases.DTYPES, cases.OPTIONS)],
    indirect=["backend"],
)
def test_every_option_in_every_dtype(backend: str, dtypes: str, options: dict[str, Any]) -> None:
    check(backend, "7x7", dtypes, "nchw", options)


# The CUDA kernels take every storage type in these two, in either compute type.
SIZED = {"cpp": list(cases.DTYPES), "cuda": ["float32 and bfloat16", "float16 and float64"]}


def of_size_layout_and_dtype() -> Iterator[Any]:
    """One dtype after the other along the diagonals of sizes and layouts; the others exhaustive."""
    for backend, dtypes in SIZED.items():
        for (i, shape), (j, layout), (k, name) in product(
            enumerate(cases.SHAPES), enumerate(cases.LAYOUTS), enumerate(dtypes)
        ):
            marks = [] if (i + j) % len(dtypes) == k else [pytest.mark.exhaustive]
            case = (backend, shape, layout, name)
            yield pytest.param(*case, marks=marks, id="-".join(case))


@pytest.mark.parametrize(
    ("backend", "shape", "layout", "dtypes"), list(of_size_layout_and_dtype()), indirect=["backend"]
)
def test_every_layout_of_every_size(backend: str, shape: str, layout: str, dtypes: str) -> None:
    check(backend, shape, dtypes, layout, {})


def of_layout_and_dtype() -> Iterator[Any]:
    """In the interpreter every layout and every dtype once; what else they meet is exhaustive."""
    for backend, (i, layout), (j, dtypes) in product(
        ("cuda", "triton"), enumerate(cases.LAYOUTS), enumerate(cases.DTYPES)
    ):
        apart = backend == "triton" and i % len(cases.DTYPES) != j
        marks = [pytest.mark.exhaustive] if apart else []
        case = (backend, layout, dtypes)
        yield pytest.param(*case, marks=marks, id="-".join(case))


@pytest.mark.parametrize(
    ("backend", "layout", "dtypes"), list(of_layout_and_dtype()), indirect=["backend"]
)
def test_every_layout_in_every_dtype(backend: str, layout: str, dtypes: str) -> None:
    check(backend, "3x5", dtypes, layout, {})


def of_size_and_option() -> Iterator[Any]:
    """On the host, the CUDA kernels take every third option at a size, beginning with another."""
    for backend, (i, shape), (j, option) in product(
        FAST, enumerate(cases.SHAPES), enumerate(cases.OPTIONS)
    ):
        marks = [pytest.mark.exhaustive] if backend == "cuda" and (i + j) % 3 else []
        if shape != "2x2":
            values = (backend, shape, cases.OPTIONS[option])
            yield pytest.param(*values, marks=marks, id=f"{backend}-{shape}-{option}")


@pytest.mark.parametrize(
    ("backend", "shape", "options"), list(of_size_and_option()), indirect=["backend"]
)
def test_every_option_at_every_size(backend: str, shape: str, options: dict[str, Any]) -> None:
    check(backend, shape, "float32", "channels_last", options, seed=1)


RELEASED_AND_MASKED = {"formula": "released", "mask_threshold": 0.5}
# What lasts seconds in the interpreter.
SPLIT, CHUNKED = (
    [pytest.param("cuda", shape), pytest.param("triton", shape, marks=pytest.mark.exhaustive)]
    for shape in ("56x56", "67x131")
)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(
    ("backend", "shape"),
    [*product(("cuda", "triton"), ("7x7", "3x5", SMALL_SPLIT)), *SPLIT, *CHUNKED],
    indirect=["backend"],
    ids=str,
)
def test_every_form(backend: str, shape: str | tuple[int, ...], layout: str) -> None:
    check(backend, shape, "float32", layout, RELEASED_AND_MASKED, seed=1)


@pytest.mark.parametrize("dtypes", ["float64", "float32 and bfloat16"])
@pytest.mark.parametrize(("backend", "shape"), CHUNKED, indirect=["backend"])
def test_chunked_form_in_other_dtypes(backend: str, shape: str, dtypes: str) -> None:
    check(backend, shape, dtypes, "nchw", {"local_weight": 0.0})


@pytest.mark.parametrize(
    ("dtypes", "options"),
    [
        ("float32", RELEASED_AND_MASKED),
        ("float64", {"local_weight": 0.0}),
        ("float32 and bfloat16", {"local_weight": 0.0}),
    ],
)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_chunked_form_of_small_chunks(
    backend: str, layout: str, dtypes: str, options: dict[str, Any], small_chunks: None
) -> None:
    check(backend, SMALL_CHUNKED, dtypes, layout, options, seed=1)


@pytest.mark.filterwarnings("ignore:amd_loss. the gradient is 0 whatever the student does")
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_2x2_map_has_no_local_loss(backend: str) -> None:
    """Every quadrant is one position: its unit vector is its sign, equal on either side."""
    student, teacher = cases.features(cases.SHAPES["2x2"])
    fused = run(amd_loss, student, teacher, local_weight=1.0, backend=backend)
    assert fused.loss == 0
    assert all((grad == 0).all() for grad in fused.grads)


@pytest.mark.filterwarnings("ignore:amd_loss. the gradient is 0 whatever the student does")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_quadrant_of_one_position_below_the_norms_floor_has_a_gradient(
    backend: str, dtype: torch.dtype
) -> None:
    """There |g| = exp(-s (t - n)) is under 1e-12, so g^ = g / 1e-12 is not a sign."""
    # The first position's q of 0.80 and 0.81 have g of about -4e-13 and -7e-14.
    features = torch.tensor([[0.80, 0.59, 0.09, 0.02], [0.81, 0.57, 0.10, 0.06]], dtype=dtype)
    student, teacher = (f.sqrt().reshape(1, 1, 2, 2) for f in features)
    options = {"local_weight": 1.0, "component_weights": (3.0, 0.0, 0.0)}
    exact = oracle(student, teacher, **options)
    (truth, _) = exact.grads
    assert truth.norm() > 0.01
    fused = run(functools.partial(amd_loss, backend=backend), student, teacher, **options)
    # s = 64 turns an error of q by eps into 100 eps of g.
    assert relative_error(fused.grads[0], truth) < 500 * torch.finfo(dtype).eps
    assert relative_error(fused.loss, exact.loss) < 500 * torch.finfo(dtype).eps


@pytest.mark.filterwarnings("ignore:amd_loss. the gradient is 0 whatever the student does")
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_1x1_map_has_no_loss(backend: str) -> None:
    """p and n are unit vectors, exactly 0 apart; g = -exp(-64) is under the norm's floor: 1e-32."""
    student, teacher = cases.features((3, 8, 5, 1, 1))
    fused = run(amd_loss, student, teacher, local_weight=0.0, backend=backend)
    assert 0 <= fused.loss < 1e-30
    assert all((grad.abs() < 1e-30).all() for grad in fused.grads)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(("height", "width"), [(1, 40), (40, 1)])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_one_row_or_one_column(backend: str, height: int, width: int, layout: str) -> None:
    student, teacher = cases.features((3, 8, 5, height, width), layout=layout)
    exact = oracle(student, teacher, local_weight=0.0)
    fused = run(amd_loss, student, teacher, local_weight=0.0, backend=backend)
    assert relative_error(fused.loss, exact.loss) < 2e-6
    assert all(relative_error(g, t) < 5e-6 for g, t in zip(fused.grads, exact.grads, strict=True))


@pytest.mark.parametrize(("backend", "width"), [("cpp", 512), ("cuda", 200)], indirect=["backend"])
def test_large_map(backend: str, width: int) -> None:
    """Up to 262,144 positions: long sums, and many chunks of one sample."""
    student, teacher = cases.features((1, 2, 3, width, width))
    exact = oracle(student, teacher)
    fused = run(amd_loss, student, teacher, backend=backend)
    assert relative_error(fused.loss, exact.loss) < 2e-6
    assert all(relative_error(g, t) < 5e-6 for g, t in zip(fused.grads, exact.grads, strict=True))


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_layers_of_different_sizes_dtypes_and_layouts_in_one_call(backend: str) -> None:
    pairs = [
        cases.features((4, 6, 9, 8, 8)),
        cases.features((4, 12, 5, 7, 5), (torch.bfloat16, torch.float32), "channels_last"),
        cases.features((4, 3, 3, 4, 4), (torch.float16, torch.float16), "window"),
    ]
    students, teachers = [s for s, _ in pairs], [t for _, t in pairs]
    options = {"layer_weights": (1.0, 0.5, 3.0), "local_weight": 0.3}
    exact = oracle(students, teachers, **options)
    eager = run(reference.amd_loss, students, teachers, **options)
    fused = run(amd_loss, students, teachers, **options, backend=backend)
    assert relative_error(fused.loss, exact.loss) < 2e-6
    for ours, theirs, truth in zip(fused.grads, eager.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= relative_error(theirs, truth) + 5e-6


@pytest.mark.parametrize("backend", FAST, indirect=True)
def test_nearly_equal_maps_lose_no_more_digits_than_eager(backend: str) -> None:
    """A trained student: D_x is a small difference of large numbers, 2 - 2 cos would be noise.

    x^ differ in their third digit: rounding, 6e-8 of them, is 6e-5 of the difference.
    """
    student, _ = cases.features((4, 16, 16, 14, 14))
    teacher = student * (1 + 1e-3 * torch.randn(student.shape, generator=torch.manual_seed(3)))
    exact = oracle(student, teacher)
    eager = run(reference.amd_loss, student, teacher)
    fused = run(amd_loss, student, teacher, backend=backend)
    assert relative_error(fused.loss, exact.loss) <= relative_error(eager.loss, exact.loss) + 1e-4
    for ours, theirs, truth in zip(fused.grads, eager.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= relative_error(theirs, truth) + 1e-4


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_angles_near_zero(backend: str) -> None:
    """One bright position: q is 1 to rounding there, where autograd through acos gives NaN."""
    student, teacher = cases.features((2, 4, 4, 6, 6))
    student[:, :, 2, 3] *= 1e3
    teacher[:, :, 2, 3] *= 1e3
    exact = oracle(student, teacher)
    eager = run(reference.amd_loss, student, teacher)
    fused = run(amd_loss, student, teacher, backend=backend)
    assert relative_error(fused.loss, exact.loss) <= relative_error(eager.loss, exact.loss) + 2e-6
    for ours, theirs, truth in zip(fused.grads, eager.grads, exact.grads, strict=True):
        assert relative_error(ours, truth) <= relative_error(theirs, truth) + 5e-6


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_gradcheck_in_float64(backend: str, released: bool) -> None:
    student, teacher = cases.features((2, 2, 1, 3, 4), (torch.float64, torch.float64))
    formula = "released" if released else "paper"
    assert torch.autograd.gradcheck(
        lambda s, t: amd_loss(s, t, formula=formula, reduction="none", backend=backend),
        (student.requires_grad_(), teacher.requires_grad_()),
        fast_mode=backend == "triton",  # one random direction: the interpreter is slow
    )
