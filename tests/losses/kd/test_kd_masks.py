"""Classes masked by -Inf: where the teacher masks one, KD is the divergence of the others."""

from __future__ import annotations

from functools import cache

import kd_oracle
import pytest
import torch
from kd_oracle import FORMS
from measures import relative_error

BACKENDS = ("reference", "cpp", "triton")
backends = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
# Less than a vector, several, more than a tile; the oracle takes the square of it, and rows of
# thousands take minutes in the interpreter.
SIZES = [
    (name, width)
    for name in BACKENDS
    for width in (7, 67, 2100)
    if (name, width) != ("triton", 2100)
]
widths = pytest.mark.parametrize(("backend", "width"), SIZES, indirect=["backend"])
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16 and float64": 1e-3, "bfloat16": 2e-2}

pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning"
)  # numpy, in the interpreter


@pytest.fixture
def short_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's rows in blocks, without rows of thousands in its interpreter."""
    kd = pytest.importorskip("amd_fused.losses.kd.triton.launcher")
    monkeypatch.setattr(kd, "MAX_TILE", dict.fromkeys(kd.MAX_TILE, 8))
    monkeypatch.setattr(kd, "WIDE_TILE", dict.fromkeys(kd.WIDE_TILE, 16))


def without(result: kd_oracle.Result, z: torch.Tensor, kept: torch.Tensor) -> kd_oracle.Result:
    """A result of fewer classes, with gradients of 0 for the others."""
    wide = [torch.zeros(z.shape, dtype=torch.float64) for _ in range(2)]
    wide[0][:, kept], wide[1][:, kept] = result.by_student, result.by_teacher
    return kd_oracle.Result(result.loss, *wide)


def check(result: kd_oracle.Result, expected: kd_oracle.Result, tolerance: float) -> None:
    for value, true in zip(result, expected, strict=True):
        assert value.isfinite().all()
        assert relative_error(value, true) < tolerance


@cache
def masked(width: int, dtypes: str) -> tuple[torch.Tensor, torch.Tensor, kd_oracle.Result]:
    """Logits of both sides with three classes masked, and what is right for them."""
    z_s, z_t = kd_oracle.logits((2, width), dtypes)
    kept = torch.ones(width, dtype=torch.bool)
    kept[[0, 3, width - 1]] = False
    expected = without(kd_oracle.oracle({}, z_s[:, kept], z_t[:, kept]), z_s, kept)
    z_s[:, ~kept] = z_t[:, ~kept] = -torch.inf
    return z_s, z_t, expected


@pytest.mark.parametrize(
    ("backend", "width", "dtypes"),
    [
        # More than a tile in one dtype: its oracle takes most of the time.
        pytest.param(
            *size, dtypes, marks=[pytest.mark.exhaustive] * (2100 in size and dtypes != "float32")
        )
        for size in SIZES
        for dtypes in TOLERANCE
    ],
    indirect=["backend"],
)
def test_a_class_masked_on_both_sides_is_left_out(backend: str, width: int, dtypes: str) -> None:
    z_s, z_t, expected = masked(width, dtypes)
    check(kd_oracle.run({}, z_s, z_t, backend=backend), expected, TOLERANCE[dtypes])


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_whole_blocks_of_masked_classes(backend: str, short_tiles: None) -> None:
    """The first blocks have no class that counts: no maximum yet, and nothing to add."""
    z_s, z_t = kd_oracle.logits((2, 67))
    kept = torch.arange(67) >= 40
    expected = without(kd_oracle.oracle({}, z_s[:, kept], z_t[:, kept]), z_s, kept)
    z_s[:, ~kept] = z_t[:, ~kept] = -torch.inf
    check(kd_oracle.run({}, z_s, z_t, backend=backend), expected, 2e-5)


@widths
def test_a_class_that_the_teacher_alone_masks_has_no_share(backend: str, width: int) -> None:
    """tau^2 sum p (log p - log q), p of the teacher's classes; the student's gradient is q - p."""
    z_s, z_t = kd_oracle.logits((3, width))
    z_t[:, [0, width - 2]] = -torch.inf
    log_p, log_q = ((z.double() / 4).log_softmax(1) for z in (z_t, z_s))
    p, q = log_p.exp(), log_q.exp()
    gap = torch.where(p == 0, 0.0, log_p - log_q)
    kl = (p * gap).sum(1, keepdim=True)
    expected = kd_oracle.Result(16 * kl.mean(), 4 / 3 * (q - p), 4 / 3 * p * (gap - kl))
    check(kd_oracle.run({}, z_s, z_t, backend=backend), expected, 2e-5)


@backends
def test_a_class_that_the_student_alone_masks_makes_the_loss_infinite(backend: str) -> None:
    z_s, z_t = kd_oracle.logits((3, 37))
    z_s[1, 5] = -torch.inf
    result = kd_oracle.run({}, z_s, z_t, backend=backend)
    assert result.loss == torch.inf
    expected = kd_oracle.run({}, z_s, z_t).by_student
    assert expected.isfinite().all()
    assert relative_error(result.by_student, expected) < 1e-5


@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
@backends
def test_a_row_without_classes_and_a_nan_beside_a_mask_are_heard(backend: str, side: int) -> None:
    logits = kd_oracle.logits((3, 37))
    logits[side][1] = -torch.inf
    assert kd_oracle.run({}, *logits, backend=backend).loss.isnan()
    z_s, z_t = kd_oracle.logits((3, 37))
    z_t[1, 4] = -torch.inf
    z_s[1, 4] = torch.nan
    result = kd_oracle.run({}, z_s, z_t, backend=backend)
    assert result.loss.isnan()
    assert result.by_student[1].isnan().all()


@pytest.mark.parametrize("form", [name for name in FORMS if name != "kd"])
@backends
def test_a_masked_class_leaves_no_norm(backend: str, form: str) -> None:
    z_s, z_t = kd_oracle.logits((3, 37))
    z_s[1, 5] = z_t[1, 5] = -torch.inf
    assert kd_oracle.run(FORMS[form], z_s, z_t, backend=backend).loss.isnan()
