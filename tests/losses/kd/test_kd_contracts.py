"""What callers of the KD losses may rely on, whatever the backend: edge cases, dtypes, memory."""

from __future__ import annotations

import math
from typing import Any

import kd_oracle
import pytest
import torch
from kd_oracle import FORMS
from measures import relative_error

from amd_fused import kd_loss, spherical_kd_loss

ALL = ["reference", "cpp", "triton"]
FUSED = ["cpp", "triton"]
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
backends = pytest.mark.parametrize("backend", ALL, indirect=True)
fused = pytest.mark.parametrize("backend", FUSED, indirect=True)


@pytest.mark.parametrize(("norm", "level"), [("l2", 0.0), ("std", 0.0), ("std", 0.1), ("std", 1e4)])
@pytest.mark.parametrize("multiplier", [None, 30.0])
@backends
def test_a_student_without_norm_predicts_evenly_and_has_no_gradient(
    backend: str, multiplier: float | None, norm: str, level: float
) -> None:
    """Equal logits have deviation 0, whatever their mean rounds to; only zeros have length 0."""
    form = {"norm": norm, "multiplier": multiplier}
    teacher = kd_oracle.logits((3, 37))[1]
    result = kd_oracle.run(form, torch.full((3, 37), level), teacher, backend=backend)
    even = kd_oracle.run({}, torch.zeros(3, 37).double(), _rescaled(teacher.double(), **form))
    assert relative_error(result.loss, even.loss) < 1e-6
    assert (result.by_student == 0).all()
    assert result.by_teacher.isfinite().all()


@pytest.mark.parametrize("norm", ["std", "l2"])
@pytest.mark.parametrize("multiplier", [None, 30.0])
@backends
def test_a_teacher_without_norm_predicts_evenly_and_has_no_gradient(
    backend: str, multiplier: float | None, norm: str
) -> None:
    """Its norm as the radius makes the student predict evenly, too."""
    form = {"norm": norm, "multiplier": multiplier}
    student = kd_oracle.logits((3, 37))[0]
    result = kd_oracle.run(form, student, torch.zeros(3, 37), backend=backend)
    assert result.by_teacher.abs().max() < 1e-8  # the reference rounds: p log p - p log q
    if multiplier is None:
        assert result.loss == 0
        assert (result.by_student == 0).all()
    else:
        assert (result.by_teacher == 0).all()
        even = kd_oracle.run({}, _rescaled(student.double(), **form), torch.zeros(3, 37).double())
        assert relative_error(result.loss, even.loss) < 1e-6
        assert result.by_student.norm() > 0


def _rescaled(z: torch.Tensor, norm: str, multiplier: float | None) -> torch.Tensor:
    length = z.std(1, keepdim=True) if norm == "std" else z.norm(dim=1, keepdim=True)
    return z if multiplier is None else z / length * multiplier


@forms
@fused
def test_equal_logits_have_no_loss(backend: str, form: dict[str, Any]) -> None:
    z, _ = kd_oracle.logits((3, 37))
    result = kd_oracle.run(form, z, z.clone(), backend=backend)
    assert result.loss.abs() < 1e-12
    assert result.by_student.abs().max() < 1e-7
    assert result.by_teacher.abs().max() < 1e-7


@backends
def test_logits_of_any_size_are_finite(backend: str) -> None:
    """Exponents are never positive, and shares too small for a float are 0."""
    student = torch.tensor([[1e4, -1e4, 3e4], [1e30, 0.0, -1e30]])
    teacher = torch.tensor([[-3e4, 1e4, 0.0], [0.0, 1e30, 1e30]])
    result = kd_oracle.run({}, student, teacher, backend=backend)
    assert all(x.isfinite().all() for x in result)
    assert result.loss > 0


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
@pytest.mark.parametrize("form", ["std", "std to 2.5", "l2", "l2 to 7"])
@backends
def test_norms_past_the_range_of_the_dtype_are_heard(backend: str, form: str, side: int) -> None:
    logits = kd_oracle.logits((3, 37))
    logits[side][1] *= 1e25
    assert kd_oracle.run(FORMS[form], *logits, backend=backend).loss.isnan()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])  # -Inf masks a class: test_kd_masks.py
@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@forms
@backends
def test_nan_and_inf_reach_the_loss(
    backend: str, form: dict[str, Any], side: int, bad: float
) -> None:
    logits = kd_oracle.logits((3, 37))
    logits[side][1, 36] = bad
    result = kd_oracle.run(form, *logits, backend=backend)
    assert not result.loss.isfinite()
    if math.isnan(bad):
        assert result.by_student[1].isnan().any()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@forms
@fused
def test_nan_reaches_the_loss_from_rows_in_blocks(
    backend: str, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    width = 4099
    if backend == "triton":
        from amd_fused.losses.kd.triton import launcher as kd

        monkeypatch.setattr(kd, "MAX_TILE", dict.fromkeys(kd.MAX_TILE, 8))
        monkeypatch.setattr(kd, "WIDE_TILE", dict.fromkeys(kd.WIDE_TILE, 16))
        width = 67
    for side in (0, 1):
        for bad in (torch.nan, torch.inf):
            logits = kd_oracle.logits((2, width))
            logits[side][1, width - 2] = bad
            assert not kd_oracle.loss_of(form)(*logits, **form, backend=backend).isfinite()


@forms
@fused
def test_gradients_flow_to_whichever_input_requires_one(backend: str, form: dict[str, Any]) -> None:
    z_s, z_t = kd_oracle.logits((3, 21))
    both = kd_oracle.run(form, z_s, z_t, backend=backend)
    loss = kd_oracle.loss_of(form)
    for student, teacher in ((True, False), (False, True), (True, True)):
        leaves = [z_s.clone().requires_grad_(student), z_t.clone().requires_grad_(teacher)]
        loss(*leaves, **form, backend=backend).backward()
        assert (leaves[0].grad is not None) == student
        assert (leaves[1].grad is not None) == teacher
        assert leaves[0].grad is None or torch.equal(leaves[0].grad, both.by_student)
        assert leaves[1].grad is None or torch.equal(leaves[1].grad, both.by_teacher)
    with torch.no_grad():
        assert torch.equal(loss(*leaves, **form, backend=backend), both.loss)
    assert not loss(z_s, z_t, **form, backend=backend).requires_grad


@fused
def test_inputs_are_not_written_to(backend: str) -> None:
    z_s, z_t = kd_oracle.logits((3, 37))
    before = z_s.clone(), z_t.clone()
    kd_oracle.run(FORMS["std to 2.5"], z_s, z_t, backend=backend)
    assert torch.equal(z_s, before[0])
    assert torch.equal(z_t, before[1])


@fused
def test_a_teacher_repeated_without_a_copy(backend: str) -> None:
    z_s, z_t = kd_oracle.logits((4, 37))
    row = z_t[:1]
    result = kd_oracle.run({}, z_s, row.expand(4, 37), backend=backend)
    expected = kd_oracle.run({}, z_s, row.repeat(4, 1), backend=backend)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.by_student, expected.by_student)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtypes", ["float32", "bfloat16", "float16 and float64"])
@fused
def test_every_number_that_is_read_was_written(backend: str, dtypes: str) -> None:
    for form in FORMS.values():
        result = kd_oracle.run(form, *kd_oracle.logits((3, 37), dtypes), backend=backend)
        assert all(x.isfinite().all() for x in result)


@fused
def test_gradient_scaling_happens_before_the_cast_to_half(backend: str) -> None:
    """Gradients of 1e-9 underflow in float16; scaled upstream, as by a GradScaler, they do not."""
    student, teacher = (1e-4 * z for z in kd_oracle.logits((2, 37)))
    student, teacher = student.half().requires_grad_(), teacher.half()
    loss = kd_loss(student, teacher, 1.0, backend=backend) * 2.0**20
    (ours,) = torch.autograd.grad(loss, student)
    exact = kd_oracle.run({}, student.detach().double(), teacher.double(), 1.0)
    assert exact.by_student.abs().max() < 2e-5
    assert relative_error(ours, exact.by_student * 2.0**20) < 2e-2


def test_threads_do_not_change_a_bit() -> None:
    """Rows shared out, and the tiles of a row where there are fewer rows than threads."""
    threads = torch.get_num_threads()
    for shape in ((1, 200_001), (3, 70_001), (300, 401)):
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            logits = kd_oracle.logits(shape)
            results.append(kd_oracle.run(FORMS["std to 2.5"], *logits, backend="cpp"))
        torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_logits_below_float32_need_no_cast_under_autocast() -> None:
    net = torch.nn.Linear(5, 20)
    x, teacher = torch.randn(4, 5), torch.randn(4, 20)
    with torch.autocast("cpu", torch.bfloat16):
        student = net(x)
        losses = [kd_loss(student, teacher), spherical_kd_loss(student, teacher)]
    assert student.dtype == torch.bfloat16
    for loss, form in zip(losses, (FORMS["kd"], FORMS["std"]), strict=True):
        assert loss.dtype == torch.float32
        exact = kd_oracle.run(form, student.detach().double(), teacher.double())
        assert relative_error(loss.detach(), exact.loss) < 2e-6
    sum(losses).backward()
    assert net.weight.grad is not None
    assert net.weight.grad.norm() > 0
