"""The fused KD kernels are as accurate as eager PyTorch, for every form, dtype, layout and width.

Claim: the error against float64 is at most eager's own in the same dtype plus rounding of a few
operations. Triton's kernels run in its interpreter; limits of kd/triton/launcher.py are lowered so
that small matrices take every path.
"""

from __future__ import annotations

from typing import Any

import cases
import kd_oracle
import pytest
import torch
from embeddings import LAYOUTS
from kd_oracle import FORMS
from measures import relative_error

from amd_fused import SphericalKDLoss, reference, spherical_kd_loss

# Beyond eager's own error: loss and gradient, relative in the L2 norm.
TOLERANCE = {torch.float32: (2e-6, 5e-6), torch.float64: (1e-13, 1e-12)}
FUSED = ["cpp", "triton"]
SHAPES = {
    "one row": (1, 3),
    "three classes": (2, 3),
    "narrow": (3, 5),  # narrower than any vector
    "one vector": (2, 16),
    "CIFAR-100": (5, 100),
    "odd": (4, 67),  # a vector, and a remainder that overlaps it
    "tile": (2, 2048),  # the C++ kernels' tile
    "tiles": (3, 4099),  # two tiles and a remainder of three
    "many samples": (131, 33),  # more than any thread count, not a multiple of one
}

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
dtypes = pytest.mark.parametrize("dtypes", cases.DTYPES)


def check(
    backend: str,
    form: dict[str, Any],
    shape: tuple[int, int],
    dtypes: str = "float32",
    layout: str = "contiguous",
    temperature: float = 2.5,
    more: float = 0.0,
) -> None:
    z_s, z_t = kd_oracle.logits(shape, dtypes, layout)
    if form.get("norm") == "std" and shape[1] == 1:
        return  # an error of its own
    exact = kd_oracle.run(form, z_s.double(), z_t.double(), temperature)
    eager = kd_oracle.run(form, z_s, z_t, temperature)
    fused = kd_oracle.run(form, z_s, z_t, temperature, backend=backend)

    computed_in = reference.compute_dtype([z_s, z_t])
    loss_tolerance, tolerance = TOLERANCE[computed_in]
    assert fused.loss.dtype == eager.loss.dtype == computed_in
    assert fused.loss.shape == ()
    ours, theirs = (relative_error(result.loss, exact.loss) for result in (fused, eager))
    assert ours <= theirs + loss_tolerance
    for z, a, b, truth in zip((z_s, z_t), fused[1:], eager[1:], exact[1:], strict=True):
        assert a.dtype == z.dtype
        assert relative_error(a, truth) <= relative_error(b, truth) + tolerance + more


@forms
@dtypes
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_every_form_in_every_dtype(backend: str, dtypes: str, form: dict[str, Any]) -> None:
    check(backend, form, (3, 67), dtypes)


@pytest.mark.parametrize("layout", LAYOUTS)
@dtypes
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_every_layout_in_every_dtype(backend: str, dtypes: str, layout: str) -> None:
    check(backend, FORMS["std to 2.5"], (3, 37), dtypes, layout)


@forms
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["cpp"], indirect=True)
def test_every_form_at_every_size(backend: str, shape: str, form: dict[str, Any]) -> None:
    check(backend, form, SHAPES[shape])


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["cpp"], indirect=True)
def test_tiles_of_every_layout_and_dtype(backend: str, layout: str, dtypes: str) -> None:
    check(backend, FORMS["std to 2.5"], SHAPES["tiles"], dtypes, layout)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "many samples"])
@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_triton_at_every_size(backend: str, shape: str) -> None:
    check(backend, FORMS["kd"], SHAPES[shape])
    check(backend, FORMS["l2 to 7"], SHAPES[shape])


@forms
@pytest.mark.parametrize("dtypes", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_triton_rows_in_blocks(
    backend: str, form: dict[str, Any], dtypes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole blocks, a remainder, and one row's own maximum in any block."""
    from amd_fused.losses.kd.triton import launcher as kd

    monkeypatch.setattr(kd, "MAX_TILE", dict.fromkeys(kd.MAX_TILE, 8))
    monkeypatch.setattr(kd, "WIDE_TILE", dict.fromkeys(kd.WIDE_TILE, 16))
    monkeypatch.setattr(kd, "BWD_TILE", 16)
    check(backend, form, (5, 67), dtypes)
    check(backend, form, (2, 64), dtypes, "transposed")


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_triton_rows_wider_than_registers(backend: str) -> None:
    check(backend, FORMS["kd"], (1, 9001))


@forms
@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_triton_several_rows_in_a_program(
    backend: str, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from amd_fused.losses.kd.triton import launcher as kd

    monkeypatch.setattr(kd, "MANY_PROGRAMS", 1)
    check(backend, form, (7, 5))
    check(backend, form, (13, 3), layout="transposed")


@pytest.mark.parametrize(("dtypes", "width"), [("float32", 700_001), ("bfloat16", 1_400_011)])
@pytest.mark.parametrize("backend", ["cpp"], indirect=True)
def test_gradients_past_the_caches(backend: str, dtypes: str, width: int) -> None:
    """More than 8 MB of them, with rows that begin anywhere in a vector."""
    check(backend, FORMS["kd"], (3, width), dtypes)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 64.0])
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_temperatures_from_sharp_to_flat(backend: str, temperature: float) -> None:
    """Predictions that hardly differ lose digits in their difference, eager's as well as ours."""
    for form in FORMS.values():
        check(backend, form, (3, 20), temperature=temperature, more=1e-5)


@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_a_teacher_without_doubt_has_no_gradient(backend: str) -> None:
    """p is 1 for one class: its gradient is exactly 0, not a rounding error of the student's
    log-probability."""
    z_s, z_t = kd_oracle.logits((3, 20))[0], 1000 * torch.eye(3, 20)
    assert (kd_oracle.run({}, z_s, z_t, backend=backend).by_teacher == 0).all()


@pytest.mark.parametrize("multiplier", [None, 3.0])
def test_two_classes_of_one_deviation_differ_by_their_order_alone(
    multiplier: float | None,
) -> None:
    """Rescaled to one deviation r, two logits are r / sqrt 2 on either side of some number: no
    student learns from that, and the public functions refuse it."""
    z_s, z_t = torch.tensor([[1.0, 5.0], [4.0, 1.0]]), torch.tensor([[-2.0, 0.0], [0.0, 7.0]])
    form = {"norm": "std", "multiplier": multiplier}
    assert kd_oracle.oracle(form, z_s, z_t).by_student.abs().max() < 1e-12
    with pytest.raises(ValueError, match=r'K >= 3 for norm="std", got .* use norm="l2"'):
        spherical_kd_loss(z_s, z_t, **form)
    with pytest.raises(ValueError, match='K >= 3 for norm="std"'):
        SphericalKDLoss(**form).normalize(z_s, z_t)
    assert spherical_kd_loss(z_s, z_t, norm="l2").isfinite()


@forms
@pytest.mark.parametrize("backend", FUSED, indirect=True)
def test_against_the_formula_itself(backend: str, form: dict[str, Any]) -> None:
    z_s, z_t = kd_oracle.logits((3, 21), "float64")
    exact = kd_oracle.oracle(form, z_s, z_t)
    fused = kd_oracle.run(form, z_s, z_t, backend=backend)
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(fused, exact, strict=True))
